"""The library's kernels as calls on numpy arrays (cpp/capi/kernels_api.h)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import LibraryError
from .sides import Side

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

_UNKNOWN = -1  # cpp/capi/kernels_api.h

REFERENCE = "reference"
"""Name of the scalar implementation that all others are checked against."""


class ApiSide(ctypes.Structure):
    """``xq_api_side``."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("bits", "meta", "rows", "strips", "lanes_last", "fit", "words", "rot")
        ),
        *((name, ctypes.c_float) for name in ("eta", "eta2")),
    ]

    @classmethod
    def of(cls, side: Side) -> ApiSide:
        """The structure of a side."""
        return cls(*(getattr(side, name) for name, *_ in cls._fields_))


class ApiLayer(ctypes.Structure):
    """``xq_api_layer``."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                *("dk", "dv", "n_head", "n_head_kv", "n_tokens", "n_stream", "n_kv"),
                *("n_tiles", "n_rows", "n_threads", "whole_rows"),
            )
        ),
        *((name, ctypes.c_float) for name in ("scale", "softcap", "max_bias")),
        ("k", ApiSide),
        ("v", ApiSide),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("k_codes", "v_codes", "meta", "k_pages", "v_pages"),
                *("q", "mask", "table", "sinks", "out"),
            )
        ),
        ("k_leads", ctypes.c_int32),
        ("v_leads", ctypes.c_int32),
    ]


class Kernels:
    """Every function takes the name of an implementation first.

    Those of a layer take a device's name as well, if it has packed kernels; a layer that the
    device cannot compute leaves its outputs as they were. Arrays must be contiguous; outputs
    are written in place.

    Args:
        lib: the loaded library.
        names: implementations that run on this machine, the one in use first.
    """

    def __init__(self, lib: Any, names: list[str]) -> None:
        self._lib = lib
        self.names = names

    def strip_words(self, side: Side) -> int:
        """u32 words of one strip of codes."""
        return int(self._lib.xq_api_strip_words(ctypes.byref(ApiSide.of(side))))

    def meta_bytes(self, side: Side) -> int:
        """Bytes of one strip's metadata; a pair of unbiased strips has this once."""
        return int(self._lib.xq_api_meta_bytes(ctypes.byref(ApiSide.of(side))))

    def seal(
        self,
        name: str,
        side: Side,
        x: Floats,
        row_ok: Bytes | None,
        lane_mask: int,
        codes: Words,
        meta: Bytes,
        *,
        leader: bool = False,
    ) -> None:
        """Quantise ``x`` [rows, 32]; with ``leader``, ``codes`` are only read.

        ``row_ok`` [rows] is 0 in rows without data, bit l of ``lane_mask`` in lanes without.
        """
        mask = ctypes.c_uint32(lane_mask)
        self._call("xq_api_seal", name, side, x, row_ok, mask, codes, int(leader), meta)

    def seal_unbiased(
        self,
        name: str,
        side: Side,
        x: Floats,
        lanes: int,
        row_ok: Bytes | None,
        codes: Words,
        meta: Bytes,
    ) -> None:
        """Quantise ``x`` [1 or 2, 32, 32]; ``lanes`` of the last strip hold data."""
        self._call("xq_api_seal_unbiased", name, side, x, len(x), lanes, row_ok, codes, meta)

    def unpack(self, name: str, side: Side, codes: Words, meta: Bytes, out: Floats) -> None:
        """Dequantise one strip to ``out`` [rows, 32]."""
        self._call("xq_api_unpack", name, side, codes, meta, out)

    def mac(self, name: str, bits: int, rows: int, codes: Words, m: Floats, acc: Floats) -> None:
        """acc [n, 32] += m [n, rows, padded with zeros to a multiple of 32] . codes."""
        self._call("xq_api_mac", name, bits, rows, codes, m, m.shape[1], m.shape[0], acc)

    def rotate(self, name: str, x: Floats, block: int) -> None:
        """Rotate every ``block`` numbers of ``x``."""
        self._call("xq_api_rotate", name, x, x.size, block)

    def seal_layer(self, name: str, layer: ApiLayer) -> None:
        """Seal the tiles that the layer's table lists."""
        self._call("xq_api_seal_layer", name, layer)

    def attend(self, name: str, layer: ApiLayer) -> None:
        """Attention of the layer's queries into its ``out``."""
        self._call("xq_api_attend", name, layer)

    def _call(self, function: str, name: str, *arguments: Any) -> None:
        if getattr(self._lib, function)(name.encode(), *map(_convert, arguments)) == _UNKNOWN:
            raise LibraryError(
                "a kernel must exist in the implementations that the library names",
                f"{function} of {name}",
                "install library and package from the same release",
            )


def load_kernels() -> Kernels:
    """The kernels of the library that the package uses.

    Raises:
        LibraryError: no library, one without the packed cache, or one without this API.
    """
    native = _native.load()
    native.require_packed()
    if not hasattr(native.lib, "xq_api_attend"):
        raise LibraryError(
            "the self-test needs the library's kernel functions",
            f"none in {native.directory}",
            "install library and package from the same release",
        )
    return Kernels(native.lib, native.cpu_implementations())


def address(array: npt.NDArray[Any]) -> int:
    """Where a contiguous array starts."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def _convert(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(address(argument))
    if isinstance(argument, Side):
        return ctypes.byref(ApiSide.of(argument))
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return argument
