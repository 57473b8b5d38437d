"""Keys and values that an f16 context holds, read out of llama.cpp's sequence state.

The state is llama.cpp's own (``llama_kv_cache::state_write``, version in UPSTREAM): a head,
one record a cell, then the rows of every layer's keys and of every layer's values. In models
with sliding windows the layers that see everything, which are those that are packed, come first.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedModelError
from ..eval.contexts import Context

Rows = npt.NDArray[np.float32]

_F16 = 1  # GGML_TYPE_F16
_HEAD = 16  # magic, sequence, streams, cells
_CELL, _CELL_MROPE = 12, 20  # position, number of sequences, (two more positions,) sequence


@dataclass(frozen=True)
class LayerRows:
    """One layer's keys and values, ``[tokens, heads * head dim]`` each."""

    k: Rows
    v: Rows


def read_rows(context: Context) -> list[LayerRows]:
    """Keys and values of every layer that holds all tokens of sequence 0.

    Args:
        context: an f16 cache with one sequence.

    Raises:
        UnsupportedModelError: the state has another form, as that of a recurrent model.
    """
    api = context.model.api
    size = api.llama_state_seq_get_size(context.handle, 0)
    buffer = (ctypes.c_uint8 * size)()
    written = api.llama_state_seq_get_data(context.handle, buffer, size, 0)
    return parse(bytes(buffer[:written]), context.held[0])


def parse(data: bytes, tokens: int) -> list[LayerRows]:
    """The rows in a sequence state that holds ``tokens`` cells.

    Raises:
        UnsupportedModelError: see :func:`read_rows`.
    """
    try:
        _, _, streams, cells = struct.unpack_from("<IiII", data)
        _check((streams, cells) == (1, tokens), f"{cells} cells in {streams} streams")
        (second,) = struct.unpack_from("<i", data, _HEAD + _CELL)
        at = _HEAD + cells * (_CELL if second == 1 else _CELL_MROPE)
        transposed, layers = struct.unpack_from("<II", data, at)
        _check(transposed == 0 and layers > 0, f"{layers} layers, transposed {transposed}")
        at += 8
        sides = []
        for _ in range(2 * layers):
            kind, row_bytes = struct.unpack_from("<iQ", data, at)
            _check(kind == _F16, f"rows of type {kind}")
            at += 12
            rows = np.frombuffer(data, "<f2", cells * row_bytes // 2, at)
            sides.append(rows.reshape(cells, -1).astype(np.float32))
            at += cells * row_bytes
    except (struct.error, ValueError) as error:
        raise _odd(str(error)) from error
    return [LayerRows(k, v) for k, v in zip(sides[:layers], sides[layers:])]


def _check(holds: bool, found: str) -> None:
    if not holds:
        raise _odd(found)


def _odd(found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "agreement of codes is read from plain f16 keys and values", found, "it is left out"
    )
