"""``Llama``: llama_cpp's class with a packed KV cache, for use from several threads."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _fork, _native, saved_state
from ._checkpoints import DEFAULT_BYTES, Checkpoints
from ._completing import Completing, QuietDiskCache
from ._failures import explain, last_reason, no_memory
from ._fitting import fitted_ctx
from ._gate import Gate
from ._guarded import Guarded, lock_context, mark_gone
from ._keywords import checked_keywords
from ._log import captured
from ._reading import Reading
from ._rewind import keeps_whole_windows
from ._templates import SoundTemplates
from .config import FLAGS, KV, UNSET, Threshold, Unset, XQuantConfig, resolve_kv
from .errors import (
    ModelFileError,
    OutOfMemoryError,
    SessionFileError,
    UnsupportedModelError,
)
from .gguf_header import ModelInfo, read_header
from .kv_cache import CacheSnapshot, KVCache, empty_snapshot, packed_snapshot, stock_snapshot
from .plan_file import resolve_auto
from .stock import StockKV, stock_of_type

_NATIVE = _native.load()  # before llama_cpp, which looks for its library when imported

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp.llama import LlamaState
    from llama_cpp.llama_cache import LlamaDiskCache
else:
    import llama_cpp
    from llama_cpp.llama_cache import LlamaDiskCache

_STOCK_KEYWORDS = frozenset(inspect.signature(llama_cpp.Llama.__init__).parameters) - {
    "self",
    "kwargs",
}

# llama_cpp silences a loading model by redirecting the process's output, which two
# threads at once would leave redirected
_CREATING = threading.RLock()

_open: weakref.WeakSet[Llama] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Free models while the interpreter is whole; some backends abort where one is left."""
    for llm in list(_open):
        llm.close()


