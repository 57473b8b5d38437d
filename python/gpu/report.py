#!/usr/bin/env python3
"""What a machine with a GPU has shown: from gpu.json into docs/gpu.md and the README.

    report.py gpu.json                              print it
    report.py gpu.json docs/gpu.md README.md        put it between the documents' marks

Beside each measured step stands what python/bench/gpu_model.py reckons for a device with the copy
bandwidth that was measured there and the issue rate of its highest clock.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("python/gpu", "python/bench"):
    sys.path.insert(0, str(ROOT / folder))

from check.results import FAILED, FORMAT, LATE, MOST, PASSED, RUNNING, SKIPPED  # noqa: E402
from check.shapes import LARGE, Shape, kind_of, size_of, tensors  # noqa: E402
from gpu_count import kv_read, step_count  # noqa: E402
from gpu_facts import Device, Model  # noqa: E402
from gpu_model import table  # noqa: E402

from xquant_gguf._files import read_json  # noqa: E402
from xquant_gguf.config import XQuantConfig, resolve_kv  # noqa: E402

SECTION, LINE = "measured", "gpu ran"
STATUSES = (PASSED, FAILED, LATE, SKIPPED, RUNNING)
ISSUE, INTEGER, SHARED = 128, 64, 32
"""Lanes a multiprocessor and clock, as of every NVIDIA device in python/bench/gpu_facts.py."""

Steps = dict[str, dict[str, Any]]


class Report:
    """One gpu.json.

    Raises:
        SystemExit: it is of the dry run, or of another format.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        if data.get("format") != FORMAT:
            raise SystemExit(f"report: format {data.get('format')}, and this reads {FORMAT}")
        self.bundle, self.steps = data["bundle"], data["steps"]
        if self.bundle["backend"] == "cpu":
            raise SystemExit("report: a dry run on the CPU says nothing of a GPU")
        if self.bundle["quick"]:
            raise SystemExit("report: --quick tries the script; its figures are of tiny sizes")
        if "device" not in self.steps or "device" not in self.steps["device"]:
            raise SystemExit("report: the stage `device` has not run: it names the machine")
        self.written = data["written"]
        self.found = self.steps["device"]["device"]

    # ---- the machine ----

    @property
    def name(self) -> str:
        gpus = [d["description"] for d in self.found["devices"] if d["has_kernels"]]
        return gpus[0] if gpus else "no device with packed kernels"

    @property
    def copy(self) -> float | None:
        """Bytes a second."""
        rows = self.steps.get("copy", {}).get("rows", [])
        return 1e9 * rows[0]["gb_s"] if rows else None

    def device(self) -> Device | None:
        """As gpu_model.py takes one; None where a figure is missing."""
        cores = self.found["attributes"].get("multiprocessors")
        clock = self.found["nvidia_smi"].get("clocks.max.sm", "")
        if not self.copy or not cores or not clock.replace(".", "").isdigit():
            return None
        lanes = {"issue": ISSUE, "integer": INTEGER, "shared": SHARED}
        hertz = 1e6 * float(clock)
        return Device(self.name, self.copy, 0, cores, hertz, **lanes, dp4a=True, sources=())

    def machine(self) -> str:
        smi = self.found["nvidia_smi"]
        parts = [f"**{self.name}**"]
        if "driver_version" in smi:
            parts.append(f"driver {smi['driver_version']}")
            parts.append(f"clocks up to {smi['clocks.max.sm']} and {smi['clocks.max.mem']} MHz")
        if self.copy:
            parts.append(f"a copy reads and writes {self.copy / 1e9:.0f} GB/s")
        where = f"{self.bundle['backend']}, commit {self.bundle['commit']}, {self.written[:10]}"
        return f"{', '.join(parts)} ({where}).\n"

    # ---- what ran ----

    def outcomes(self) -> str:
        rows = []
        for stage in dict.fromkeys(step["stage"] for step in self.steps.values()):
            of_stage = [s for s in self.steps.values() if s["stage"] == stage]
            count = Counter(step["status"] for step in of_stage)
            rows.append([stage, *(str(count[status] or "") for status in STATUSES)])
        return table(["stage", *STATUSES], rows) + self.cases() + self.unfinished()

    def cases(self) -> str:
        total = self.steps.get("cases", {}).get("total", {})
        said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items()))
        return f"\nKernel cases: {said}.\n" if said else ""

    def unfinished(self) -> str:
        """What failed and what was left out, with the reasons."""
        lines = []
        for name, step in self.steps.items():
            if step["status"] != PASSED:
                why = " ".join(str(step.get("why", "")).split())[:200]
                lines.append(f"- {name}: {step['status']}{f': {why}' if why else ''}")
        return "\n" + "\n".join(lines) + "\n" if lines else ""

    # ---- speed ----

    def attention(self) -> str:
        rows = []
        for name, step in self.steps.items():
            if name.startswith("attention: "):
                rows += [self.attention_row(row) for row in step["rows"]]
        head = ["kv", "what", "query rows", "µs a layer", "GB/s", "of the copy"]
        return table(head, rows) if rows else ""

    def attention_row(self, row: dict[str, Any]) -> list[str]:
        share = f"{1e9 * row['gb_s'] / self.copy:.0%}" if self.copy else "–"
        rows = str(row["rows"] or "")
        return [row["kv"], row["what"], rows, f"{row['us']:.1f}", f"{row['gb_s']:.0f}", share]

    def speed(self) -> str:
        parts = []
        for kind, shape in LARGE.items():
            prefix = f"speed: {kind}, "
            found = {
                name[len(prefix) :]: {row["depth"]: row for row in step["rows"]}
                for name, step in self.steps.items()
                if name.startswith(prefix) and step["rows"]
            }
            if found:
                parts.append(f"{shape.name}\n\n{self.speed_table(shape, found)}")
        return "\n".join(parts)

    def speed_table(self, shape: Shape, found: dict[str, dict[int, dict[str, Any]]]) -> str:
        rows = []
        for kv, at in found.items():
            for depth, row in at.items():
                base = found.get("f16", {}).get(depth)
                ratio = f"{base['step_ms'] / row['step_ms']:.2f}" if base else "–"
                reckoned, f16 = (self.reckoned(shape, name, depth) for name in (kv, "f16"))
                paper = f"{reckoned:.2f} ({f16 / reckoned:.2f})" if reckoned and f16 else "–"
                cells = [kv, str(depth), row["filled"], f"{row['step_ms']:.2f}", ratio, paper]
                rows.append([*cells, self.share(shape, kv, at, depth), prefill(row)])
        head = ["kv", "tokens", "filled by", "ms a step", "× f16", "reckoned ms (× f16)"]
        return table([*head, "attention, of the copy", "prefill tokens/s"], rows)

    def reckoned(self, shape: Shape, name: str, depth: int) -> float | None:
        """Milliseconds of a step at peak rates."""
        device = self.device()
        if device is None:
            return None
        model, kv = model_of(shape), resolve_kv(name)
        cache = kv_read(model, kv, depth) / device.bandwidth if depth else 0.0
        if isinstance(kv, XQuantConfig) and depth:
            count = step_count(model, kv, depth, dp4a=True)
            cache = max(cache, count.seconds(device))
        return 1000 * (weights(shape) / device.bandwidth + cache)

    def share(self, shape: Shape, kv: str, at: dict[int, dict[str, Any]], depth: int) -> str:
        """Bytes of the cache over what a step takes longer than at depth 0."""
        if not self.copy or not depth or 0 not in at:
            return "–"
        seconds = (at[depth]["step_ms"] - at[0]["step_ms"]) / 1000
        if seconds <= 0:
            return "–"
        return f"{kv_read(model_of(shape), resolve_kv(kv), depth) / seconds / self.copy:.0%}"

    def profile(self) -> str:
        rows = []
        for name, step in self.steps.items():
            if name.startswith("profile: ") and step["rows"]:
                row = step["rows"][0]
                keys = ("us", "dram_pct", "issue_pct", "occupancy_pct", "registers")
                cells = [f"{row[key]:.1f}" if key in row else "–" for key in keys]
                stalls = ", ".join(f"{stall} {x:.1f}" for stall, x in row["stalls"].items())
                rows.append([name[9:], *cells, stalls])
        head = ["kernel", "µs", "DRAM %", "issue %", "occupancy %", "registers", "largest stalls"]
        return table(head, rows) if rows else ""

    # ---- the two texts ----

    def section(self) -> str:
        parts = [self.machine(), self.outcomes(), self.attention(), self.speed(), self.profile()]
        return "\n".join(part for part in parts if part)

    def line(self) -> str:
        """One sentence; it claims what ran, and says what failed."""
        count = Counter(step["status"] for step in self.steps.values())
        total = self.steps.get("cases", {}).get("total", {})
        cases = f", {total.get('passed', 0)} of {sum(total.values())} kernel cases" if total else ""
        bad = count[FAILED] + count[LATE] + count[RUNNING]
        missing = f"; {bad} steps failed or did not end" if bad else ""
        return (
            f"on {self.name} through {self.bundle['backend']} {count[PASSED]} of {len(self.steps)} "
            f"steps of its checks passed{cases}{missing} ([docs/gpu.md](docs/gpu.md#measured))."
        )


