"""One model, many contexts with different caches, fed the same tokens in step."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _fork, _native
from .._failures import explain, refused
from .._log import captured
from .._rewind import keeps_whole_windows, rewind
from ..config import XQuantConfig
from ..errors import ContextFullError, UnsupportedModelError
from ..gguf_header import read_header
from ..kv_cache import CacheSnapshot, empty_snapshot, packed_snapshot, stock_snapshot
from ..stock import StockKV

Logits = npt.NDArray[np.float32]


class Model:
    """A loaded model without a context.

    Args:
        gpu_layers: how many layers lie on a GPU.
        dry: read the header alone. Contexts of such a model allocate nothing and compute nothing;
            they know what they would allocate.

    Raises:
        ModelFileError: not a readable GGUF file, or none of a language model.
        UnsupportedModelError: llama.cpp does not know its architecture.
    """

    def __init__(self, path: str, *, gpu_layers: int = 0, dry: bool = False) -> None:
        _fork.loading()
        self.info = read_header(path)
        self.path = path
        self.native = _native.load()
        import llama_cpp

        self.api: Any = llama_cpp
        with captured(forward=False) as log:
            llama_cpp.llama_backend_init()
            params = llama_cpp.llama_model_default_params()
            params.n_gpu_layers = gpu_layers
            if dry:
                params.no_alloc = True
                params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
            self.handle: Any = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            raise explain(ValueError("Failed to load model"), "", log, path)
        self.vocab: Any = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))

    def tokenize(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids of a text, with the model's own leading token if it wants one."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        n = self.api.llama_tokenize(self.vocab, data, len(data), tokens, room, bos, True)
        return list(tokens[:n])

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that tokens spell; special tokens spell nothing."""
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        room = 64
        while True:
            out = ctypes.create_string_buffer(room)
            n = self.api.llama_detokenize(self.vocab, ids, len(tokens), out, room, False, False)
            if n >= 0:
                return out.raw[:n].decode("utf-8", "replace")
            room = -n

    def ends(self, token: int) -> bool:
        """Whether a token ends the model's turn or its text."""
        return bool(self.api.llama_vocab_is_eog(self.vocab, token))

    def close(self) -> None:
        """Free the weights; contexts must be closed before."""
        if self.handle:
            self.api.llama_model_free(self.handle)
            self.handle = None


