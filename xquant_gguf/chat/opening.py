"""Opening the chat's model: how long its context is, and another cache or file later on."""

from __future__ import annotations

from .._options import tell
from ..config import XQuantConfig, resolve_kv
from ..gguf_header import ModelInfo, read_header
from ..plan_file import resolve_auto
from ..stock import StockKV
from . import figures, model, template
from .arguments import Options
from .model import ChatModel
from .session_file import Fingerprint
from .state import Chat


class Opener:
    """The model file and cache in use, and the options for both.

    Args:
        path: the model file.
        n_ctx: tokens of context.
    """

    def __init__(self, options: Options, path: str, n_ctx: int) -> None:
        self._options, self._path, self._kv, self._n_ctx = options, path, options.kv, n_ctx
        self.template = template.chosen(options.chat_template)

    def load(self) -> ChatModel:
        """Load the model.

        Raises:
            XQuantError: whatever ``xquant_gguf.Llama`` refuses.
        """
        options = self._options
        llm = model.load(
            self._path,
            self._kv,
            n_ctx=self._n_ctx,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
            verbose=options.verbose,
        )
        if self.template is not None:
            template.put_into(llm, self.template)
        return llm

    def again(self, chat: Chat, path: str | None, kv_name: str | None) -> str:
        """Go on with another file or cache, each None for the present one.

        Only one model is in memory at a time. If the new one cannot be loaded, the old one is.

        Returns:
            What to tell.

        Raises:
            XQuantError: why it cannot be loaded.
        """
        before = self._path, self._kv, self._n_ctx
        path = path or self._path
        kv = resolve_kv(resolve_auto(kv_name, path, tell)) if kv_name else self._kv
        info = read_header(path)
        chat.llm.close()
        self._path, self._kv = path, kv
        self._n_ctx = min(self._n_ctx, info.n_ctx_train or self._n_ctx)
        try:
            chat.llm = self.load()
        except BaseException:
            self._path, self._kv, self._n_ctx = before
            chat.llm = self.load()
            raise
        chat.model, chat.kv_text = Fingerprint.of(path), kv_text(kv)
        chat.conversation.forget(0)
        return figures.greeting(chat.model.name, chat.llm.kv_cache.snapshot())


def kv_text(kv: XQuantConfig | StockKV) -> str:
    """The cache as saved chats name it."""
    return kv.to_text() if isinstance(kv, XQuantConfig) else kv.name


def context(options: Options, path: str | None, info: ModelInfo | None) -> int | None:
    """Tokens of context: what --ctx says, else what fits of the model's own length."""
    if info is None or path is None:
        return options.ctx
    if options.ctx == 0:
        return info.n_ctx_train or model.DEFAULT_CTX
    return options.ctx or model.what_fits(
        path, info, options.kv, threads=options.threads, gpu_layers=options.gpu_layers
    )
