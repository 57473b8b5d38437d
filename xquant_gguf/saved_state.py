"""What ``Llama.save_state`` returns: a checksum over it, and the check before it is restored.

The packed cache checks its own part (``cpp/cache/state.cpp``). Around that lie llama.cpp's header,
the plain caches of some models, and llama_cpp's arrays, which nothing else checks.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llama_cpp.llama import LlamaState

_MAX_NAME = 256


def sealed(state: LlamaState) -> LlamaState:
    """The same state with its checksum as an attribute, which pickling keeps."""
    whole: Any = state
    whole.checksum = _checksum(state)
    return state


def checked(state: LlamaState, *, n_ctx: int, scores: tuple[int, int]) -> LlamaState:
    """A state that is whole and whose arrays are those of a context.

    Args:
        state: what ``save_state`` returned; one of llama_cpp itself has no checksum, and only its
            lengths are checked.
        n_ctx: tokens that the context holds.
        scores: shape of the context's array of scores.

    Returns:
        A copy with ``n_ctx`` token ids, and as many rows of scores as fit.

    Raises:
        ValueError: a checksum or a length does not fit.
    """
    from llama_cpp.llama import LlamaState

    data = bytes(state.llama_state)
    if state.llama_state_size != len(data):
        raise ValueError(f"a size of {state.llama_state_size} bytes with {len(data)} of them")
    if getattr(state, "checksum", None) not in (None, _checksum(state)):
        raise ValueError("a checksum that does not fit: the state is damaged")
    # llama.cpp allocates what the length of the architecture's name says before it reads it
    if int.from_bytes(data[:4], "little") > _MAX_NAME:
        raise ValueError("an architecture's name of impossible length: the state is damaged")
    n = int(state.n_tokens)
    if not 0 <= n <= min(n_ctx, len(state.input_ids)):
        raise ValueError(f"{n} tokens, and a context of {n_ctx}")
    ids = np.zeros(n_ctx, dtype=np.intc)
    ids[:n] = state.input_ids[:n]
    rows = np.zeros((min(n, scores[0]), scores[1]), dtype=np.single)
    kept = min(len(rows), len(state.scores))
    rows[:kept] = state.scores[:kept]
    return LlamaState(
        input_ids=ids,
        scores=rows,
        n_tokens=n,
        llama_state=data,
        llama_state_size=len(data),
        seed=state.seed,
    )


def _checksum(state: LlamaState) -> int:
    numbers = f"{state.n_tokens} {state.llama_state_size} {state.seed}".encode()
    total = zlib.crc32(state.llama_state, zlib.crc32(numbers))
    for array in (state.input_ids[: state.n_tokens], state.scores):
        total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return total