class Context:
    """One cache under test.

    Args:
        kv: packed settings or a stock type.
        n_ctx: tokens it can hold.
        threads: CPU threads.
        sequences: independent token sequences.
        unified: all sequences share one set of cells; else each has a stream of its own, and
            ``n_ctx`` is divided among them.
        batch: tokens given to llama.cpp at once, and its micro-batch; a packed cache
            may cut that smaller (``max_ubatch``).
        swa_full: sliding-window layers keep every token, so that any rewind works; None is
            what ``Llama`` does with this cache.
        flash_attn: read stock caches by flash attention, which quantised ones need.
        eval_callback: addresses of a function that sees every node of the graph, and of its data.

    Raises:
        UnsupportedModelError: the model cannot run with this cache.
    """

    BATCH = 128

    def __init__(
        self,
        model: Model,
        kv: XQuantConfig | StockKV,
        *,
        n_ctx: int,
        threads: int,
        sequences: int = 1,
        unified: bool = True,
        batch: int = BATCH,
        swa_full: bool | None = None,
        flash_attn: bool = True,
        eval_callback: tuple[int, int] | None = None,
    ) -> None:
        _fork.check()
        api = model.api
        self.model, self.kv, self.n_ctx, self.n_batch = model, kv, n_ctx, batch
        params = api.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = sequences
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = threads
        params.swa_full = keeps_whole_windows(kv) if swa_full is None else swa_full
        params.flash_attn_type = (
            api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        if eval_callback is not None:
            function, params.cb_eval_user_data = eval_callback
            params.cb_eval = api.ggml_backend_sched_eval_callback(function)
        if isinstance(kv, XQuantConfig):
            model.native.require_packed()
            model.native.config_set(kv.to_text())
            params.type_k = params.type_v = model.native.ggml_type()
        else:
            params.type_k = params.type_v = kv.ggml_type
        with captured(forward=False) as log:
            self.handle: Any = api.llama_init_from_model(model.handle, params)
        refusal = model.native.last_error() if isinstance(kv, XQuantConfig) else ""
        if model.native.packed:
            model.native.config_set(None)
        if not self.handle:
            raise refused(refusal or (log[0] if log else "no context"))
        self.batch: Any = api.llama_batch_init(batch, 0, 1)
        self.held = [0] * sequences

    def clear(self) -> None:
        """Forget all tokens."""
        self.model.api.llama_memory_clear(self.model.api.llama_get_memory(self.handle), True)
        self.held = [0] * len(self.held)

    def rewind(self, n_past: int, *, sequence: int = 0) -> None:
        """Keep the first ``n_past`` tokens of a sequence.

        Raises:
            UnsupportedModelError: the cache cannot drop tokens, as a recurrent state cannot,
                or sliding windows have lost what the next token sees. The cache is then of
                no use until it is cleared.
        """
        api, model = self.model.api, self.model
        arch = model.info.arch
        if not rewind(api, model.handle, self.handle, n_past, sequence, arch=arch):
            raise UnsupportedModelError(
                "the model's cache must be able to drop its newest tokens",
                f"{arch}, from {self.held[sequence]} to {n_past} tokens",
            )
        self.held[sequence] = n_past

    def feed(
        self,
        tokens: Sequence[int],
        *,
        logits: str = "all",
        sequence: int = 0,
        copy: bool = True,
    ) -> Logits:
        """Evaluate tokens behind those held.

        Args:
            logits: "all" or "last".
            sequence: which sequence they continue.
            copy: False returns a view that the next call overwrites; with "all" it takes
                one batch of tokens at most.

        Returns:
            ``[len(tokens), n_vocab]`` or ``[1, n_vocab]`` float32.

        Raises:
            ContextFullError: the tokens do not fit.
        """
        _fork.check()
        api = self.model.api
        out = []
        for start in range(0, len(tokens), self.n_batch):
            part = tokens[start : start + self.n_batch]
            self.batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self.batch.token[i] = token
                self.batch.pos[i] = self.held[sequence] + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = sequence
                self.batch.logits[i] = logits == "all" or start + i == len(tokens) - 1
            if api.llama_decode(self.handle, self.batch) != 0:
                raise ContextFullError(
                    "the text must fit into the context",
                    f"{self.held[sequence] + len(part)} tokens",
                    "use a larger context",
                )
            self.held[sequence] += len(part)
            rows = len(part) if logits == "all" else int(start + len(part) == len(tokens))
            if rows:
                pointer = api.llama_get_logits(self.handle)
                view = np.ctypeslib.as_array(pointer, (rows, self.model.n_vocab))
                out.append(view.copy() if copy else view)
        if copy:
            return np.concatenate(out)
        assert len(out) == 1, "a view holds one batch"
        return out[0]

    def snapshot(self) -> CacheSnapshot:
        """Bytes and bits of the cache."""
        report = self.model.native.report(self.handle)
        info = self.model.info
        if isinstance(self.kv, XQuantConfig):
            recurrent = int(self.model.native.memory(self.handle)["recurrent"])
            if report is not None:
                return packed_snapshot(report, recurrent=recurrent)
            return empty_snapshot(
                info,
                self.kv.to_text(),
                n_ctx=self.n_ctx,
                tokens=sum(self.held),
                recurrent=recurrent,
            )
        return stock_snapshot(
            info,
            self.kv,
            self.kv,
            n_ctx=self.n_ctx,
            tokens=sum(self.held),
            allocated=self.model.native.cache_bytes(self.handle),
        )

    def settings(self) -> str:
        """The cache's settings as text."""
        return settings_of(self.kv)

    def close(self) -> None:
        """Free the cache."""
        if self.handle:
            with captured(forward=False):
                self.model.api.llama_batch_free(self.batch)
                self.model.api.llama_free(self.handle)
            self.handle = None


def settings_of(kv: XQuantConfig | StockKV) -> str:
    """A cache's settings as text: as the C API reads them, or a stock type's name in quotes."""
    return kv.to_text() if isinstance(kv, XQuantConfig) else json.dumps(kv.name)
