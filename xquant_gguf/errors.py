"""Typed errors: every one names the rule, the value that broke it and the remedy."""

from __future__ import annotations

import re
from typing import TypeVar

_E = TypeVar("_E", bound="XQuantError")

_LONGEST = 1000  # characters of each part of an error: a path and what is wrong with it

_NATIVE = re.compile(
    r"^(?:xquant:\s*)?(?:rule:\s*)?(?P<rule>.+?);\s*got:?\s+(?P<value>.+?)(?:;\s*(?:remedy:?\s+)?(?P<remedy>.+))?$",
    re.DOTALL,
)


class XQuantError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        rule: what must hold, as a short sentence without a full stop.
        value: what was found instead.
        remedy: what the user can do about it.

    ``str(error)`` is one line: ``rule; got value; remedy``. ``exit_code`` is
    what the command line returns for it: 2 for bad input, 1 otherwise.
    """

    exit_code = 1

    def __init__(self, rule: str, value: object = "", remedy: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.rule = _shortened(_one_line(rule))
        self.value = _shortened(_one_line(str(value)))
        self.remedy = _shortened(_one_line(remedy))

    def __str__(self) -> str:
        parts = [self.rule]
        if self.value:
            parts.append(f"got {self.value}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)

    @classmethod
    def from_native(cls: type[_E], text: str) -> _E:
        """Build the error from the native library's ``rule: ...; got ...; remedy ...`` text."""
        match = _NATIVE.match(text.strip())
        if match is None:
            return cls(text.strip().removeprefix("xquant: "))
        return cls(match["rule"], match["value"], match["remedy"] or "")


class ConfigError(XQuantError, ValueError):
    """A cache setting, preset name or combination of arguments that is not allowed."""

    exit_code = 2


class ModelFileError(XQuantError, ValueError):
    """The model file is missing, unreadable, not a GGUF file, or incomplete."""

    exit_code = 2


class UnsupportedModelError(XQuantError, ValueError):
    """The model is sound, but its architecture or head shape cannot be used as asked."""

    exit_code = 2


class LibraryError(XQuantError, RuntimeError):
    """The native library is missing, is another one, or has the wrong interface version."""


class OutOfMemoryError(XQuantError, MemoryError):
    """The cache asked for does not fit into memory."""


class ContextFullError(XQuantError, ValueError, RuntimeError):
    """There is no room left for the tokens asked for.

    Also a ``ValueError`` and a ``RuntimeError``, the types that
    ``llama_cpp.Llama`` raises in the same places.
    """


class SessionFileError(XQuantError, ValueError):
    """A saved chat or state cannot be read, written or used here."""

    exit_code = 2


class PromptError(XQuantError, ValueError):
    """A prompt that no model can answer: nothing in it, or text that is no Unicode."""

    exit_code = 2


class ClosedError(XQuantError):
    """The model was closed, before the call or while it ran."""


class ForkError(XQuantError, RuntimeError):
    """The process was forked from one that had loaded a model; no model works in it."""


class CancelledError(XQuantError):
    """``cancel()`` stopped the call; the model can be used again at once."""


class SupersededError(XQuantError):
    """A stream was left unfinished, and its thread has used the model for something else."""


def unexpected(error: BaseException) -> str:
    """One line for an error that nobody foresaw, with its type."""
    text = _shortened(_one_line(str(error)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class XQuantWarning(UserWarning):
    """Something was given that has no effect here, and the work goes on without it."""

    @classmethod
    def from_rule(cls, rule: str, value: object, remedy: str) -> XQuantWarning:
        """The warning in the form of an :class:`XQuantError`."""
        return cls(str(XQuantError(rule, value, remedy)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    """What a file holds may be as long as the file."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
