"""How a ``Llama`` answers: replies in turns, and what llama_cpp gets wrong about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from ._gate import Gate, Stream, Turn
from ._logprobs import echoed
from ._reading import context_full
from .errors import PromptError, XQuantError

_native.load()  # before llama_cpp, which looks for its library when imported

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp.llama_cache import LlamaDiskCache
else:
    import llama_cpp
    from llama_cpp.llama_cache import LlamaDiskCache


class Completing(llama_cpp.Llama):
    """The part of ``Llama`` that makes replies."""

    _gate: Gate
    _go_back_to_common: Callable[[list[int]], None]
    _written: list[int] | None = None
    """The tokens of the reply that is being made, where they are wanted."""
    _raised: BaseException | None = None

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """A stream of tokens behind a prompt, as ``llama_cpp.Llama.generate`` gives it.

        If the prompt begins as the one before and then differs, and the model cannot go back to
        that place (recurrent states), it is read from the nearest checkpoint on.

        Raises:
            PromptError: there is no token, with the first step.
        """
        tokens = list(tokens)
        if self._gate.running_here():
            return self._generate(tokens, *args, **kwargs)
        return Stream(self._gate, lambda: self._generate(tokens, *args, **kwargs))

    def _generate(self, tokens: list[int], *args: Any, **kwargs: Any) -> Any:
        fresh = kwargs.get("reset", True) or self.n_tokens == 0
        if fresh and not tokens:
            raise PromptError(
                "a prompt must have a token in it",
                "an empty one, for a model that begins with no token of its own",
                "give it some text",
            )
        if fresh and self.n_tokens > 0:
            self._go_back_to_common(tokens)
        stream = super().generate(tokens, *args, **kwargs)
        if self._written is None:
            yield from stream
            return
        for token in stream:
            self._written.append(token)
            yield token

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """A token from what the model knows, as ``llama_cpp.Llama.sample``.

        Raises:
            Exception: whatever a logits processor raised. llama_cpp prints it and goes on without.
        """
        if self.n_tokens == 0:
            raise PromptError("there must be tokens to go on from", "none", "call eval() first")
        with self._gate.exclusive():
            self._raised = None
            token = super().sample(*args, **kwargs)
            if self._raised is not None:
                raise self._raised
            return token

    def _init_sampler(self, *args: Any, **kwargs: Any) -> Any:
        processors = kwargs.get("logits_processor")
        if processors is not None:
            kwargs["logits_processor"] = [self._kept(processor) for processor in processors]
        return super()._init_sampler(*args, **kwargs)

    def _kept(self, processor: Callable[..., Any]) -> Callable[..., Any]:
        """A logits processor whose exception waits until C code has returned."""

        def call(ids: Any, scores: Any) -> Any:
            if self._raised is not None:
                return scores
            try:
                return processor(ids, scores)
            except BaseException as error:
                self._raised = error
                return scores

        return call

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        """As ``llama_cpp.Llama.embed``."""
        with self._gate.exclusive(), _text_that_can_be_encoded():
            return super().embed(*args, **kwargs)

    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As ``llama_cpp.Llama.create_chat_completion``.

        A chat handler that reads images has the turn from then to the end of the reply.
        """
        turn = Turn()
        reply: Any = None
        try:
            with self._gate.inside(), self._gate.pending(turn), _text_that_can_be_encoded():
                reply = super().create_chat_completion(*args, **kwargs)
        finally:
            if turn.taken and (reply is None or isinstance(reply, dict)):
                self._gate.release(turn)
        return Stream(self._gate, lambda: reply, turn) if turn.taken else reply

    def _create_completion(self, *args: Any, **kwargs: Any) -> Any:
        return Stream(self._gate, lambda: self._completion(*args, **kwargs))

    def _completion(self, prompt: Any, **kwargs: Any) -> Iterator[Any]:
        wanted: Any = kwargs.get("logprobs")
        echo = bool(kwargs.get("echo")) and not kwargs.get("stream")
        ours = echo and wanted is not None and self._logits_all
        self._written = [] if ours else None
        try:
            with _text_that_can_be_encoded():
                if not ours:
                    yield from super()._create_completion(prompt, **kwargs)
                    return
                whole: Any
                for whole in super()._create_completion(prompt, **{**kwargs, "logprobs": None}):
                    whole["choices"][0]["logprobs"] = self._echoed(whole["usage"], int(wanted))
                    yield whole
        except ValueError as error:
            if isinstance(error, XQuantError) or "exceed context window" not in str(error):
                raise
            count = "".join(filter(str.isdigit, str(error).partition(")")[0]))
            raise context_full(int(count or 0), self._n_ctx) from None
        finally:
            self._written = None

    def _echoed(self, usage: dict[str, int], best: int) -> dict[str, Any]:
        """Log-probabilities of prompt and reply. llama_cpp's are those of the token before, where
        the prompt begins with no BOS."""
        assert self._written is not None
        prompt = self.input_ids[: usage["prompt_tokens"]].tolist()
        tokens = prompt + self._written[: usage["completion_tokens"]]
        first = 1 if prompt[0] == self.token_bos() else 0
        return echoed(tokens, first, self.scores, best, self.detokenize)


class QuietDiskCache(LlamaDiskCache):
    """llama_cpp's cache of states on disk, which prints whatever it does."""

    def __setitem__(self, key: Sequence[int], value: Any) -> None:
        self.cache[tuple(key)] = value
        while self.cache_size > self.capacity_bytes and len(self.cache):
            del self.cache[next(iter(self.cache))]


@contextlib.contextmanager
def _text_that_can_be_encoded() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise PromptError(
            "text for a model must be Unicode",
            f"{error.object[error.start : error.end]!r} at character {error.start}",
            'half a character, often of a cut emoji: text.encode("utf-8", "replace").decode()',
        ) from error
