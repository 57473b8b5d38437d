"""The program: check everything that can be checked, then become llama-server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import _native
from .._fitting import MOST
from .._measuring import exit_code
from ..chat.model import DEFAULT_CTX, default_threads, gpu_note, has_gpu, what_fits
from ..errors import ConfigError, LibraryError, OutOfMemoryError
from ..estimate import CELL_BYTES, Estimator, MemoryUse, Room
from ..gguf_header import ModelInfo, read_header
from ..memory import MIB, available_bytes
from .arguments import Options, parse
from .command import command_of, environment_of

PROGRAM = "llama-server.exe" if sys.platform == "win32" else "llama-server"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server.

    Args:
        argv: arguments after the program name, ``sys.argv[1:]`` if None.

    Returns:
        Exit code, where the server was not reached: 1 after a failure, 2 for bad input. A failure
        prints one line on standard error. Else, on POSIX, this process becomes the server; on
        Windows the server's own exit code.
    """
    return exit_code(lambda: _run(parse(sys.argv[1:] if argv is None else argv)))


def _run(options: Options) -> int:
    info = read_header(options.model)
    program = find_program()
    n_ctx = _context(options, info)
    use = _checked_use(options, n_ctx)
    _check_address(options.host, options.port)
    note = gpu_note(options.gpu_layers)
    if note:
        print(note, file=sys.stderr)
    print(
        f"{os.path.basename(options.model)} on http://{_in_url(options.host)}:{options.port}, "
        f"kv {options.kv_name}: {options.slots} slots of {n_ctx:,} tokens, "
        f"{use.kv / MIB:,.1f} MiB of KV cache",
        flush=True,
    )
    command = command_of(
        options, program, n_ctx, options.threads or default_threads(), gpu=has_gpu()
    )
    return _become(command, environment_of(options.kv, os.environ))


def find_program() -> Path:
    """llama-server, beside the library.

    Raises:
        LibraryError: this build has none.
    """
    _native.load().require_packed()
    program = _native.library_directory() / PROGRAM
    if not program.is_file():
        raise LibraryError(
            "xquant serve needs llama-server beside the library",
            f"no {program}",
            'install with CMAKE_ARGS="-DLLAMA_BUILD=OFF -DXQUANT_SERVER=ON" pip install .',
        )
    return program


def _context(options: Options, info: ModelInfo) -> int:
    if options.ctx == 0:
        return info.n_ctx_train or DEFAULT_CTX
    return options.ctx or what_fits(
        options.model,
        info,
        options.kv,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        chats=options.slots,
    )


def _checked_use(options: Options, n_ctx: int) -> MemoryUse:
    """What the server will take; what llama.cpp would refuse is refused here, with the reason."""
    tokens = n_ctx * options.slots
    if tokens > MOST:
        raise ConfigError(
            f"all slots together have at most {MOST} tokens",
            f"{options.slots} slots of {n_ctx}",
            "use a smaller --ctx or fewer --slots",
        )
    free = available_bytes()
    if free is not None and tokens * CELL_BYTES > free:
        raise _too_large(options, n_ctx, free, tokens * CELL_BYTES)
    with Estimator(options.model, gpu_layers=options.gpu_layers) as estimator:
        use = estimator.use(
            options.kv,
            tokens,
            threads=options.threads or default_threads(),
            sequences=options.slots,
            unified=False,
        )
    if free is not None and not use.fits(Room(host=free)):
        raise _too_large(options, n_ctx, free, use.beside_weights)
    return use


def _too_large(options: Options, n_ctx: int, free: int, needed: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"cache and computation must fit into the {free / MIB:,.0f} MiB of memory available",
        f"{needed / MIB:,.0f} MiB or more for {options.slots} slots of {n_ctx} tokens",
        "use a smaller --ctx or fewer --slots, or leave --ctx out",
    )


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if sys.platform != "win32":  # there it would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            "--host and --port must be free to listen on",
            f"{host}:{port}: {why}",
            "choose another --port, or stop what is using it",
        ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Signals, standard streams and the exit code are then the server's own."""
    if sys.platform != "win32":
        os.execve(command[0], list(command), dict(environment))
    with subprocess.Popen(
        command, env=dict(environment)
    ) as server:  # exec would let go of the console
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:  # the console has told the server as well
                continue
