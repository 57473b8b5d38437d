"""Broken chat templates in a model's file: they are warned of, and the model loads all the same."""

from __future__ import annotations

import warnings
from typing import Any

from .errors import unexpected


class SoundTemplates:
    """Keeps broken templates from llama_cpp, which compiles every template while it loads."""

    chat_format: Any
    chat_template_fault = ""
    """Why the model's own chat template is not used; "" if it is sound, or if there is none."""

    @property
    def metadata(self) -> Any:
        """The file's metadata as text, without chat templates that are broken."""
        return self._metadata

    @metadata.setter
    def metadata(self, found: dict[str, str]) -> None:
        self._metadata = {}
        for name, text in found.items():
            fault = template_fault(text) if name.startswith("tokenizer.chat_template") else ""
            if fault:
                self.chat_template_fault = fault
            else:
                self._metadata[name] = text

    def _warn_of_template(self) -> None:
        if self.chat_template_fault:
            warnings.warn(
                f"the model's chat template is broken ({self.chat_template_fault}); "
                f"{self.chat_format!r} is used; give chat_format or chat_handler",
                stacklevel=3,
            )


def template_fault(text: str) -> str:
    """Why a chat template cannot be used, "" if it can; it is compiled, not run."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    try:
        Jinja2ChatFormatter(template=text, eos_token="", bos_token="")
    except Exception as error:
        return unexpected(error)
    return ""
