"""Read a GGUF header without the weights: is the file whole, and what shape is its cache?

The file is memory-mapped and only the header is walked, so half a gigabyte
takes a fraction of a second. Format: GGUF versions 2 and 3 as described in
ggml's docs/gguf.md.

Nothing that the file says about a length is believed before it is compared with
what is left of the file, and only values that are used here are read. (The reader
of the ``gguf`` package makes an object of every word of the vocabulary: it takes a
hundred times as long, and ten times the memory.)
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any

from .errors import ModelFileError

_MAGIC = b"GGUF"
_LENGTH = struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, llama-hparams.h: llama.cpp refuses more
_MAX_NUMBER = 2**31 - 1  # of anything that is counted here
_MAX_KEY = 65535  # bytes, as the format says
_MAX_NAME = 63  # bytes of a tensor's name: GGML_MAX_NAME, ggml.h
_MAX_TEXT = 4096  # bytes; longer texts are chat templates, of no use here

# What a header may hold at most, so that a damaged one cannot take minutes. Real ones have some
# hundred keys, at most some ten thousand tensors and a million words.
_MAX_KEYS = 1 << 14
_MAX_TENSORS = 1 << 18
_MAX_WORDS = 1 << 22
_MAX_KEY_BYTES = 1 << 24  # of all keys together

_LEAST_KEY = 8 + 4 + 1  # bytes: an empty name, a kind and a byte
_LEAST_TENSOR = 8 + 4 + 4 + 8

_ALIGNMENT, _ARCH = "general.alignment", "general.architecture"
_COUNTS = (
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
)
_NOT_PLAIN = (
    "attention.sliding_window",
    "attention.kv_lora_rank",
    "ssm.state_size",
    "wkv.head_size",
)
_USED = frozenset((*_COUNTS, *_NOT_PLAIN))  # behind the architecture's name

# elements and bytes of a block, by ggml type (ggml-common.h)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
    41: (128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class ModelInfo:
    """What the header says about the model and its cache.

    Attributes:
        path: the file.
        file_bytes: its size in bytes.
        arch: ``general.architecture``.
        n_layers: number of blocks.
        n_ctx_train: context length the model was trained for (tokens), 0 if unknown.
        n_head_kv: key/value heads of each layer.
        head_dim_k, head_dim_v: elements of one head's key and value.
        plain: True if every layer holds every token: no sliding window, no latent
            (MLA) or recurrent state, and all the numbers above are known. Only then do
            they give the cache size.
    """

    path: str
    file_bytes: int
    arch: str
    n_layers: int
    n_ctx_train: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    plain: bool


def read_header(path: str) -> ModelInfo:
    """Check the file at ``path`` and return what its header says.

    Raises:
        ModelFileError: missing, unreadable, not GGUF, an unsupported version, or
            shorter than its header says.
    """
    try:
        if not os.path.exists(path):
            raise ModelFileError("the model file must exist", path, "check the path")
        if not os.path.isfile(path):
            raise ModelFileError("the model must be a file", path, "name the .gguf file itself")
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            _check_start(path, file.read(8), size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Walk(path, data).info()
    except OSError as error:
        raise ModelFileError(
            "the model file must be readable", f"{path}: {error.strerror}", "check its permissions"
        ) from error


def _check_start(path: str, start: bytes, size: int) -> None:
    if start[:4] != _MAGIC:
        what = repr(start[:4]) if start else "an empty file"
        raise ModelFileError(
            "a model file starts with the letters GGUF",
            f"{what} in {path}",
            "convert the model to GGUF, or download a .gguf file",
        )
    if size < 24:
        raise _truncated(path, size, 24)
    (version,) = struct.unpack("<I", start[4:])
    if version not in (2, 3):
        raise ModelFileError(
            "GGUF must be version 2 or 3, little-endian",
            f"version {version} in {path}",
            "convert the model again with a current llama.cpp",
        )


def _truncated(path: str, size: int, needed: int) -> ModelFileError:
    return ModelFileError(
        "the model file must be complete",
        f"{size:,} bytes where the header of {path} asks for at least {needed:,}",
        "download or copy it again",
    )


class _Walk:
    """One pass over the header of a mapped file."""

    def __init__(self, path: str, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.pos = 8
        self.words = 0  # of arrays, seen so far
        self.kept = 0  # elements of arrays that were kept
        self.named = 0  # bytes of keys

    def info(self) -> ModelInfo:
        n_tensors = self._count("tensors", _LEAST_TENSOR, _MAX_TENSORS)
        n_keys = self._count("keys", _LEAST_KEY, _MAX_KEYS)
        meta: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._string(_MAX_KEY, "a key")
            self.named += len(key)
            if key in meta or self.named > _MAX_KEY_BYTES:
                raise self._corrupt(f"the key {key[:80]!r} twice, or more keys than a model has")
            used = key in (_ALIGNMENT, _ARCH) or key.partition(".")[2] in _USED
            meta[key] = self._value(self._scalar("I"), used)
        self._check_tensors(n_tensors, meta.get(_ALIGNMENT, 32))
        self._check_counts(meta)
        return _info(self.path, self.size, meta)

    def _count(self, what: str, least: int, most: int) -> int:
        """A number of things that take ``least`` bytes or more each."""
        count = int(self._scalar("Q"))
        if count * least > self.size - self.pos:
            raise _truncated(self.path, self.size, self.pos + count * least)
        if count > most:
            raise self._corrupt(f"{count:,} {what}")
        return count

    def _check_counts(self, meta: dict[str, Any]) -> None:
        arch = meta.get(_ARCH)
        for name in _COUNTS:
            value = meta.get(f"{arch}.{name}")
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int) and not 0 <= item <= _MAX_NUMBER:
                    raise self._corrupt(f"a {name} of {item}")
        n_layers = meta.get(f"{arch}.block_count", 0)
        if isinstance(n_layers, bool) or not isinstance(n_layers, int) or n_layers > _MAX_LAYERS:
            raise self._corrupt(f"{n_layers} layers")

    def _check_tensors(self, count: int, alignment: Any) -> None:
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._corrupt(f"an alignment of {alignment}")
        end = 0
        for _ in range(count):
            self._string(_MAX_NAME, "a tensor's name")
            n_dims = self._scalar("I")
            if n_dims > 4:
                raise self._corrupt(f"a tensor with {n_dims} dimensions")
            elements = 1
            for _ in range(n_dims):
                elements *= self._scalar("Q")
            kind = self._scalar("I")
            offset = self._scalar("Q")
            block, block_bytes = _BLOCKS.get(kind, (1, 0))  # unknown type: only its start counts
            end = max(end, offset + elements // block * block_bytes)
        start = -(-self.pos // alignment) * alignment
        if count and start + end > self.size:
            raise _truncated(self.path, self.size, start + end)

    def _value(self, kind: int, used: bool) -> Any:
        """The value if it is used, else None; either way the position is behind it."""
        if kind == _STRING:
            length = self._scalar("Q")
            if not used or length > _MAX_TEXT:
                return self._skip(length)
            return self._text(length)
        if kind != _ARRAY:
            return self._scalar(self._code(kind))
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner == _STRING:
            return self._skip_strings(count)
        code = self._code(inner)
        at = self.pos
        self._skip(count * struct.calcsize("<" + code))
        if not used or count > _MAX_LAYERS:
            return None
        self.kept += count
        if self.kept > len(_COUNTS) * _MAX_LAYERS:
            raise self._corrupt("more shapes than a model has layers")
        return list(struct.unpack_from(f"<{count}{code}", self.data, at))

    def _skip_strings(self, count: int) -> None:
        if count * 8 > self.size - self.pos:
            raise _truncated(self.path, self.size, self.pos + count * 8)
        self.words += count
        if self.words > _MAX_WORDS:
            raise self._corrupt(f"lists of {self.words:,} words")
        pos, last, data, length_at = self.pos, self.size - 8, self.data, _LENGTH.unpack_from
        for _ in range(count):
            if pos > last:
                break
            pos += 8 + length_at(data, pos)[0]
        else:
            self._skip(pos - self.pos)
            return
        self._skip(pos + 8 - self.pos)  # beyond the end: says so

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._corrupt(f"a value of unknown kind {kind}")
        return _SCALARS[kind]

    def _scalar(self, code: str) -> Any:
        fmt = "<" + code
        at = self.pos
        self._skip(struct.calcsize(fmt))
        return struct.unpack_from(fmt, self.data, at)[0]

    def _string(self, most: int, what: str) -> str:
        length = self._scalar("Q")
        if length > self.size - self.pos:
            raise _truncated(self.path, self.size, self.pos + length)
        if length > most:
            raise self._corrupt(f"{what} of {length:,} bytes")
        return self._text(length)

    def _text(self, length: int) -> str:
        at = self.pos
        self._skip(length)
        return self.data[at : self.pos].decode("utf-8", "replace")

    def _skip(self, count: int) -> None:
        self.pos += count
        if self.pos > self.size:
            raise _truncated(self.path, self.size, self.pos)

    def _corrupt(self, what: str) -> ModelFileError:
        return ModelFileError(
            "the model file must be a sound GGUF",
            f"{what} in the header of {self.path}",
            "download or convert it again",
        )


def _info(path: str, size: int, meta: dict[str, Any]) -> ModelInfo:
    arch = str(meta.get(_ARCH) or "")

    def number(key: str, default: int = 0) -> int:
        value = meta.get(f"{arch}.{key}", default)
        return value if isinstance(value, int) else default

    def per_layer(key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = meta.get(f"{arch}.{key}")
        if isinstance(value, list):
            return tuple(item for item in value if isinstance(item, int))
        return (value,) * n_layers if isinstance(value, int) else default

    n_layers = number("block_count")
    heads = per_layer("attention.head_count", ())
    head_dim = number("embedding_length") // max(heads, default=1) if max(heads, default=0) else 0
    heads_kv = per_layer("attention.head_count_kv", heads)
    dims = number("attention.key_length", head_dim), number("attention.value_length", head_dim)
    return ModelInfo(
        path=path,
        file_bytes=size,
        arch=arch,
        n_layers=n_layers,
        n_ctx_train=number("context_length"),
        n_head_kv=heads_kv,
        head_dim_k=dims[0],
        head_dim_v=dims[1],
        plain=not any(meta.get(f"{arch}.{key}") for key in _NOT_PLAIN)
        and bool(heads_kv and dims[0] and dims[1]),
    )
