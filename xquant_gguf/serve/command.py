"""The command line and environment that llama-server gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .._dropin import LIB_VARIABLE, LLAMA_CPP_VARIABLE
from ..config import XQuantConfig
from ..stock import StockKV
from .arguments import Options

PAGE = Path(__file__).parent / "page"
"""Folder of the page to chat in. llama-server's own would have to be downloaded for the build."""

KV_VARIABLE = "XQUANT_KV"
"""Environment variable with the settings of packed caches."""


def command_of(
    options: Options, program: Path, n_ctx: int, threads: int, *, gpu: bool = True
) -> list[str]:
    """The whole command; ``gpu`` tells whether the library knows one.

    Each slot has cells of its own (``--no-kv-unified``), so that a tile never holds tokens of two
    requests: what one client sends changes nothing in what another one's keys are packed to.
    """
    named = {"-a", "--alias"} & set(options.passed)
    layers = str(options.gpu_layers) if options.gpu_layers >= 0 else "all"
    kind = "xq" if isinstance(options.kv, XQuantConfig) else options.kv.name
    needs_flash = isinstance(options.kv, XQuantConfig) or options.kv.quantised
    command = [
        str(program),
        *("--model", options.model),
        *("--cache-type-k", kind, "--cache-type-v", kind),
        *("--flash-attn", "on" if needs_flash else "auto"),
        *("--ctx-size", str(n_ctx * options.slots)),
        *("--parallel", str(options.slots), "--no-kv-unified"),
        *("--host", options.host, "--port", str(options.port)),
        *("--threads", str(threads), "--threads-batch", str(threads)),
        *(("--gpu-layers", layers) if gpu else ()),
        *("--fit", "off"),
        "--metrics",
        *(("--alias", Path(options.model).name) if not named else ()),
        *(("--path", str(PAGE)) if "--path" not in options.passed else ()),
        *(("--cors-origins", "localhost") if "--cors-origins" not in options.passed else ()),
    ]
    if isinstance(options.kv, XQuantConfig):
        command += ["--no-context-shift", "--cache-reuse", "0"]
    return [*command, *options.passed]


def environment_of(kv: XQuantConfig | StockKV, now: Mapping[str, str]) -> dict[str, str]:
    """The environment with the cache's settings; what only ``llama_cpp`` reads is left out."""
    left_out = (KV_VARIABLE, LLAMA_CPP_VARIABLE, LIB_VARIABLE)
    environment = {name: value for name, value in now.items() if name not in left_out}
    if isinstance(kv, XQuantConfig):
        environment[KV_VARIABLE] = kv.to_text()
    return environment