class Llama(SoundTemplates, Completing, Reading, Guarded, llama_cpp.Llama):
    """A ``llama_cpp.Llama`` whose keys and values are packed to a few bits.

    Args:
        model_path: a GGUF file.
        kv: preset name ("lossless", "quality", "balanced", "small", "tiny", "xquant", ...),
            the name of a stock ggml type ("f16", "q8_0", ...), or an XQuantConfig.
            "auto" is the plan that ``python -m xquant_gguf.calibrate`` made for the model,
            "auto:FILE" one that lies elsewhere than beside it; without one, bits by layer
            from one forward pass (some seconds, once for a model). "auto:tiny" and
            "auto:2.6" are bits of that kind with another budget. Default "balanced".
        k_bits ... swa: replace single settings; see XQuantConfig for each one.
        progress: called with the fraction loaded, 0.0 to 1.0, while the model loads.
        prompt_progress: called with the tokens read and the tokens to read while a prompt is read;
            also an attribute, which may be set at any time.
        checkpoint_bytes: memory for copies of recurrent states and sliding windows, from which
            an edited prompt goes on. Default 256 MiB; 0 for none, then it is read again.
        **kwargs: every keyword of ``llama_cpp.Llama`` (``n_ctx``, ``n_threads``, ...).
            ``n_ctx`` may be "max": as many tokens as fit, up to what the model was made for.
            ``verbose``, llama.cpp's log on standard error, is False unless it is asked for.
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
        ForkError: the process was forked from one that had loaded a model.
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
        k_metric: str | Unset = UNSET,
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
        swa: str | Unset = UNSET,
        progress: Callable[[float], None] | None = None,
        prompt_progress: Callable[[int, int], None] | None = None,
        checkpoint_bytes: int = DEFAULT_BYTES,
        **kwargs: Any,
    ) -> None:
        given = locals()
        _fork.loading()
        auto = resolve_auto(kv, model_path)
        self._kv = resolve_kv(auto, **{name: given[name] for name in FLAGS})
        kwargs = {"verbose": False, **checked_keywords(self._kv, kwargs, _STOCK_KEYWORDS)}
        path = os.fspath(model_path)
        self._info = read_header(path)
        kwargs["n_ctx"] = fitted_ctx(path, self._info, self._kv, kwargs)
        if kwargs.get("lora_path"):
            kwargs["lora_path"] = os.fspath(kwargs["lora_path"])
            read_header(kwargs["lora_path"])
        self._progress = _Progress(progress)
        self.prompt_progress = prompt_progress
        self._end = 0  # tokens that the cache has held since the last rewind, at most
        self._legible = 0  # tokens from the first on that input_ids holds; images' are not in it
        self._gate = Gate()
        _open.add(self)
        self._create(path, kwargs)
        lock_context(self._ctx, self._gate)
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

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Numbers of tokens that a model with recurrent states or windows can go back to."""
        return self._checkpoints.positions

    def save_state(self) -> LlamaState:
        """The tokens held with their keys and values, and a checksum of all of it.

        Returns:
            What ``load_state`` takes, of this model and these cache settings. ``n_ctx`` may differ.
        """
        with self._gate.exclusive(), self._gate.decoding, self._scores_that_count():
            return saved_state.sealed(super().save_state())

    def load_state(self, state: LlamaState) -> None:
        """Restore what ``save_state`` returned, also into another ``n_ctx`` that holds its tokens.

        Raises:
            SessionFileError: the state is damaged, does not fit into this context, or belongs to
                another model or other cache settings. The cache is then empty.
            OutOfMemoryError: it needs more memory than there is. The cache is then empty, too.
        """
        with self._gate.exclusive(), self._gate.decoding:
            self._load_state(state)

    def _load_state(self, state: LlamaState) -> None:
        if isinstance(self._kv, XQuantConfig):
            _NATIVE.config_set(None)  # also forgets older errors
        self._checkpoints.forget()
        try:
            with captured(forward=self.verbose), self._scores_that_count():
                n_ctx, shape = self._n_ctx, self.scores.shape
                super().load_state(saved_state.checked(state, n_ctx=n_ctx, scores=shape))
        except (RuntimeError, ValueError, TypeError, AttributeError, MemoryError) as error:
            self._forget()
            why = _NATIVE.last_error() or str(error)
            if isinstance(error, MemoryError) or no_memory(why.lower()):
                raise OutOfMemoryError(
                    "a saved state must fit into memory while it is restored",
                    why,
                    "free some memory; the cache is empty now",
                ) from error
            raise SessionFileError(
                "a saved state fits only the same model and cache settings",
                why,
                "create the Llama as it was when the state was saved",
            ) from error
        self._end = self._legible = self.n_tokens

    @contextlib.contextmanager
    def _scores_that_count(self) -> Iterator[None]:
        """Without ``logits_all`` nothing is ever written into the scores, of which a state has a
        row a token."""
        scores = self.scores
        if not self._logits_all:
            self.scores = scores[:0]
        try:
            yield
        finally:
            self.scores = scores

    def set_cache(self, cache: Any) -> None:
        """Keep states of prompts in a ``LlamaRAMCache`` or ``LlamaDiskCache``, or in none."""
        if type(cache) is LlamaDiskCache:
            cache.__class__ = QuietDiskCache
        super().set_cache(cache)

    def cancel(self) -> bool:
        """Stop what another thread is doing with the model, in the middle of a batch if need be.

        The call that is stopped, or the next step of the stream, raises CancelledError. Nothing
        happens to calls that still wait for their turn.

        Returns:
            Whether there was anything to stop.
        """
        return self._gate.cancel()

    def close(self) -> None:
        """Free model and cache, after stopping and waiting for what other threads do with them.

        Every later call raises ClosedError. Safe after a failed constructor, and more than once.
        """
        if "_gate" in self.__dict__:
            self._gate.close(self._free)

    def __enter__(self) -> Llama:
        self._gate.check()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _free(self) -> None:
        if "_stack" in self.__dict__:
            super().close()
        mark_gone(*(self.__dict__.get(name) for name in ("_ctx", "_batch", "_model")))

    def __getstate__(self) -> dict[str, Any]:
        stock: Any = super()
        state: dict[str, Any] = stock.__getstate__()
        if isinstance(self._kv, XQuantConfig):
            del state["type_k"], state["type_v"]
        elif self._kv.name != "f16":
            state["type_k"] = state["type_v"] = None
        return {**state, "kv": self._kv}

    @property
    def model_params(self) -> Any:
        """llama.cpp's model parameters; the load-progress callback is added when they are set."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: Any) -> None:
        self._progress.attach(params)
        self._model_params = params

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
        with _CREATING, captured(forward=bool(kwargs["verbose"])) as log:
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

    def _read_cache(self) -> CacheSnapshot:
        with self._gate.inside(), self._gate.decoding:
            return self._read_context(self._ctx.ctx)

    def _read_context(self, ctx: int) -> CacheSnapshot:
        report = _NATIVE.report(ctx)
        if isinstance(self._kv, XQuantConfig):
            recurrent = int(_NATIVE.memory(ctx)["recurrent"])
            if report is not None:
                return packed_snapshot(report, recurrent=recurrent)
            return empty_snapshot(
                self._info,
                self._kv.to_text(),
                n_ctx=self.n_ctx(),
                tokens=self.n_tokens,
                recurrent=recurrent,
            )
        k = stock_of_type(self.context_params.type_k)
        v = stock_of_type(self.context_params.type_v)
        if k is None or v is None:
            raise UnsupportedModelError(
                "the cache type must be one that can be counted",
                f"types {self.context_params.type_k} and {self.context_params.type_v}",
                "use kv= instead of type_k and type_v",
            )
        return stock_snapshot(
            self._info,
            k,
            v,
            n_ctx=self.n_ctx(),
            tokens=self._stock_tokens(ctx),
            allocated=_NATIVE.cache_bytes(ctx),
        )

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
