"""``python -m check.profile KERNEL SKIP DEVICE [key=value ...]``: a launch under ``ncu``.

Clocks stay as they are. The launch is one of node_bench's, after SKIP others of the same name.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys

from .environment import BUNDLE, tool
from .run import NOTHING_TO_DO, say

SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats")
STALL = re.compile(r"issue_stalled_(\w+?)_per_(?:warp_active\.pct|issue_active\.ratio)$")
FIGURES = {
    "us": r"gpu__time_duration\.sum",
    "dram_pct": r"dram__?throughput\.avg\.pct_of_peak_sustained_elapsed",
    "sm_pct": r"sm__throughput\.avg\.pct_of_peak_sustained_elapsed",
    "issue_pct": r"sm__inst_issued\.avg\.pct_of_peak_sustained_active|smsp__issue_active\.avg\.pct",
    "issued_a_cycle": r"smsp__issue_active\.avg\.per_cycle_active",
    "occupancy_pct": r"sm__warps_active\.avg\.pct_of_peak_sustained_active",
    "registers": r"launch__registers_per_thread$",
}
UNITS = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3}


def figures(text: str) -> dict[str, object]:
    """What is wanted of ``ncu --csv --page raw``: names, units, then a line for each launch."""
    start = text.find('"ID"')
    rows = list(csv.reader(text[start:].splitlines())) if start >= 0 else []
    if len(rows) < 3:
        raise ValueError("ncu printed no table")
    names, units, values = rows[0], rows[1], rows[2]
    found: dict[str, object] = {"kernel": values[names.index("Kernel Name")]}
    stalls: dict[str, float] = {}
    for name, unit, value in zip(names, units, values):
        try:
            number = float(value.replace(",", ""))
        except ValueError:
            continue
        for figure, pattern in FIGURES.items():
            if figure not in found and re.search(pattern, name):
                found[figure] = number * (UNITS.get(unit, 1.0) if figure == "us" else 1.0)
        stall = STALL.search(name)
        if stall:
            stalls.setdefault(stall[1], number)
    largest = sorted(stalls.items(), key=lambda item: -item[1])[:3]
    return {**found, "stalls": dict(largest)}


def main() -> int:
    kernel, skip, device, *options = sys.argv[1:]
    ncu = tool("ncu")
    if not ncu:
        print("no ncu here")
        return NOTHING_TO_DO
    command = [
        ncu,
        "--csv",
        "--page",
        "raw",
        "--clock-control",
        "none",
        "--target-processes",
        "all",
    ]
    command += [f"--section={section}" for section in SECTIONS]
    command += ["--kernel-name", f"regex:^{kernel}$", "--launch-skip", skip, "--launch-count", "1"]
    command += [str(BUNDLE / "bin/node_bench"), device, "packed", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        say(row={"wanted": kernel, "options": options, **figures(done.stdout)})
    except ValueError as error:
        print(done.stdout[-3000:], error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