def prefill(row: dict[str, Any]) -> str:
    return f"{row['prefill_tokens'] / row['prefill_s']:.0f}" if row["prefill_s"] else "–"


def model_of(s: Shape) -> Model:
    """The cache that its attention layers have."""
    heads = (s.attention_layers, s.heads, s.kv_heads, s.dim)
    return Model(s.name, *heads, s.width, s.inner, s.vocabulary, s.trained)


def weights(s: Shape) -> float:
    """Bytes that a step reads: all tensors but the embedding, of which it reads a row."""
    read = (t for t in tensors(s) if t[0] != "token_embd.weight")
    return float(sum(size_of(kind_of(*t), t[1]) for t in read))


def put(path: Path, mark: str, content: str) -> None:
    """Between the marks of a document."""
    text = path.read_text(encoding="utf-8")
    start, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"report: {path} has no marks {start} and {end}")
    path.write_text(f"{before}{start}{content}{end}{after}", encoding="utf-8")


def main() -> None:
    source, *documents = map(Path, sys.argv[1:])
    report = Report(read_json(source, MOST))
    if not documents:
        print(f"{report.section()}\n{report.line()}")
        return
    page, readme = documents
    put(page, SECTION, f"\n\n{report.section()}\n")
    put(readme, LINE, report.line())


if __name__ == "__main__":
    main()
