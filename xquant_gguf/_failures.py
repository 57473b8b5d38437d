"""What a failed load means: the typed error for what llama.cpp only logs."""

from __future__ import annotations

from .errors import ModelFileError, OutOfMemoryError, UnsupportedModelError, XQuantError


def explain(error: Exception, refusal: str, log: list[str], path: str) -> Exception:
    """The typed error for a failed constructor: our own refusal first, then llama.cpp's log."""
    if isinstance(error, XQuantError):
        return error
    why = last_reason(log) or str(error)
    lowered = " ".join(log).lower()
    if refusal:
        return refused(refusal)
    if no_memory(lowered):
        return OutOfMemoryError("model and cache must fit into memory", why, "use a smaller n_ctx")
    if str(error).startswith("Failed to load model"):
        if "unknown model architecture" in lowered:
            return UnsupportedModelError(
                "llama.cpp must know the model's architecture", why, "use another model"
            )
        return ModelFileError("llama.cpp must be able to read the model", f"{why} ({path})")
    if str(error).startswith("Failed to create llama_context"):
        return UnsupportedModelError(
            "llama.cpp must be able to create a context for this model and cache",
            why,
            'try kv="f16" or other context settings',
        )
    return error


def refused(reason: str) -> XQuantError:
    """The typed error for a context's refusal, by our library or in llama.cpp's log."""
    if no_memory(reason.lower()):
        return OutOfMemoryError.from_native(reason)
    return UnsupportedModelError.from_native(reason)


def no_memory(text: str) -> bool:
    """Whether this text, in lower case, tells of memory that was not to be had."""
    return any(sign in text for sign in ("failed to allocate", "out of memory", "bad_alloc"))


def last_reason(log: list[str]) -> str:
    """The error line that carries the cause: llama.cpp logs it first and then who passed it on."""
    return next((line.partition(": ")[2] or line for line in log if line), "")
