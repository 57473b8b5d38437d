"""What a person reads at the end: at most 60 lines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .results import FAILED, LATE, PASSED, RUNNING, SKIPPED

MOST = 60
WIDTH = 150
STATUSES = (PASSED, FAILED, LATE, SKIPPED, RUNNING)


def lines(data: dict[str, Any]) -> list[str]:
    steps: dict[str, dict[str, Any]] = data["steps"]
    out = [*machine(steps), "", *stages(steps), "", *failures(steps), "", *speeds(steps)]
    out += [line for name, step in steps.items() for line in profiles(name, step)]
    out = [line[:WIDTH] for line in out]
    if len(out) > MOST:
        out = [*out[: MOST - 1], f"and {len(out) - MOST + 1} lines more: gpu.json has all"]
    return out


def machine(steps: dict[str, dict[str, Any]]) -> list[str]:
    found = steps.get("device", {}).get("device", {})
    devices = ", ".join(f"{d['name']} ({d['description']})" for d in found.get("devices", []))
    copied = [row["gb_s"] for row in steps.get("copy", {}).get("rows", [])]
    out = [f"devices: {devices or 'not found out'}"]
    if copied:
        out.append(f"copy: {copied[0]:.0f} GB/s, read and written")
    return out


def stages(steps: dict[str, dict[str, Any]]) -> list[str]:
    out = [f"{'stage':10}" + "".join(f"{status:>13}" for status in STATUSES)]
    for stage in dict.fromkeys(step["stage"] for step in steps.values()):
        count = Counter(step["status"] for step in steps.values() if step["stage"] == stage)
        out.append(f"{stage:10}" + "".join(f"{count[status] or '':>13}" for status in STATUSES))
    cases = steps.get("cases", {}).get("total")
    return [*out, f"kernel cases: {cases}"] if cases else out


def failures(steps: dict[str, dict[str, Any]]) -> list[str]:
    bad = [(name, s) for name, s in steps.items() if s["status"] not in (PASSED, SKIPPED)]
    out = []
    for name, step in bad[:15]:
        why = " ".join(str(step.get("why", "")).split())
        out.append(f"{step['status']}: {name}: {why}")
    skipped = sorted({s["why"] for s in steps.values() if s["status"] == SKIPPED})
    return [*out, *(f"skipped: {why}" for why in skipped[:5])]


def speeds(steps: dict[str, dict[str, Any]]) -> list[str]:
    """Milliseconds of a step and times as fast as f16, by depth."""
    tables: dict[str, dict[str, dict[int, float]]] = {}
    for name, step in steps.items():
        if name.startswith("speed: "):
            shape, _, kv = name[7:].partition(", ")
            at = {row["depth"]: row["step_ms"] for row in step["rows"]}
            tables.setdefault(shape, {})[kv] = at
    out = []
    for shape, caches in tables.items():
        depths = sorted({depth for at in caches.values() for depth in at})
        out.append(f"{shape:10}" + "".join(f"{depth:>18}" for depth in depths))
        for kv, at in caches.items():
            out.append(f"  {kv:8}" + "".join(cell(at, caches.get("f16", {}), d) for d in depths))
    return out


def cell(at: dict[int, float], base: dict[int, float], depth: int) -> str:
    if depth not in at:
        return f"{'–':>18}"
    ratio = f" ({base[depth] / at[depth]:.2f})" if depth in base else ""
    return f"{f'{at[depth]:.2f} ms{ratio}':>18}"


def profiles(name: str, step: dict[str, Any]) -> list[str]:
    if not name.startswith("profile: ") or not step["rows"]:
        return []
    row = step["rows"][0]
    figures = (f"{key} {row[key]:.4g}" for key in ("us", "dram_pct", "issue_pct") if key in row)
    stalls = ", ".join(f"{stall} {x:.3g}" for stall, x in row["stalls"].items())
    return [f"{name[9:]}: {', '.join(figures)}; stalls: {stalls}"]
