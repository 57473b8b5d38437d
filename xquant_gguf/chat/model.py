"""What the chat needs of a model, and how it gets one: defaults, load progress."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from .. import _native
from ..config import XQuantConfig
from ..errors import XQuantError
from ..estimate import Estimator, Room
from ..gguf_header import ModelInfo
from ..kv_cache import KVCache
from ..memory import available_bytes, padded_ctx
from ..stock import StockKV

DEFAULT_CTX = 8192
"""Context of models whose own length, or what fits, is unknown, in tokens."""

_SHARE = 4  # of the free memory, cache and computation take at most one part in so many


class ChatModel(Protocol):
    """The part of ``xquant_gguf.Llama`` that the chat uses."""

    n_tokens: int
    prompt_progress: Callable[[int, int], None] | None

    def cancel(self) -> bool:
        """Stop the reply that another thread is making."""

    def close(self) -> None:
        """Free the model."""

    @property
    def kv_cache(self) -> KVCache:
        """Live figures of the cache."""

    def n_ctx(self) -> int:
        """Context length in tokens."""

    def tokenize(self, text: bytes, add_bos: bool = True) -> list[int]:
        """Token ids of a text."""

    @property
    def create_chat_completion(self) -> Callable[..., Any]:
        """Streams a reply; see ``llama_cpp.Llama``."""


def default_ctx(info: ModelInfo) -> int:
    """The context where it is unknown how much fits, in tokens."""
    return min(info.n_ctx_train or DEFAULT_CTX, DEFAULT_CTX)


def default_threads() -> int:
    """All CPUs of a small machine; half of a large one's, which are often hyper-threads."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cpus = os.cpu_count() or 1
    return min(cpus, max(4, cpus // 2))


def what_fits(
    path: str,
    info: ModelInfo,
    kv: XQuantConfig | StockKV,
    *,
    threads: int | None,
    gpu_layers: int,
    chats: int = 1,
) -> int:
    """Of the model's own context, what fits into a part of the free memory, in tokens.

    Args:
        chats: how many contexts of that length there are.
    """
    free = available_bytes()
    if free is None or not info.n_ctx_train:
        return default_ctx(info)
    settings = {"threads": threads or default_threads(), "sequences": chats, "unified": chats == 1}
    try:
        with Estimator(path, gpu_layers=gpu_layers) as estimator:
            room = Room(host=free // _SHARE)
            most = info.n_ctx_train * chats
            found = estimator.largest_ctx(kv, room, most=most, **settings)
    except XQuantError:
        return default_ctx(info)  # loading says what is wrong
    each = found // chats
    if each < info.n_ctx_train:  # llama.cpp rounds that of each chat up
        each -= each % padded_ctx(1)
    return each or default_ctx(info)


def load(
    path: str,
    kv: XQuantConfig | StockKV,
    *,
    n_ctx: int,
    threads: int | None,
    gpu_layers: int,
    verbose: bool,
) -> ChatModel:
    """Load the model, with a progress bar where standard error is a terminal.

    Raises:
        XQuantError: whatever ``xquant_gguf.Llama`` refuses.
    """
    from ..llama import Llama

    threads = threads or default_threads()
    with _progress(Path(path).name, show=sys.stderr.isatty() and not verbose) as progress:
        return Llama(
            path,
            kv=kv,
            n_ctx=n_ctx,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=gpu_layers,
            verbose=verbose,
            progress=progress,
        )


def has_gpu() -> bool:
    """Whether this build and machine have a GPU that layers can lie on."""
    _native.load()
    import llama_cpp

    return bool(llama_cpp.llama_supports_gpu_offload())


def gpu_note(gpu_layers: int) -> str:
    """What to tell where layers were wanted on a GPU and this build knows none, else ""."""
    if not gpu_layers or has_gpu():
        return ""
    return (
        f"[--gpu-layers {gpu_layers} has no effect: this build or machine has no GPU backend, "
        "so all layers run on the CPU; python -m xquant_gguf.selftest lists devices]"
    )


@contextlib.contextmanager
def _progress(name: str, *, show: bool) -> Iterator[Callable[[float], None] | None]:
    """A load bar on a copy of standard error, because llama_cpp silences the original."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    width = Console(stderr=True).width
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as copy:
        console = Console(file=copy, force_terminal=True, width=width)
        columns = (TextColumn("loading {task.description}", markup=False), BarColumn())
        bar = Progress(
            *columns,
            TextColumn("{task.percentage:>3.0f} %"),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        with bar:
            task = bar.add_task(name, total=1.0)

            def report(fraction: float) -> None:
                bar.update(task, completed=fraction)
                bar.refresh()

            yield report
