"""The kernels of the native library as calls on numpy arrays (cpp/capi/kernels_api.h)."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.side import Side

from xquant_gguf import _native
from xquant_gguf.errors import XQuantError
from xquant_gguf.selftest.kernels import ApiSide

others: dict[str, ctypes.CDLL] = {}
"""Libraries of implementations that the library under test does not have (tests/gpu)."""

NAMES = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")


@functools.cache
def library() -> ctypes.CDLL:
    """The library under test; the test fails where there is none."""
    try:
        folder = _native.library_directory()
    except XQuantError as error:
        pytest.fail(f"the kernel tests need the native library: {error}", pytrace=False)
    path = next(folder / name for name in NAMES if (folder / name).exists())
    lib = ctypes.CDLL(str(path))
    if not hasattr(lib, "xq_api_attend"):
        pytest.fail(f"{path} has no packed kernels: a stock llama.cpp", pytrace=False)
    return lib


@functools.cache
def implementations() -> tuple[str, ...]:
    """CPU implementations that run on this machine."""
    buffer = ctypes.create_string_buffer(256)
    library().xq_cpu_implementations(buffer, len(buffer))
    return tuple(buffer.value.decode().split(","))


def api_side(side: Side) -> ApiSide:
    return ApiSide(**{name: getattr(side, name) for name, _ in ApiSide._fields_})


def address(array: NDArray[Any] | None) -> int | None:
    """Where a contiguous array starts."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def seal(
    impl: str,
    side: Side,
    x: NDArray[np.float32],
    row_ok: NDArray[np.uint8] | None,
    lane_mask: int,
    codes: NDArray[np.uint32],
    meta: NDArray[np.uint8],
    leader: bool = False,
) -> None:
    """Quantise one strip into ``codes`` and ``meta``; with ``leader`` codes are only read."""
    call("xq_api_seal", impl, side, x, row_ok, ctypes.c_uint32(lane_mask), codes, int(leader), meta)


def seal_unbiased(
    impl: str,
    side: Side,
    x: NDArray[np.float32],
    lanes: int,
    row_ok: NDArray[np.uint8] | None,
    codes: NDArray[np.uint32],
    meta: NDArray[np.uint8],
) -> None:
    """Quantise the strips ``x`` [1 or 2][rows][32] under one scale a row."""
    call("xq_api_seal_unbiased", impl, side, x, len(x), lanes, row_ok, codes, meta)


def rotate(impl: str, x: NDArray[np.float32], block: int) -> None:
    """Rotate ``x`` in place, every ``block`` numbers."""
    call("xq_api_rotate", impl, x, x.size, block)


def unpack(
    impl: str,
    side: Side,
    codes: NDArray[np.uint32],
    meta: NDArray[np.uint8],
    out: NDArray[np.float32],
) -> None:
    """Dequantise one strip into ``out`` [rows][32]."""
    call("xq_api_unpack", impl, side, codes, meta, out)


def mac(
    impl: str,
    side: Side,
    codes: NDArray[np.uint32],
    m: NDArray[np.float32],
    acc: NDArray[np.float32],
) -> None:
    """acc [n][32] += m [n][padded rows] . codes."""
    call("xq_api_mac", impl, side.bits, side.rows, codes, m, m.shape[1], m.shape[0], acc)


def size(function: str, side: Side) -> int:
    """What the library says of a side's size: xq_api_strip_words or xq_api_meta_bytes."""
    return int(getattr(library(), function)(ctypes.byref(api_side(side))))


def call(function: str, impl: str, *args: Any) -> None:
    """Call a kernel: arrays as addresses, sides as structures."""
    lib = others.get(impl) or library()
    result = getattr(lib, function)(impl.encode(), *map(_convert, args))
    assert result == 0, f"{function}: no implementation {impl}"


def _convert(arg: Any) -> Any:
    if isinstance(arg, np.ndarray):
        return ctypes.c_void_p(address(arg))
    if isinstance(arg, Side):
        return ctypes.byref(api_side(arg))
    if isinstance(arg, ctypes.Structure):
        return ctypes.byref(arg)
    return arg
