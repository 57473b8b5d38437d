"""Fill a deep stock cache without a deep prompt: the rows that it holds, over and over.

A step's time depends on how many cells there are and on their type, not on what is in
them. A real prompt of 16k tokens takes llama.cpp's ``q8_0`` and ``q4_0`` caches the better
part of an hour on two cores.
"""

from __future__ import annotations

import ctypes
import struct

import numpy as np

from .._log import captured
from ..errors import UnsupportedModelError
from ..eval.contexts import Context

_HEAD = struct.Struct("<IiII")  # magic, sequence, streams, cells
_CELL = struct.Struct("<iIi")  # position, number of sequences, the sequence
_SIDES = struct.Struct("<II")  # values transposed, layers
_ROWS = struct.Struct("<iQ")  # ggml type, bytes of a row


def repeat_to(context: Context, depth: int) -> None:
    """Make a stock cache hold ``depth`` tokens: its rows repeated, at positions from 0 on.

    Args:
        context: one sequence, not empty.

    Raises:
        UnsupportedModelError: the state is not that of one plain cache, as with sliding
            windows.
    """
    api = context.model.api
    size = api.llama_state_seq_get_size(context.handle, 0)
    buffer = (ctypes.c_uint8 * size)()
    written = api.llama_state_seq_get_data(context.handle, buffer, size, 0)
    longer = repeated(bytes(buffer[:written]), context.held[0], depth)
    context.clear()
    data = (ctypes.c_uint8 * len(longer)).from_buffer(longer)
    with captured(forward=False):
        taken = api.llama_state_seq_set_data(context.handle, data, len(longer), 0)
    if taken == 0:
        raise _odd("a state that llama.cpp does not take back")
    context.held[0] = depth


def repeated(data: bytes, tokens: int, depth: int) -> bytearray:
    """A sequence state of ``tokens`` cells as one of ``depth`` (llama_kv_cache::state_write)."""
    try:
        magic, sequence, streams, cells = _HEAD.unpack_from(data)
        if (streams, cells) != (1, tokens):
            raise _odd(f"{cells} cells in {streams} streams")
        out = bytearray(_HEAD.pack(magic, sequence, streams, depth))
        _, count, owner = _CELL.unpack_from(data, _HEAD.size)
        cell = np.tile(np.array([0, count, owner], "<i4"), (depth, 1))
        cell[:, 0] = np.arange(depth)
        out += cell.tobytes()
        at = _HEAD.size + cells * _CELL.size
        transposed, layers = _SIDES.unpack_from(data, at)
        if transposed or not layers or count != 1:
            raise _odd(f"{layers} layers, transposed {transposed}, {count} sequences in a cell")
        out += data[at : at + _SIDES.size]
        at += _SIDES.size
        which = np.arange(depth) % tokens
        for _ in range(2 * layers):
            kind, width = _ROWS.unpack_from(data, at)
            out += _ROWS.pack(kind, width)
            at += _ROWS.size
            rows = np.frombuffer(data, np.uint8, cells * width, at).reshape(cells, width)
            out += rows[which].tobytes()
            at += cells * width
    except (struct.error, ValueError) as error:
        raise _odd(str(error)) from error
    if at != len(data):
        raise _odd(f"{len(data) - at} bytes behind the last layer")
    return out


def _odd(found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "--repeat needs the state of one plain cache", found, "leave --repeat out"
    )
