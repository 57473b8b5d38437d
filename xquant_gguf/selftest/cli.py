"""Command line of ``python -m xquant_gguf.selftest``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from .. import __version__, _native
from .._measuring import check_output, exit_code, parse_kvs, write_json
from ..bench.cli import parse_depths
from ..errors import ConfigError, OutOfMemoryError, UnsupportedModelError
from ..eval.contexts import Model
from ..gguf_header import read_header
from . import report
from .checks import Result, run
from .devices import find_devices, not_tested
from .generation import Reply, compare_replies
from .groups import GROUPS
from .kernels import Kernels, load_kernels
from .timing import STOCK_NAMES, time_caches

KNOWN = ("avx512", "avx-vnni", "avx2", "neon-dotprod", "neon", "generic")
"""CPU implementations that there are."""

_ALL = -1  # layers on the GPU
_LAYER_THREADS = 4  # enough to see threads go wrong
_LEFT_OUT = ("ALiBi and several streams: only the test suite (tests/kernels) has cases of them",)


_CANNOT = (OutOfMemoryError, UnsupportedModelError)
"""The model cannot be run so: nothing is wrong with the kernels."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the self-test: 0 if every check passed, 1 if one failed, 2 for bad input."""
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.selftest",
        description="Check every kernel of this machine against the scalar reference; with a "
        "model also a short reply against f16, and speed beside stock caches.",
    )
    parser.add_argument("model", nargs="?", help="a GGUF file (default: kernels alone)")
    parser.add_argument(
        "--kv", default="balanced", help="packed caches to run with the model (balanced)"
    )
    parser.add_argument(
        "--depth", default="512,2048", help="tokens in the cache for the timings (512,2048)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each cache (2)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps in a turn (8)")
    parser.add_argument("--json", metavar="FILE", help="write all results here")
    return parser


def _run(args: argparse.Namespace) -> int:
    for option in ("threads", "rounds", "steps"):
        if getattr(args, option) < 1:
            raise ConfigError(f"--{option} must be 1 or more", getattr(args, option))
    if args.json:
        check_output("--json", args.json)
    if args.model:  # refuse before the kernels are checked, not after
        parse_kvs(args.kv, args.model)
        parse_depths(args.depth)
        read_header(args.model)
    kernels = load_kernels()
    found = find_devices(_native.load())
    print(f"xquant_gguf {__version__}, {platform.system()} {platform.machine()}")
    print("Devices")
    for device in found.devices:
        print(report.device_line(device, kernels.names))
    print("Kernels against the scalar reference", flush=True)
    gpus = [device.name for device in found.devices if device.has_kernels]
    results = _check_kernels(kernels, gpus, min(args.threads, _LAYER_THREADS))
    untested = [*not_tested(found, KNOWN, kernels.names), *_LEFT_OUT]
    speed: dict[str, dict[str, Any]] = {}
    replies: list[Reply] = []
    if args.model:
        for where, layers in (("CPU", 0), *((("GPU", _ALL),) if gpus else ())):
            with closing(Model(args.model, gpu_layers=layers)) as model:
                replies += _check_replies(model, args, untested, where)
                speed[where] = _time(model, args, untested, where)
        if kernels.names[1:]:
            others = ", ".join(kernels.names[1:])
            untested.append(f"a model with {others}: {kernels.names[0]} is what this machine uses")
    else:
        untested.append("replies and speed: no model was given")
    print(report.summary(results, replies, untested))
    passed = all(r.passed for r in results) and all(r.passed for r in replies)
    if args.json:
        write_json(
            args.json,
            {
                "version": __version__,
                "machine": f"{platform.system()} {platform.machine()}",
                "devices": [dataclasses.asdict(device) for device in found.devices],
                **report.as_json(results, replies),
                "speed": speed.get("CPU", {}),
                "speed_gpu": speed.get("GPU", {}),
                "not_tested": untested,
                "passed": passed,
            },
        )
    return 0 if passed else 1


def _check_kernels(kernels: Kernels, gpus: Sequence[str], threads: int) -> list[Result]:
    results = []
    for name in (*kernels.names, *gpus):
        for group in GROUPS:
            if name in gpus and group.gpu_budget is None:
                continue
            results.append(run(group, kernels, name, threads, gpu=name in gpus))
            print(report.result_line(results[-1]), flush=True)
    return results


def _check_replies(
    model: Model, args: argparse.Namespace, untested: list[str], where: str
) -> list[Reply]:
    print(f"Reply of {model.info.arch} on the {where}, behind a packed prompt", flush=True)
    kvs = parse_kvs(f"f16,lossless,{args.kv}", args.model)
    try:
        replies, refused = compare_replies(model, kvs, threads=args.threads, where=where)
    except _CANNOT as error:
        untested.append(f"reply on the {where}: {error}")
        return []
    for reply in replies:
        print(report.reply_line(reply), flush=True)
    untested += [f"reply with {name} on the {where}: {why}" for name, why in refused.items()]
    return replies


def _time(
    model: Model, args: argparse.Namespace, untested: list[str], where: str
) -> dict[str, Any]:
    print(f"Speed on the {where}", flush=True)
    kvs = parse_kvs(",".join((*STOCK_NAMES, args.kv)), args.model)
    often = {"rounds": args.rounds, "steps": args.steps}
    depths = parse_depths(args.depth)
    try:
        result, refused = time_caches(model, kvs, depths, threads=args.threads, **often)
    except _CANNOT as error:
        untested.append(f"speed on the {where}: {error}")
        return {}
    print(report.speed_table(result, **often), flush=True)
    untested += [f"speed with {name} on the {where}: {why}" for name, why in refused.items()]
    return result
