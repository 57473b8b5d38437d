"""``llm.kv_cache``: what the cache holds and what it really costs, read at the moment of asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .gguf_header import ModelInfo
from .stock import StockKV

_MIB = 1024 * 1024
_ALL_WINDOWS = "nothing is packed: every attention layer has a sliding window, which stays in f16"


@dataclass(frozen=True)
class CacheSnapshot:
    """One reading of a cache. All ``bytes_`` fields are bytes allocated, ``_bits`` bits an element.

    Attributes:
        kind: ``"packed"`` or the stock ggml type, for example ``"f16"`` or ``"q8_0"``; ``"none"``
            where a packed cache was asked for and the model has no keys and values to keep.
        tokens: tokens held now. n_ctx: tokens it can hold.
        bytes_codes, bytes_scales: packed payload, and scales with zero points.
        bytes_residual: full-precision pages (window and sink).
        bytes_unpacked: layers this cache leaves in f16, for example sliding windows.
        bytes_scratch: working memory beside the cache, reused by every layer.
        bytes_f16: what llama.cpp's default cache would take at the same ``n_ctx``.
        code_bits: mean code bits. true_bits: with scales, zero points and padding, of
            a packed token. allocated_bits: everything allocated, spread over ``n_ctx``.
        layers: the plan, one mapping a layer.
        config: the settings as text, "" for a stock cache.
        bytes_recurrent: recurrent states beside the cache, which nothing packs.
        note: why nothing was packed, "" if something was.
    """

    kind: str
    tokens: int
    n_ctx: int
    bytes_codes: int
    bytes_scales: int
    bytes_residual: int
    bytes_unpacked: int
    bytes_scratch: int
    bytes_f16: int
    code_bits: float
    true_bits: float
    allocated_bits: float
    layers: tuple[Mapping[str, Any], ...]
    config: str
    bytes_recurrent: int = 0
    note: str = ""

    @property
    def bytes_total(self) -> int:
        """Bytes of the cache itself: everything but ``bytes_scratch`` and ``bytes_recurrent``."""
        return self.bytes_codes + self.bytes_scales + self.bytes_residual + self.bytes_unpacked


class KVCache:
    """Live view of one model's cache; every attribute is read afresh.

    :meth:`snapshot` and :meth:`as_dict` give all figures of one moment.

    Args:
        read: returns the present state; raises XQuantError once the model is closed.
    """

    def __init__(self, read: Callable[[], CacheSnapshot]) -> None:
        self._read = read

    def snapshot(self) -> CacheSnapshot:
        """All figures of one moment."""
        return self._read()

    @property
    def tokens(self) -> int:
        """Tokens held now."""
        return self._read().tokens

    @property
    def n_ctx(self) -> int:
        """Tokens the cache can hold."""
        return self._read().n_ctx

    @property
    def code_bits(self) -> float:
        """Mean code bits of a key or value element."""
        return self._read().code_bits

    @property
    def true_bits(self) -> float:
        """Bits an element of a packed token, with scales, zero points and padding."""
        return self._read().true_bits

    @property
    def allocated_bits(self) -> float:
        """Everything allocated, in bits an element at ``n_ctx`` tokens."""
        return self._read().allocated_bits

    @property
    def layers(self) -> tuple[Mapping[str, Any], ...]:
        """The layer plan: bits, leaders, shapes and bytes of each layer."""
        return self._read().layers

    @property
    def bytes_total(self) -> int:
        """Bytes of the cache itself, without scratch."""
        return self._read().bytes_total

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes allocated by kind: codes, scales, residual, unpacked, scratch."""
        now = self._read()
        kinds = ("codes", "scales", "residual", "unpacked", "scratch")
        return {kind: getattr(now, f"bytes_{kind}") for kind in kinds}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold; keys as in :class:`CacheSnapshot`."""
        now = self._read()
        values = {name: getattr(now, name) for name in CacheSnapshot.__dataclass_fields__}
        values["bytes_total"] = now.bytes_total
        values["layers"] = [dict(layer) for layer in now.layers]
        return values

    def __repr__(self) -> str:
        now = self._read()
        return (
            f"<KVCache {now.kind}: {now.tokens} of {now.n_ctx} tokens, "
            f"{now.bytes_total / _MIB:.1f} MiB (f16 {now.bytes_f16 / _MIB:.1f} MiB), "
            f"{now.code_bits:.2f} code bits, {now.true_bits:.2f} true bits, "
            f"{len(now.layers)} layers{f'; {now.note}' if now.note else ''}>"
        )


def packed_snapshot(report: Mapping[str, Any], *, recurrent: int = 0) -> CacheSnapshot:
    """Translate the JSON report of the C API (``xq_report``).

    Args:
        recurrent: bytes of recurrent states.
    """
    sizes = report["bytes"]
    return CacheSnapshot(
        kind="packed",
        tokens=report["tokens"],
        n_ctx=report["n_ctx"],
        bytes_codes=sizes["codes"],
        bytes_scales=sizes["scales"],
        bytes_residual=sizes["residual"],
        bytes_unpacked=sizes.get("unpacked", 0),
        bytes_scratch=sizes["scratch"],
        bytes_f16=report["bytes_f16"],
        code_bits=report["code_bits"],
        true_bits=report["true_bits"],
        allocated_bits=report["allocated_bits"],
        layers=tuple(report["layers"]),
        config=report.get("config", ""),
        bytes_recurrent=recurrent,
        note="" if sizes["codes"] else _ALL_WINDOWS,
    )


def empty_snapshot(
    info: ModelInfo, config: str, *, n_ctx: int, tokens: int, recurrent: int
) -> CacheSnapshot:
    """Of a model that keeps no keys and values, whatever cache it was given."""
    why = "its states are recurrent" if recurrent else "it reads a text as a whole"
    return CacheSnapshot(
        kind="none",
        tokens=tokens,
        n_ctx=n_ctx,
        bytes_codes=0,
        bytes_scales=0,
        bytes_residual=0,
        bytes_unpacked=0,
        bytes_scratch=0,
        bytes_f16=0,
        code_bits=0.0,
        true_bits=0.0,
        allocated_bits=0.0,
        layers=(),
        config=config,
        bytes_recurrent=recurrent,
        note=f"nothing is packed: the model ({info.arch}) keeps no keys and values, {why}",
    )


def stock_snapshot(
    info: ModelInfo,
    k: StockKV,
    v: StockKV,
    *,
    n_ctx: int,
    tokens: int,
    allocated: int | None = None,
) -> CacheSnapshot:
    """The same figures for a cache of llama.cpp's own, computed from shapes and block sizes.

    Args:
        allocated: bytes of the cache as the library counts them. Window layers hold fewer
            tokens than ``n_ctx``, and layers of latent attention keep no values; where that
            makes a difference the layers come without bytes. None: every layer is as large
            as its shape says.
    """
    layers: list[dict[str, Any]] = []
    elements = codes = scales = 0
    for il, heads in enumerate(info.n_head_kv):
        n_k, n_v = heads * info.head_dim_k, heads * info.head_dim_v
        elements += n_ctx * (n_k + n_v)
        whole = n_ctx * (k.row_bytes(n_k) + v.row_bytes(n_v))
        part = n_ctx * (n_k // k.block * k.scale_bytes + n_v // v.block * v.scale_bytes)
        codes += whole - part
        scales += part
        layers.append(
            {
                "il": il,
                "packed": False,
                "k_bits": k.code_bits,
                "v_bits": v.code_bits,
                "k_leader": -1,
                "v_leader": -1,
                "n_head_kv": heads,
                "head_dim_k": info.head_dim_k,
                "head_dim_v": info.head_dim_v,
                "bytes_codes": whole - part,
                "bytes_scales": part,
                "bytes_residual": 0,
            }
        )
    per_element = 8 / elements if elements else 0.0
    f16 = 2 * elements
    code_bits, true_bits = codes * per_element, (codes + scales) * per_element
    if allocated is not None and allocated != codes + scales:
        share = allocated / (codes + scales) if codes else 0.0
        f16, scales = round(f16 * share), round(scales * share)
        codes = allocated - scales
        layers = [
            {key: of for key, of in row.items() if not key.startswith("bytes")} for row in layers
        ]
    return CacheSnapshot(
        kind=k.name if k == v else f"{k.name}/{v.name}",
        tokens=tokens,
        n_ctx=n_ctx,
        bytes_codes=codes,
        bytes_scales=scales,
        bytes_residual=0,
        bytes_unpacked=0,
        bytes_scratch=0,
        bytes_f16=f16,
        code_bits=code_bits,
        true_bits=true_bits,
        allocated_bits=true_bits,
        layers=tuple(layers),
        config="",
    )
