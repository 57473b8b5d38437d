"""GGUF files that are no language models, and models that keep no keys and values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import subprocess_env
from test_header_fuzz import Value, header

pytestmark = pytest.mark.usefixtures("packed_library")

WORDS = [f"word{i}" for i in range(40)]
FILES: dict[str, tuple[dict[str, Value], str]] = {
    "lora": (
        {
            "general.type": "adapter",
            "general.architecture": "llama",
            "adapter.type": "lora",
            "adapter.lora.alpha": 16.0,
        },
        "ModelFileError",
    ),
    "mmproj": (
        {
            "general.type": "mmproj",
            "general.architecture": "clip",
            "clip.has_vision_encoder": True,
            "clip.vision.block_count": 2,
            "clip.projector_type": "mlp",
        },
        "ModelFileError",
    ),
    "whisper": (
        {
            "general.architecture": "whisper",
            "whisper.encoder.block_count": 4,
            "whisper.decoder.block_count": 4,
            "tokenizer.ggml.tokens": WORDS,
        },
        "UnsupportedModelError",
    ),
    "imatrix": (
        {"general.type": "imatrix", "imatrix.chunk_count": 10},
        "UnsupportedModelError",
    ),
    "vocabulary": (
        {
            "general.architecture": "llama",
            "llama.block_count": 2,
            "llama.context_length": 128,
            "llama.embedding_length": 64,
            "llama.feed_forward_length": 64,
            "llama.attention.head_count": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": WORDS,
            "tokenizer.ggml.scores": [0.5] * len(WORDS),
        },
        "ModelFileError",
    ),
    "nothing": ({}, "UnsupportedModelError"),
}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    keys, error = FILES[request.param]
    path = tmp_path / f"{request.param}.gguf"
    path.write_bytes(header(keys))
    return path, error


@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_llama(file: tuple[Path, str], kv: str) -> None:
    from xquant_gguf import Llama, errors

    path, error = file
    with pytest.raises(getattr(errors, error), match="llama.cpp must") as caught:
        Llama(path, kv=kv, n_ctx=256)
    assert "\n" not in str(caught.value)


def test_the_tools_say_why(file: tuple[Path, str]) -> None:
    """What llama.cpp found, and not only that it did not load the file."""
    from xquant_gguf import errors
    from xquant_gguf.eval.contexts import Model

    path, error = file
    with pytest.raises(getattr(errors, error), match="llama.cpp must.*error loading") as caught:
        Model(str(path))
    assert "[" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "mmproj", "whisper"])
@pytest.mark.parametrize("tool", ["chat", "eval", "calibrate"])
def test_commands(tool: str, name: str, tmp_path: Path) -> None:
    path, text = tmp_path / f"{name}.gguf", tmp_path / "text.txt"
    path.write_bytes(header(FILES[name][0]))
    text.write_text("The capital of France is Paris. " * 50)
    more: dict[str, list[object]] = {"chat": [], "eval": ["--text", text], "calibrate": []}
    done = subprocess.run(
        [sys.executable, "-m", f"xquant_gguf.{tool}", str(path), *map(str, more[tool])],
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=subprocess_env(),
    )
    assert done.returncode == 2
    assert "llama.cpp must" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    ("arch", "why"),
    [
        ("mamba", "keeps no keys and values, its states are recurrent"),
        ("bert", "keeps no keys and values, it reads a text as a whole"),
        ("lfm2-swa", "every attention layer has a sliding window"),
    ],
)
def test_models_with_nothing_to_pack(folder: Path, arch: str, why: str) -> None:
    """The figures say so, instead of numbers that are none or advice that does not help."""
    from xquant_gguf import Llama
    from xquant_gguf.chat import figures

    llm = Llama(tiny.write(folder, arch, arch), n_ctx=256)
    if arch != "bert":
        llm.eval([1, 2, 3])
        assert llm.kv_cache.tokens == 3
    now = llm.kv_cache.snapshot()
    assert now.note.startswith("nothing is packed: ") and why in now.note
    assert why in repr(llm.kv_cache) and why in figures.larger_than_f16(now)
    assert now.code_bits == now.true_bits == now.allocated_bits == 0
    assert now.layers == () and (now.bytes_recurrent > 0) == (arch != "bert")
    json.loads(json.dumps(llm.kv_cache.as_dict(), allow_nan=False))
    assert ("note", now.note) in figures.stats(now, None)
    llm.close()


def test_layers_without_heads(folder: Path) -> None:
    """As in Nemotron-Super: figures divided by the number of heads, which killed the process."""
    from xquant_gguf import Llama

    llm = Llama(tiny.write(folder, "deci", "deci"), n_ctx=1024, kv="xquant")
    llm.eval([i % 500 for i in range(700)])
    now = llm.kv_cache.snapshot()
    assert [layer["il"] for layer in now.layers] == [0, 2, 3]
    assert 0 < now.bytes_total < now.bytes_f16 and not now.note
    json.dumps(llm.kv_cache.as_dict(), allow_nan=False)
    llm.close()
