"""Time two checkouts in turns: a prompt, and single tokens at both ends of a context.

    python python/bench/two_versions.py MODEL.gguf TEXT OLD NEW --new-settings k_metric=none

OLD and NEW are checkouts that have ``build/dev/bin``. Each round runs both in processes of their
own, in turns; printed are medians over rounds, and the range of each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

DEPTH, STEPS = 4096, 400
CHILD = f"""
import json, statistics, sys, time
from xquant_gguf import Llama
path, text, extra = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
llm = Llama(path, n_ctx={DEPTH + 512}, n_threads=2, n_threads_batch=2, verbose=False, **extra)
tokens = llm.tokenize(open(text, "rb").read(80000))[:{DEPTH}]
assert len(tokens) == {DEPTH}, "the text is too short"
def steps():
    times = []
    for token in tokens[:{STEPS}]:
        begun = time.perf_counter()
        llm.eval([token])
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)
first = steps()
llm.reset()
begun = time.perf_counter()
llm.eval(tokens)
prompt = 1e3 * (time.perf_counter() - begun)
print(json.dumps({{"a step at 0": first, "a prompt": prompt, "a step at {DEPTH}": steps()}}))
"""


def run(checkout: Path, model: str, text: str, settings: dict[str, str]) -> dict[str, float]:
    """Milliseconds of one process."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    env["XQUANT_GGUF_LIB"] = str(checkout / "build" / "dev" / "bin")
    command = [sys.executable, "-c", CHILD, model, text, json.dumps(settings)]
    done = subprocess.run(command, env=env, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "text", "old", "new"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--new-settings", default="", metavar="NAME=VALUE,...")
    args = parser.parse_args()
    extra = dict(item.split("=", 1) for item in args.new_settings.split(",") if item)
    sides = [(Path(args.old).resolve(), {}), (Path(args.new).resolve(), extra)]
    model, text = (str(Path(path).resolve()) for path in (args.model, args.text))
    found: list[list[dict[str, float]]] = [[], []]
    for number in range(args.rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            found[side].append(run(sides[side][0], model, text, sides[side][1]))
    for name in found[0][0]:
        old, new = ([one[name] for one in each] for each in found)
        ratio = statistics.median(b / a for a, b in zip(old, new))
        ends = [f"{statistics.median(x):.2f} ms ({min(x):.2f} to {max(x):.2f})" for x in (old, new)]
        print(f"{name}: {ends[0]}, {ends[1]}, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
