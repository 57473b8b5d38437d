"""The numbers a chat shows: the status line after a reply, /stats, and --show-config."""

from __future__ import annotations

from collections.abc import Sequence

from .. import memory
from ..config import XQuantConfig
from ..gguf_header import ModelInfo
from ..kv_cache import CacheSnapshot
from ..stock import StockKV
from .reply import Reply

Rows = list[tuple[str, str]]


def greeting(model: str, cache: CacheSnapshot) -> str:
    """Model, context and cache, for the first line of a chat."""
    return " · ".join(
        (
            model,
            f"context {cache.n_ctx}",
            f"{cache.kind} KV {_mib(cache.bytes_total)} (f16 {_mib(cache.bytes_f16)})",
            f"{cache.true_bits:.2f} true bits",
        )
    )


def larger_than_f16(cache: CacheSnapshot) -> str:
    """What to tell where packing saves nothing or takes more memory than it saves, else ""."""
    if cache.note:
        return f"[{cache.note}]"
    if cache.kind != "packed" or cache.bytes_total <= cache.bytes_f16:
        return ""
    return (
        f"[a packed cache of {cache.n_ctx} tokens takes {_mib(cache.bytes_total)}, f16 only "
        f"{_mib(cache.bytes_f16)}: the newest tokens are in full precision; "
        "use --kv f16, or a longer --ctx]"
    )


def status_line(reply: Reply, cache: CacheSnapshot) -> str:
    """Speed, context used, cache size beside f16's, and true bits, in one line."""
    speed = f"{reply.speed:.1f} tok/s" if reply.speed else f"{reply.tokens} tokens"
    return " · ".join(
        (
            speed,
            f"context {cache.tokens}/{cache.n_ctx}",
            f"KV {_mib(cache.bytes_total)} (f16 {_mib(cache.bytes_f16)})",
            f"{cache.true_bits:.2f} true bits",
        )
    )


def stats(cache: CacheSnapshot, last: Reply | None) -> Rows:
    """All figures of the cache as label and value."""
    share = cache.bytes_total / cache.bytes_f16 if cache.bytes_f16 else 0.0
    rows = [
        ("cache", cache.kind),
        ("context", f"{cache.tokens} of {cache.n_ctx} tokens"),
        ("KV allocated", f"{_mib(cache.bytes_total)}, {share:.1%} of f16"),
        ("  codes", _mib(cache.bytes_codes)),
        ("  scales", _mib(cache.bytes_scales)),
    ]
    if cache.bytes_residual:
        rows.append(("  full precision", _mib(cache.bytes_residual)))
    if cache.bytes_unpacked:
        rows.append(("  not packed", _mib(cache.bytes_unpacked)))
    if cache.bytes_recurrent:
        rows.append(("recurrent states", _mib(cache.bytes_recurrent)))
    if cache.note:
        rows.append(("note", cache.note))
    rows += [
        ("f16 would take", _mib(cache.bytes_f16)),
        ("scratch beside it", _mib(cache.bytes_scratch)),
        ("code bits", f"{cache.code_bits:.3f}"),
        ("true bits", f"{cache.true_bits:.3f}"),
        ("allocated bits", f"{cache.allocated_bits:.3f}"),
        *plan_rows(cache),
    ]
    if cache.config:
        rows.append(("settings", cache.config.replace(",", ", ")))
    if last is not None and last.speed:
        rows.append(("last reply", f"{last.tokens} tokens, {last.speed:.1f} tok/s"))
    return rows


def plan_rows(cache: CacheSnapshot) -> Rows:
    """The layer plan, with neighbours that are alike in one row."""
    groups: list[tuple[int, int, str]] = []
    for layer in cache.layers:
        il, text = layer["il"], _layer_text(layer)
        if groups and groups[-1][2] == text:
            groups[-1] = (groups[-1][0], il, text)
        else:
            groups.append((il, il, text))
    if len(groups) > 8:
        groups = _pairs(groups)
    return [(f"layers {a}-{b}" if a != b else f"layer {a}", text) for a, b, text in groups]


def config_rows(
    name: str, kv: XQuantConfig | StockKV, info: ModelInfo | None, n_ctx: int | None
) -> Rows:
    """Cache settings, and with a model what they cost (an estimate, before loading)."""
    rows = [("kv", name)]
    if isinstance(kv, XQuantConfig):
        rows += [(key, value) for key, _, value in map(_split, kv.to_text().split(","))]
    else:
        rows += [("ggml type", kv.name), ("true bits", f"{kv.true_bits:g}")]
    if info is not None and n_ctx:
        rows += [
            ("model", info.path),
            ("n_ctx", str(n_ctx)),
            ("KV estimate", _estimate(memory.cache_bytes(info, kv, n_ctx))),
            ("f16 would take", _estimate(memory.f16_bytes(info, n_ctx))),
        ]
    return rows


def turns(count: int) -> str:
    """A number of turns in words."""
    return "1 turn" if count == 1 else f"{count} turns"


def shortened(text: str, most: int = 40) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def as_text(rows: Rows) -> str:
    """Rows as aligned plain text."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def _split(pair: str) -> tuple[str, str, str]:
    return pair.partition("=")


def _pairs(groups: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Fold leader/follower alternation, which would otherwise fill one row a layer."""
    merged: list[tuple[int, int, str]] = []
    kinds: list[set[str]] = []
    for first, last, text in groups:
        near = kinds[-1] if kinds else set()
        if merged and (text in near or (len(near) == 1 and "shared" in text)):
            near.add(text)
            merged[-1] = (
                merged[-1][0],
                last,
                " / ".join(sorted(near, key=lambda t: "shared" in t)),
            )
        else:
            merged.append((first, last, text))
            kinds.append({text})
    return merged


def _layer_text(layer: object) -> str:
    assert hasattr(layer, "get")
    parts = []
    for side in ("k", "v"):
        shared = layer.get(f"{side}_leader", -1) >= 0
        bits = f"{layer.get(f'{side}_bits', 16):g}"
        parts.append(f"{side.upper()} {'shared' if shared else bits + ' bits'}")
    return ", ".join(parts) + ("" if layer.get("packed", True) else ", stock")


def _estimate(count: int) -> str:
    return _mib(count) if count else "unknown: the file names no heads"


def _mib(count: int) -> str:
    return f"{count / memory.MIB:.1f} MiB"
