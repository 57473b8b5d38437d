"""How a ``Llama`` reads tokens: batch by batch, and again where the cache lacks what they see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from ._checkpoints import Checkpoints
from ._failures import last_reason
from ._gate import Gate
from ._log import captured
from ._rewind import rewind
from .config import XQuantConfig
from .errors import ContextFullError, UnsupportedModelError
from .gguf_header import ModelInfo
from .stock import StockKV

_NATIVE = _native.load()  # before llama_cpp, which looks for its library when imported

if TYPE_CHECKING:
    import llama_cpp
else:
    import llama_cpp

_NO_ROOM = " 1"  # how llama_cpp's error ends where no cells were found, llama.h
_REFUSED = " -1"  # the same for a batch that cannot be read at all


class Reading(llama_cpp.Llama):
    """The part of ``Llama`` that feeds the model."""

    _gate: Gate
    _info: ModelInfo
    _kv: XQuantConfig | StockKV
    _checkpoints: Checkpoints
    _end: int
    _legible: int
    prompt_progress: Callable[[int, int], None] | None = None
    """Called while more than one token is read, with how many are read and how many will be, after
    each micro-batch. What it raises ends the call."""

    def eval(self, tokens: Sequence[int]) -> None:
        """Feed tokens to the model, as ``llama_cpp.Llama.eval`` does.

        If ``n_tokens`` was set back and the cache lacks what these tokens see of the ones
        before (sliding windows, recurrent states), they are read again from the nearest checkpoint
        on.

        Raises:
            ContextFullError: the tokens do not fit behind those already held.
            UnsupportedModelError: images would have to be read again, or the tokens see each other
                and do not fit into one micro-batch.
            CancelledError, ClosedError: another thread called ``cancel()`` or ``close()``.
        """
        with self._gate.exclusive():
            self._eval(list(tokens))

    def _eval(self, tokens: list[int]) -> None:
        held = self.n_tokens
        if held + len(tokens) > self._n_ctx:
            raise context_full(held + len(tokens), self._n_ctx)
        back, self._end = held < self._end, held + len(tokens)
        try:
            if back:
                self._checkpoints.forget(behind=held)
            if back and not self._rewind(held):
                self._read_again(held, tokens)
            else:
                self._read(tokens)
        finally:
            if held <= self._legible:
                self._legible = self.n_tokens

    def _rewind(self, held: int) -> bool:
        with self._gate.decoding:
            model, context = self._model.model, self._ctx.ctx
            return rewind(llama_cpp, model, context, held, arch=self._info.arch)

    def _forget(self) -> None:
        context: Any = self._ctx
        context.kv_cache_clear()
        self._checkpoints.forget()
        self.n_tokens = 0

    def _go_back_to_common(self, prompt: list[int]) -> None:
        """Where recurrent states hold more than the prompt has in common with them."""
        if not self._is_recurrent and not self._is_hybrid:
            return
        held = self.input_ids[: self.n_tokens].tolist()
        common = next(
            (i for i, (a, b) in enumerate(zip(held, prompt)) if a != b), min(len(held), len(prompt))
        )
        if common < len(held):
            with self._gate.decoding:
                at = self._checkpoints.go_back(min(common, len(prompt) - 1))
            if at:
                self.n_tokens = self._end = at

    def _read(self, tokens: list[int]) -> None:
        total = len(tokens)
        told = self.prompt_progress if total > 1 else None
        # micro-batches are what is computed at once anyway, so results stay the same
        size = llama_cpp.llama_n_ubatch(self._ctx.ctx) if told else self.n_batch
        for start, stop in self._checkpoints.pieces(self.n_tokens, total):
            for first in range(start, stop, size):
                self._gate.check()
                last = min(first + size, stop)
                self._decode(tokens[first:last])
                if told:
                    told(last, total)

    def _decode(self, batch: list[int]) -> None:
        with captured(forward=self.verbose) as log:
            try:
                super().eval(batch)
            except RuntimeError as error:
                if str(error).endswith(_NO_ROOM):
                    raise context_full(self.n_tokens + len(batch), self._n_ctx) from None
                self._gate.check()  # says why the batch was abandoned
                if isinstance(self._kv, XQuantConfig) and str(error).endswith(_REFUSED):
                    refusal = _NATIVE.last_error()
                    if refusal:
                        raise UnsupportedModelError.from_native(refusal) from error
                why = last_reason(log)
                if not why:
                    raise
                raise RuntimeError(f"{error}: {why}") from error

    def _read_again(self, held: int, tokens: list[int]) -> None:
        """Read the first ``held`` tokens and the new ones, but for what a checkpoint holds."""
        if held > self._legible:
            raise UnsupportedModelError(
                "tokens before the rewind must be read again, and images cannot be",
                f"a rewind to token {held}, behind an image",
                "send the whole prompt again after reset()",
            )
        history = self.input_ids[:held].tolist() + tokens
        with self._gate.decoding:
            start = self._checkpoints.go_back(held)
        if start == 0:
            self._forget()
        self.n_tokens = start
        self._read(history[start:])


def context_full(wanted: int, n_ctx: int) -> ContextFullError:
    """The error for more tokens than a context holds."""
    return ContextFullError(
        f"prompt and reply must fit into the context of {n_ctx} tokens",
        f"{wanted} tokens",
        "shorten the prompt, start a new chat, or use a larger n_ctx",
    )
