"""How messages become a prompt: by the model's own template or that of ``--chat-template``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _native
from .._files import reason
from ..errors import ConfigError

_MAX_BYTES = 1 << 20
_FALLBACK = "llama-2"  # what llama_cpp takes where a model has no template
_ADVICE = "--chat-template NAME or FILE chooses another"


@dataclass(frozen=True)
class ChatTemplate:
    """A choice of the user's: one of llama_cpp's formats by ``name``, or a Jinja ``text``."""

    name: str | None = None
    text: str = ""


def chosen(given: str | None) -> ChatTemplate | None:
    """What ``--chat-template`` stands for; None if it was not given.

    Raises:
        ConfigError: neither a format's name nor a file with a sound template.
    """
    if given is None:
        return None
    names = format_names()
    if given in names:
        return ChatTemplate(name=given)
    try:
        with open(given, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "no file can have this name"
        raise ConfigError(
            "--chat-template must name a format or a file",
            f"{given} ({why})",
            f"use a Jinja file or one of {', '.join(names)}",
        ) from error
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError("it has more than a MiB")
        template = ChatTemplate(text=text.decode("utf-8"))
        formatter(template.text, "", "", -1)
    except Exception as error:
        raise ConfigError(
            "--chat-template must be a sound Jinja template",
            f"{type(error).__name__}: {error} in {given}",
            "correct it, or leave it out for the model's own",
        ) from error
    return template


def format_names() -> list[str]:
    """Names of llama_cpp's formats."""
    _native.load()
    from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerRegistry

    registry: Any = LlamaChatCompletionHandlerRegistry
    return sorted(registry()._chat_handlers)


def formatter(text: str, bos: str, eos: str, eos_id: int) -> Any:
    """llama_cpp's formatter for a Jinja template; whatever Jinja raises for a broken one."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(template=text, bos_token=bos, eos_token=eos, stop_token_ids=[eos_id])


def put_into(llm: Any, template: ChatTemplate) -> None:
    """Make a loaded model answer with this template."""
    if template.name is not None:
        llm.chat_format = template.name
        return
    bos, eos = llm.token_bos(), llm.token_eos()
    first, last = (llm._model.token_get_text(token) if token != -1 else "" for token in (bos, eos))
    llm.chat_handler = formatter(template.text, first, last, eos).to_chat_handler()


def note(llm: Any, template: ChatTemplate | None) -> str:
    """What to tell about the template in use, "" if it is the model's own or was chosen."""
    if template is not None or getattr(llm, "chat_format", _FALLBACK) != _FALLBACK:
        return ""
    broken = getattr(llm, "chat_template_fault", "")
    if broken:
        return f"[the model's chat template is broken ({broken}): {_FALLBACK}'s is used; {_ADVICE}]"
    if "tokenizer.chat_template" in (getattr(llm, "metadata", None) or {}):
        return ""  # recognised as that format
    return f"[the model has no chat template: {_FALLBACK}'s is used; {_ADVICE}]"
