#!/usr/bin/env python3
"""What a decode step moves and computes on GPUs, on paper: the tables of docs/gpu.md.

    gpu_model.py                 print them
    gpu_model.py docs/gpu.md     put them into the file, between its marks

Nothing here is measured. Bytes come from the package's own memory functions, instructions
from counting (gpu_count.py), rates from gpu_facts.py. Needs the package, but no library.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gpu_count import kv_read, most_tokens, step_count, true_bits, word
from gpu_facts import MODELS, SIZED, TIMED, Device, Model

from xquant_gguf.config import XQuantConfig, resolve_kv
from xquant_gguf.memory import cache_bytes
from xquant_gguf.stock import StockKV

NAMES = ("f16", "q8_0", "q4_0", "lossless", "quality", "balanced", "tiny")
CONTEXTS = (8192, 32768, 131072)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def bytes_table() -> str:
    """Bytes that a step reads."""
    rows = []
    for model in MODELS:
        for name in NAMES:
            kv = resolve_kv(name)
            read = [kv_read(model, kv, n) / 1e9 for n in CONTEXTS]
            rows.append(
                [model.name, name, f"{true_bits(model, kv):.2f}", *(f"{r:.2f}" for r in read)]
            )
    head = ["model", "kv", "true bits", *(f"{n // 1024}k: GB" for n in CONTEXTS)]
    return table(head, rows)


def word_table() -> str:
    """Instructions for one word."""
    rows = []
    for bits in (1, 2, 4, 8):
        cells = [str(bits), str(32 // bits)]
        for dp4a in (True, False):
            for n in (1, 4, 7):
                count = word(bits, n, dp4a=dp4a)
                cells.append(f"{count.issued:.0f} ({count.issued * bits / 32 / n:.2f})")
        rows.append(cells)
    kinds = [f"{kind}, {n}" for kind in ("dp4a", "f32") for n in (1, 4, 7)]
    return table(["bits", "codes", *kinds], rows)


def time_table(device: Device) -> str:
    """Steps on a device: the longer of bytes and instructions, and the weights."""
    rows = []
    for model in MODELS:
        for name in NAMES:
            kv = resolve_kv(name)
            spare = "–"
            if isinstance(kv, XQuantConfig):
                n = CONTEXTS[-1]
                ratio = kv_read(model, kv, n) / device.bandwidth
                ratio /= step_count(model, kv, n, dp4a=device.dp4a).seconds(device)
                spare = f"{ratio:.1f}"
            cells = [a_step(device, model, kv, tokens) for tokens in CONTEXTS]
            rows.append([model.name, name, spare, *cells])
    return table(["model", "kv", "spare", *(f"{n // 1024}k" for n in CONTEXTS)], rows)


def a_step(device: Device, model: Model, kv: XQuantConfig | StockKV, tokens: int) -> str:
    """Milliseconds of a step and, in brackets, how many times as fast as with f16."""
    weights = model.weights() / device.bandwidth
    cache = kv_read(model, kv, tokens) / device.bandwidth
    compute = 0.0
    if isinstance(kv, XQuantConfig):
        compute = step_count(model, kv, tokens, dp4a=device.dp4a).seconds(device)
    step = weights + max(cache, compute)
    base = weights + kv_read(model, resolve_kv("f16"), tokens) / device.bandwidth
    text = f"{1000 * step:.1f} ({base / step:.2f}){' i' if compute > cache else ''}"
    fits = model.weights() + cache_bytes(model.info, kv, tokens) <= device.usable
    return text if fits else f"~~{text}~~"


def size_table() -> str:
    """The longest context that fits."""
    rows = []
    for model in MODELS:
        for name in NAMES:
            kv = resolve_kv(name)
            found = [most_tokens(model, kv, d.usable - model.weights()) for d in SIZED]
            rows.append([model.name, name, *(f"{n // 1024}k" for n in found)])
    return table(["model", "kv", *(d.name for d in SIZED)], rows)


def device_table() -> str:
    """What was assumed of the devices."""
    rows = [
        [
            d.name,
            f"{d.bandwidth / 1e9:.0f} GB/s",
            f"{d.usable / 2**30:.0f} GiB",
            f"{d.cores} × {d.hertz / 1e9:.2f} GHz",
            *(f"{d.cores * d.hertz * n / 1e12:.1f}" for n in (d.issue, d.integer, d.shared)),
            " ".join(f"[{i + 1}]({url})" for i, url in enumerate(d.sources)),
        ]
        for d in SIZED
    ]
    rates = ["any", "integer", "shared loads"]
    return table(["device", "bandwidth", "usable", "cores", *rates, "sources"], rows)


def weights_line() -> str:
    """Bytes of weights by model."""
    sizes = ", ".join(f"{model.name} {model.weights() / 1e9:.2f} GB" for model in MODELS)
    return f"Weights that a step reads, Q4_K_M: {sizes}.\n"


def tables() -> dict[str, str]:
    """Every table by the name of its marks."""
    timed = {f"step {device.name}": time_table(device) for device in TIMED}
    return {
        "devices": device_table(),
        "bytes": f"{weights_line()}\n{bytes_table()}",
        "word": word_table(),
        **timed,
        "context": size_table(),
    }


def updated(text: str) -> str:
    """A document with all tables in place of what lies between their marks."""
    for name, content in tables().items():
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, _, rest = text.partition(start)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"the document has no marks for the table {name!r}")
        text = f"{before}{start}\n{content}\n{end}{after}"
    return text


def main() -> None:
    """Print all tables, or put them into a document."""
    if len(sys.argv) == 1:
        for name, content in tables().items():
            print(f"### {name}\n\n{content}")
    for path in map(Path, sys.argv[1:]):
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
