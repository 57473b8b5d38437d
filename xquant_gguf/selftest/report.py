"""What the self-test prints, and its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..bench.report import markdown_table
from .checks import BYTES, Result
from .devices import Device
from .generation import Reply


def device_line(device: Device, implementations: Sequence[str]) -> str:
    """One device, and what is tested on it."""
    tested = device.why_not() and f"not tested: {device.why_not()}"
    own = "layers of packed kernels" if device.has_kernels else ", ".join(implementations)
    tested = tested or f"tested: {own}"
    return f"  {device.name}, {device.kind}, {device.description}: {tested}"


def result_line(result: Result) -> str:
    """One group of cases."""
    if result.unit == BYTES:
        error = f"{result.worst:.0f} bytes differ" if result.worst < float("inf") else "no answer"
    else:
        error = f"NMSE {result.worst:.1e} (budget {result.budget:.0e})"
    line = f"{result.implementation:12} {result.group:31} {result.cases:4} cases  {error:33} "
    return "  " + line + (verdict(result.passed) + ("" if result.passed else f": {result.where}"))


def reply_line(reply: Reply) -> str:
    """One cache's reply."""
    flipped = f", {reply.flipped} that f16 was sure of differ" if reply.flipped else ""
    return (
        f"  {reply.kv:12} first {reply.agreed} of {reply.tokens} greedy tokens as f16{flipped}; "
        f"mean KL {reply.kl:.4f} (budget {reply.budget:g})  {verdict(reply.passed)}"
    )


def speed_table(result: dict[str, Any], *, rounds: int, steps: int) -> str:
    """The benchmark's table: no pass or fail, speeds are the machine's."""
    return markdown_table(result, rounds=rounds, steps=steps, n_ctx=result["n_ctx"])


def verdict(passed: bool) -> str:
    """The word that ends a line."""
    return "pass" if passed else "FAIL"


def summary(results: Sequence[Result], replies: Sequence[Reply], untested: Sequence[str]) -> str:
    """The last lines: what passed, what failed, what was not tested and why."""
    failed = [f"{r.group} ({r.implementation})" for r in results if not r.passed]
    failed += [f"reply ({r.kv} on the {r.where})" for r in replies if not r.passed]
    total = len(results) + len(replies)
    lines = ["Summary", f"  passed: {total - len(failed)} of {total} checks"]
    lines.append(f"  failed: {'; '.join(failed) or 'none'}")
    lines += ["  not tested:", *(f"    {line}" for line in untested)]
    return "\n".join(lines)


def as_json(results: Sequence[Result], replies: Sequence[Reply]) -> dict[str, Any]:
    """Checks and replies as plain values; an infinite error is null."""
    checks = []
    for result in results:
        row = {**dataclasses.asdict(result), "passed": result.passed}
        row["worst"] = result.worst if result.worst < float("inf") else None
        checks.append(row)
    return {
        "checks": checks,
        "replies": [{**dataclasses.asdict(r), "passed": r.passed} for r in replies],
    }
