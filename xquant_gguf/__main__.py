"""``python -m xquant_gguf COMMAND`` and the program ``xquant``: one door to all commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "chat": ("chat.app", "chat with a model"),
    "serve": ("serve.cli", "serve a model with the protocols of OpenAI and Anthropic"),
    "plan": ("plan.cli", "what caches take and how long a context fits, before loading"),
    "eval": ("eval.cli", "how far a cache is from f16, on text and on tasks"),
    "calibrate": ("calibrate.cli", "measure a model and write its plan of bits by layer"),
    "bench": ("bench.cli", "speed by depth"),
    "selftest": ("selftest.cli", "check this machine's kernels"),
    "info": ("info", "version, library, kernels, devices, memory"),
}
"""Command: the module below this package that has its ``main``, and what it does."""


def usage() -> str:
    """What ``xquant --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ("usage: xquant COMMAND ...", "", *lines, "", "xquant COMMAND --help tells the rest")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program name, ``sys.argv[1:]`` if None.

    Returns:
        Exit code: that of the command, 2 if there is none of that name.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from . import __version__

        print(f"xquant-gguf {__version__}")
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: a command must exist; got {name}; use one of {known}", file=sys.stderr)
        return 2
    module = import_module(f".{COMMANDS[name][0]}", __package__)
    return int(module.main(rest))


if __name__ == "__main__":
    sys.exit(main())
