"""Damaged GGUF headers: a typed error or figures, in bounded time and memory, and nothing else.

Run as a program it is the fuzzer itself, in a process whose memory is limited.
"""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xquant_gguf import memory
from xquant_gguf.chat import figures
from xquant_gguf.chat.model import default_ctx
from xquant_gguf.config import PRESETS
from xquant_gguf.errors import ModelFileError
from xquant_gguf.gguf_header import ModelInfo, read_header
from xquant_gguf.kv_cache import stock_snapshot
from xquant_gguf.stock import STOCK

SECONDS = 5.0  # of CPU time for one header, on a slow machine
MIB = 1024 * 1024
MEMORY_MIB = 150  # beyond what the process needs anyway

Value = object
WORDS = [f"word{i}" for i in range(40)]


def header(keys: dict[str, Value], tensors: int = 2) -> bytes:
    """A GGUF file of small tensors; ints are u32, lists are arrays, floats f32."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def plain(value: Value) -> tuple[int, bytes]:
        if isinstance(value, bool):
            return 7, struct.pack("<?", value)
        if isinstance(value, int):
            return 4, struct.pack("<I", value)
        if isinstance(value, float):
            return 6, struct.pack("<f", value)
        return 8, text(str(value))

    out = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys))
    for key, value in keys.items():
        out += text(key)
        if isinstance(value, list):
            kinds = [plain(item) for item in value]
            out += struct.pack("<IIQ", 9, kinds[0][0], len(value))
            out += b"".join(data for _, data in kinds)
        else:
            kind, data = plain(value)
            out += struct.pack("<I", kind) + data
    for i in range(tensors):
        out += text(f"blk.{i}.weight") + struct.pack("<IQQIQ", 2, 32, 2, 8, 96 * i)
    out += bytes(-len(out) % 32)
    return out + bytes(96 * tensors)


def shape(arch: str, **more: Value) -> dict[str, Value]:
    keys = {"block_count": 3, "context_length": 4096, "embedding_length": 64}
    return {
        "general.architecture": arch,
        **{f"{arch}.{key.replace('__', '.')}": value for key, value in {**keys, **more}.items()},
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.scores": [0.5] * len(WORDS),
        "tokenizer.chat_template": "{{ messages }}" * 20,
        "general.alignment": 32,
    }


BASES = {
    "llama": shape("llama", attention__head_count=4, attention__head_count_kv=2),
    "no kv heads": shape(
        "deci", attention__head_count=[4, 0, 4], attention__head_count_kv=[2, 0, 0]
    ),
    "window": shape("gemma3", attention__head_count=4, attention__sliding_window=512),
    "named dims": shape("qwen3", attention__head_count=4, attention__key_length=128),
    "no heads": shape("clip"),
    "projector": {"general.architecture": "clip", "clip.vision.block_count": 2},
    "adapter": {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"},
    "recurrent": shape("mamba", ssm__state_size=16),
    "nothing": {},
}


def use(path: Path) -> ModelInfo | None:
    """Everything that is done with a header before llama.cpp sees the file."""
    try:
        info = read_header(str(path))
    except ModelFileError as error:
        assert error.rule and error.value and error.remedy
        return None
    n_ctx = default_ctx(info)
    for name, kv in PRESETS.items():
        assert memory.cache_bytes(info, kv, n_ctx) >= 0
        assert figures.as_text(figures.config_rows(name, kv, info, n_ctx))
    for kv in (STOCK["f16"], STOCK["q4_0"]):
        stock_snapshot(info, kv, kv, n_ctx=n_ctx, tokens=0)
    return info


NUMBERS = [0, 1, 2, 7, 8, 9, 12, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40]
NUMBERS += [2**63, 2**64 - 1]


def mutants(data: bytes, end: int, rng: random.Random) -> Iterator[bytes]:
    """``data`` with a few bytes below ``end`` altered, taken out, doubled or cut off, for ever."""
    while True:
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if len(out) < 5:
                break
            at = rng.randrange(4, min(end, len(out)))
            kind = rng.randrange(6)
            if kind == 0:
                out[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                out[at] = rng.randrange(256)
            elif kind in (2, 3):
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % 256**width
                out[at : at + width] = number.to_bytes(width, "little")
            elif kind == 4:
                size = rng.randrange(1, 20)
                out[at : at + size] = b"" if rng.random() < 0.5 else out[at : at + size] * 2
            elif rng.random() < 0.2:
                del out[at:]
        yield bytes(out)


def fuzz(path: Path, data: bytes, end: int, count: int, seed: int, sparse: int = 0) -> None:
    """Use ``count`` mutants; ``sparse`` bytes of nothing follow the file."""
    rng = random.Random(seed)
    source = mutants(data, end, rng)
    for number in range(count):
        mutant = next(source)
        with path.open("wb") as file:
            file.write(mutant)
            if sparse:
                file.truncate(len(mutant) + sparse)
        before = time.process_time()
        try:
            use(path)
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutant {number}: {error!r}") from error
        took = time.process_time() - before
        assert took < SECONDS, f"seed {seed}, mutant {number}: {took:.1f} s"


def main(folder: str, model: str, seconds: float) -> None:
    """Fuzz all bases, and the header of a real model where one is named, once or for some time."""
    path = Path(folder) / "mutant.gguf"
    path.write_bytes(header(BASES["llama"]))
    use(path)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, seed = time.monotonic(), 0
    while seed == 0 or time.monotonic() - began < seconds:
        for base, keys in enumerate(BASES.values()):
            data = header(keys)
            fuzz(path, data, len(data) - 192, 350, seed + base)
            fuzz(path, data, len(data) - 192, 100, seed + 1000 + base, sparse=600 * MIB)
        if model:
            with open(model, "rb") as file:
                data = file.read(3 * MIB)
            rest = Path(model).stat().st_size - len(data)
            fuzz(path, data, 2000, 40, seed + 2000, sparse=rest)
            fuzz(path, data, len(data) // 2, 20, seed + 2001, sparse=rest)
        seed += 10000
    print(f"{seed // 10000} rounds")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    assert grown < MEMORY_MIB, f"{grown:.0f} MiB"


@pytest.mark.parametrize("name", BASES)
def test_sound_headers_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    path.write_bytes(header(BASES[name]))
    info = use(path)
    assert info is not None
    assert info.plain == (name in ("llama", "no kv heads", "named dims"))


@pytest.mark.parametrize("name", ["no heads", "projector", "adapter", "recurrent"])
def test_files_without_head_counts_have_no_estimate(name: str, tmp_path: Path) -> None:
    path = tmp_path / "no-heads.gguf"
    path.write_bytes(header(BASES[name]))
    rows = dict(figures.config_rows("balanced", PRESETS["balanced"], read_header(str(path)), 4096))
    assert rows["KV estimate"] == rows["f16 would take"] == "unknown: the file names no heads"


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"llama.block_count": 513}, "513 layers"),
        ({"llama.attention.head_count": 2**32 - 1}, "attention.head_count of 4294967295"),
        ({"llama.context_length": 2**31}, "context_length of 2147483648"),
    ],
)
def test_counts_beyond_all_models_are_refused(
    changes: dict[str, Value], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(header({**BASES["llama"], **changes}))
    with pytest.raises(ModelFileError, match=what):
        read_header(str(path))


@pytest.mark.parametrize("word", ["general.architecture", "tokenizer.chat_template", "word7"])
def test_one_wrong_length_in_a_large_file_costs_nothing(word: str, tmp_path: Path) -> None:
    """400 MB of a 600 MB file as one string: within the file, so only its use tells."""
    data = bytearray(header(BASES["llama"]))
    at = data.index(word.encode()) - 8
    data[at : at + 8] = struct.pack("<Q", 400 * MIB)
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(data)
        file.truncate(600 * MIB)
    code = f"""
import resource, time
from xquant_gguf.errors import ModelFileError
from xquant_gguf.gguf_header import read_header
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
try:
    read_header({str(path)!r})
except ModelFileError as error:
    print(error)
assert time.process_time() - started < 2
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 50 * 1024, f"{{grown / 1024:.0f}} MiB"
"""
    assert "model file must be" in run("-c", code)


def test_mutated_headers(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    try:
        model = str(request.getfixturevalue("smollm2"))
    except pytest.skip.Exception:
        model = ""
    run(__file__, tmp_path, model, 0)


def run(*args: object) -> str:
    """A Python process whose address space is 2 GiB."""
    from conftest import subprocess_env

    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        env=subprocess_env(OPENBLAS_NUM_THREADS="1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2048 * MIB, 2048 * MIB)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
