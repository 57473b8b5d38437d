"""``python -m check``: what ``check.sh`` starts once the bundle is unpacked."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import environment, shapes, table
from .results import FAILED, LATE, RUNNING, Results
from .run import Clock, Step, run_all
from .stages import QUICK_SECONDS, SECONDS, STAGES, Place


def main() -> int:
    parser = argparse.ArgumentParser(prog="check.sh", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"{', '.join(STAGES)} (all)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-out"))
    parser.add_argument("--minutes", type=float, default=10, help="for everything (10)")
    parser.add_argument("--again", action="store_true", help="also what is finished in --out")
    parser.add_argument("--quick", action="store_true", help="small sizes: to try the script")
    parser.add_argument("--work", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--from", type=Path, required=True, dest="start", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.stages if name not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]}; there are {', '.join(STAGES)}")
    bundle = {**environment.bundle(), "quick": args.quick}
    out = args.start / args.out
    results = Results(out, bundle)
    place = Place(bundle["backend"], bundle["arch"], args.quick, args.work, model_in(args.work))
    variables = environment.variables()
    steps = [step for name in args.stages or STAGES for step in STAGES[name](place)]
    if args.again:
        forget(results, steps)
    elif not (environment.BUNDLE / "lib").exists():
        forget(results, [step for step in steps if step.stage == "build"])
    clock = Clock(60 * args.minutes, QUICK_SECONDS if args.quick else SECONDS)
    try:
        run_all(steps, results, clock, variables, out / "gpu.log")
    finally:
        print("\n".join(table.lines(results.data)))
        print(f"all of it: {results.path}")
    bad = (FAILED, LATE, RUNNING)
    return int(any(results.data["steps"][step.name]["status"] in bad for step in steps))


def model_in(work: Path) -> Path:
    """SmolLM2, which check.sh has joined from its parts, or the shape that stands in for it."""
    real = work / "smollm2.gguf"
    if real.exists():
        return real
    path = work / f"{shapes.STAND_IN.name}.gguf"
    if not path.exists():
        shapes.write(path, shapes.STAND_IN)
    return path


def forget(results: Results, steps: list[Step]) -> None:
    for step in steps:
        results.data["steps"].pop(step.name, None)
    results.save()


if __name__ == "__main__":
    sys.exit(main())
