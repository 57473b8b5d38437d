"""``Llama``: llama_cpp's class with a packed KV cache. Everything else is inherited unchanged."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native, memory, saved_state
from ._checkpoints import DEFAULT_BYTES, Checkpoints
from ._failures import explain, last_reason
from ._keywords import checked_keywords
from ._log import captured
from ._rewind import keeps_whole_windows, rewind
from ._templates import SoundTemplates
from .config import FLAGS, KV, UNSET, Threshold, Unset, XQuantConfig, resolve_kv
from .errors import (
    ConfigError,
    ContextFullError,
    ModelFileError,
    SessionFileError,
    UnsupportedModelError,
    XQuantError,
)
from .gguf_header import ModelInfo, read_header
from .kv_cache import CacheSnapshot, KVCache, packed_snapshot, stock_snapshot
from .plan_file import resolve_auto
from .stock import StockKV, stock_of_type

_NATIVE = _native.load()  # before llama_cpp, which looks for its library when imported

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp.llama import LlamaState
else:
    import llama_cpp

_STOCK_KEYWORDS = frozenset(inspect.signature(llama_cpp.Llama.__init__).parameters) - {
    "self",
    "kwargs",
}
_MAX_CTX = 2**31 - 256

# llama_cpp silences a loading model by redirecting the process's output, which two
# threads at once would leave redirected
_CREATING = threading.RLock()


class Llama(SoundTemplates, llama_cpp.Llama):
    """A ``llama_cpp.Llama`` whose keys and values are packed to a few bits.

    Args:
        model_path: a GGUF file.
        kv: preset name ("lossless", "quality", "balanced", "small", "tiny", "xquant", ...),
            the name of a stock ggml type ("f16", "q8_0", ...), or an XQuantConfig.
            "auto" is the plan that ``python -m xquant_gguf.calibrate`` made for the model,
            "auto:FILE" one that lies elsewhere than beside it. Default "balanced".
        k_bits ... max_ubatch: replace single settings; see XQuantConfig for each one.
        progress: called with the fraction loaded, 0.0 to 1.0, while the model loads.
        checkpoint_bytes: memory for copies of recurrent states and sliding windows, from which
            an edited prompt goes on. Default 256 MiB; 0 for none, then it is read again.
        **kwargs: every keyword of ``llama_cpp.Llama`` (``n_ctx``, ``n_threads``, ...).
            ``flash_attn`` is switched on where the cache needs it. Keywords that
            ``llama_cpp.Llama`` would ignore give an XQuantWarning. ``swa_full``, whether
            sliding-window layers keep every token, is False for packed caches.

    Raises:
        ConfigError: a bad setting or keyword, settings that exclude each other, or no
            plan for "auto".
        ModelFileError: the file is missing, incomplete or not GGUF.
        UnsupportedModelError: this model cannot be run, or not with this cache.
        OutOfMemoryError: the cache does not fit into memory.
        LibraryError: the loaded library has no packed cache.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        kv: KV = "balanced",
        k_bits: float | Unset = UNSET,
        v_bits: int | Unset = UNSET,
        k_layers: str | Unset | None = UNSET,
        v_layers: str | Unset | None = UNSET,
        k_alloc: str | Unset = UNSET,
        v_fit: str | Unset = UNSET,
        v_rot: str | Unset = UNSET,
        k_1bit_from: Threshold | Unset = UNSET,
        v_1bit_from: Threshold | Unset = UNSET,
        k_share_from: Threshold | Unset = UNSET,
        v_share_from: Threshold | Unset = UNSET,
        window: int | Unset = UNSET,
        sink: int | Unset = UNSET,
        k_eta1: float | Unset = UNSET,
        k_eta2: float | Unset = UNSET,
        k_eta3: float | Unset = UNSET,
        k_eta4: float | Unset = UNSET,
        v_eta1: float | Unset = UNSET,
        v_eta2: float | Unset = UNSET,
        v_eta3: float | Unset = UNSET,
        v_eta4: float | Unset = UNSET,
        k_meta: str | Unset = UNSET,
        v_meta: str | Unset = UNSET,
        follower: str | Unset = UNSET,
        max_ubatch: int | Unset = UNSET,
        progress: Callable[[float], None] | None = None,
        checkpoint_bytes: int = DEFAULT_BYTES,
        **kwargs: Any,
    ) -> None:
        given = locals()
        auto = resolve_auto(kv, model_path)
        self._kv = resolve_kv(auto, **{name: given[name] for name in FLAGS})
        kwargs = checked_keywords(self._kv, kwargs, _STOCK_KEYWORDS)
        path = os.fspath(model_path)
        self._info = read_header(path)
        self._check_memory(kwargs)
        if kwargs.get("lora_path"):
            kwargs["lora_path"] = os.fspath(kwargs["lora_path"])
            read_header(kwargs["lora_path"])
        self._progress = _Progress(progress)
        self._end = 0  # tokens that the cache has held since the last rewind, at most
        self._legible = 0  # tokens from the first on that input_ids holds; images' are not in it
        self._create(path, kwargs)
        self._checkpoints = Checkpoints(
            llama_cpp, self._model.model, self._ctx.ctx, checkpoint_bytes
        )
        self._fit_arrays()
        self._warn_of_template()

    @property
    def kv_cache(self) -> KVCache:
        """Live figures of the cache: tokens, bytes by kind, bits an element, the layer plan."""
        return KVCache(self._read_cache)

    @property
    def kv_config(self) -> XQuantConfig | StockKV:
        """The cache settings in use, with every override applied."""
        return self._kv

    @property
    def model_info(self) -> ModelInfo:
        """Shapes read from the file's header."""
        return self._info

    def eval(self, tokens: Sequence[int]) -> None:
        """Feed tokens to the model, as ``llama_cpp.Llama.eval`` does.

        If ``n_tokens`` was set back and the cache lacks what these tokens see of the ones
        before (sliding windows, recurrent states), those behind the nearest checkpoint are read
        again. All of them are if cells were lost to earlier rewinds and the tokens would still
        fit.

        Raises:
            ContextFullError: the tokens do not fit behind those already held.
            UnsupportedModelError: images would have to be read again.
        """
        tokens = list(tokens)
        held = self.n_tokens
        if held + len(tokens) > self._n_ctx:
            raise _context_full(held + len(tokens), self._n_ctx)
        back, self._end = held < self._end, held + len(tokens)
        model, context = self._model.model, self._ctx.ctx
        try:
            if back:
                self._checkpoints.forget(behind=held)
            if back and not rewind(llama_cpp, model, context, held, arch=self._info.arch):
                self._read_again(held, tokens, nearest=True)
            else:
                self._eval_or_read_again(held, tokens)
        finally:
            if held <= self._legible:
                self._legible = self.n_tokens

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Yield tokens behind a prompt, as ``llama_cpp.Llama.generate`` does.

        If the prompt begins as the one before and then differs, and the model cannot go back to
        that place (recurrent states), it is read from the nearest checkpoint on.
        """
        tokens = list(tokens)
        if kwargs.get("reset", True) and self.n_tokens > 0:
            self._go_back_to_common(tokens)
        yield from super().generate(tokens, *args, **kwargs)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Numbers of tokens that a model with recurrent states or windows can go back to."""
        return self._checkpoints.positions

    def save_state(self) -> LlamaState:
        """The tokens held with their keys and values, and a checksum of all of it.

        Returns:
            What ``load_state`` takes, of this model and these cache settings. ``n_ctx`` may differ.
        """
        return saved_state.sealed(super().save_state())

    def load_state(self, state: LlamaState) -> None:
        """Restore what ``save_state`` returned, also into another ``n_ctx`` that holds its tokens.

        Raises:
            SessionFileError: the state is damaged, does not fit into this context, or belongs to
                another model or other cache settings. The cache is then empty.
        """
        if isinstance(self._kv, XQuantConfig):
            _NATIVE.config_set(None)  # also forgets older errors
        self._checkpoints.forget()
        try:
            fitted = saved_state.checked(state, n_ctx=self._n_ctx, scores=self.scores.shape)
            with captured(forward=self.verbose):
                super().load_state(fitted)
        except (RuntimeError, ValueError, TypeError, AttributeError, MemoryError) as error:
            self._forget()
            raise SessionFileError(
                "a saved state fits only the same model and cache settings",
                _NATIVE.last_error() or str(error),
                "create the Llama as it was when the state was saved",
            ) from error
        self._end = self._legible = self.n_tokens

    def close(self) -> None:
        """Free model and cache. Safe after a failed constructor, and more than once."""
        if "_stack" in self.__dict__:
            super().close()

    def __getstate__(self) -> dict[str, Any]:
        stock: Any = super()
        state: dict[str, Any] = stock.__getstate__()
        if isinstance(self._kv, XQuantConfig):
            del state["type_k"], state["type_v"]
        elif self._kv.name != "f16":
            state["type_k"] = state["type_v"] = None
        return {**state, "kv": self._kv}

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
            at = self._checkpoints.go_back(min(common, len(prompt) - 1))
            if at:
                self.n_tokens = self._end = at

    def _read(self, tokens: list[int]) -> None:
        for start, stop in self._checkpoints.pieces(self.n_tokens, len(tokens)):
            super().eval(tokens[start:stop])

    def _eval_or_read_again(self, held: int, tokens: list[int]) -> None:
        try:
            self._read(tokens)
        except RuntimeError as error:
            if not str(error).endswith(" 1"):  # 1: no room found, llama.h
                raise
            self._read_again(held, tokens)

    def _read_again(self, held: int, tokens: list[int], *, nearest: bool = False) -> None:
        """Read the first ``held`` tokens and the new ones, but for what a checkpoint holds."""
        if held > self._legible:
            raise UnsupportedModelError(
                "tokens before the rewind must be read again, and images cannot be",
                f"a rewind to token {held}, behind an image",
                "send the whole prompt again after reset()",
            )
        history = self.input_ids[:held].tolist() + tokens
        start = self._checkpoints.go_back(held) if nearest else 0
        if start == 0:
            self._forget()
        self.n_tokens = start
        try:
            self._read(history[start:])
        except RuntimeError:
            raise _context_full(len(history), self._n_ctx) from None

    @property
    def model_params(self) -> Any:
        """llama.cpp's model parameters; the load-progress callback is added when they are set."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: Any) -> None:
        self._progress.attach(params)
        self._model_params = params

    def _check_memory(self, kwargs: dict[str, Any]) -> None:
        n_ctx = kwargs.get("n_ctx", 512)
        if isinstance(n_ctx, bool) or not isinstance(n_ctx, int) or not 0 <= n_ctx <= _MAX_CTX:
            raise ConfigError(
                f"n_ctx is a number of tokens from 1 to {_MAX_CTX}, or 0 for the model's own",
                repr(n_ctx),
                "try n_ctx=4096",
            )
        on_host = not kwargs.get("n_gpu_layers", 0) or not kwargs.get("offload_kqv", True)
        if on_host and not kwargs.get("vocab_only", False):
            memory.check_fits(self._info, self._kv, n_ctx, memory.available_bytes())

    def _create(self, path: str, kwargs: dict[str, Any]) -> None:
        """Run llama_cpp's constructor with our cache type, and say in our terms what failed."""
        kwargs = dict(kwargs)
        if isinstance(self._kv, XQuantConfig):
            _NATIVE.require_packed()
            _NATIVE.config_set(self._kv.to_text())
            kwargs.update(type_k=_NATIVE.ggml_type(), type_v=_NATIVE.ggml_type(), flash_attn=True)
            if kwargs.get("swa_full") is None:
                kwargs["swa_full"] = keeps_whole_windows(self._kv)
        elif self._kv.name != "f16":
            kwargs.update(type_k=self._kv.ggml_type, type_v=self._kv.ggml_type)
            if self._kv.quantised:
                kwargs["flash_attn"] = True
        packed = isinstance(self._kv, XQuantConfig)
        with _CREATING, captured(forward=bool(kwargs.get("verbose", True))) as log:
            try:
                super().__init__(path, **kwargs)
                self._check_adapter(log)
            except BaseException as error:
                refusal = _NATIVE.last_error() if packed else ""
                self.close()
                self._progress.reraise()
                if not isinstance(error, (ValueError, RuntimeError)):
                    raise
                raise explain(error, refusal, log, path) from error
            finally:
                if packed:
                    _NATIVE.config_set(None)

    def _check_adapter(self, log: list[str]) -> None:
        """llama_cpp takes a LoRA file that could not be loaded for one that was."""
        if self.lora_path and not self._lora_adapter:
            raise ModelFileError(
                "a LoRA adapter must be one for this model",
                f"{last_reason(log) or 'a file that llama.cpp refuses'} ({self.lora_path})",
                "correct lora_path, or leave it out",
            )

    def _fit_arrays(self) -> None:
        """llama.cpp rounds n_ctx up; give llama_cpp's token and score arrays the same room."""
        if len(self.input_ids) < self._n_ctx:
            self.input_ids = np.zeros((self._n_ctx,), dtype=np.intc)
            if self._logits_all and len(self.scores) < self._n_ctx:
                self.scores = np.empty((self._n_ctx, self._n_vocab), dtype=np.single)

    def _create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from super()._create_completion(*args, **kwargs)
        except ValueError as error:
            if isinstance(error, XQuantError) or "exceed context window" not in str(error):
                raise
            wanted = "".join(filter(str.isdigit, str(error).partition(")")[0]))
            raise _context_full(int(wanted or 0), self._n_ctx) from None

    def _read_cache(self) -> CacheSnapshot:
        ctx = getattr(self.__dict__.get("_ctx"), "ctx", None)
        if ctx is None:
            raise XQuantError(
                "the cache can be read while its model is open", "a closed Llama", "load it again"
            )
        report = _NATIVE.report(ctx)
        if report is not None:
            return packed_snapshot(report)
        k = stock_of_type(self.context_params.type_k)
        v = stock_of_type(self.context_params.type_v)
        if k is None or v is None:
            raise UnsupportedModelError(
                "the cache type must be one that can be counted",
                f"types {self.context_params.type_k} and {self.context_params.type_v}",
                "use kv= instead of type_k and type_v",
            )
        return stock_snapshot(self._info, k, v, n_ctx=self.n_ctx(), tokens=self._stock_tokens(ctx))

    def _stock_tokens(self, ctx: int) -> int:
        memory_of = llama_cpp.llama_get_memory(ctx)
        if memory_of is None:
            return 0
        first = llama_cpp.llama_memory_seq_pos_min(memory_of, 0)
        last = llama_cpp.llama_memory_seq_pos_max(memory_of, 0)
        return int(last - first + 1) if last >= 0 else 0


class _Progress:
    """llama.cpp's load callback around a Python function; an exception stops the load."""

    def __init__(self, call: Callable[[float], None] | None) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._keep: Any = None

    def attach(self, params: Any) -> None:
        if self._call is None:
            return

        def report(fraction: float, user_data: Any) -> bool:
            try:
                assert self._call is not None
                self._call(fraction)
            except BaseException as error:
                self._error = error
                return False
            return True

        self._keep = llama_cpp.llama_progress_callback(report)
        params.progress_callback = self._keep

    def reraise(self) -> None:
        if self._error is not None:
            raise self._error


def _context_full(wanted: int, n_ctx: int) -> ContextFullError:
    return ContextFullError(
        f"prompt and reply must fit into the context of {n_ctx} tokens",
        f"{wanted} tokens",
        "shorten the prompt, start a new chat, or use a larger n_ctx",
    )
