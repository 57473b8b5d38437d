"""llama-cpp-python's own tests, from the pinned sdist, with our class in place of theirs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tiny
from conftest import ROOT, subprocess_env

pytestmark = [pytest.mark.model, pytest.mark.slow]

VOCABULARY = "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"

_TINY = "wants a vocabulary with BOS, EOS and newline; the tiny models' test vocabulary has none"
_LOADED = "test_loaded_exact_cached_prompt_reuse_matches_fresh[{}]"

DIFFERENT = {
    # name in test_llama.py: why its outcome is not that of upstream's own run
    "test_real_model": "checks token ids of Qwen3.5; Qwen2.5 stands for it. Llama is not used",
    "test_recurrent_model_prompt_cache_reset": _TINY,
    "test_hybrid_model_prompt_cache_reset": _TINY,
    _LOADED.format("llama_cpp_recurrent_model_path-True-False"): _TINY,
    _LOADED.format("llama_cpp_hybrid_model_path-False-True"): _TINY,
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, with its tests and the vocabulary that they read."""
    fetch = [sys.executable, ROOT / "python/build/upstream.py", "fetch"]
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the sdist cannot be fetched: {done.stderr.strip()}")
    folder = tmp_path_factory.mktemp("sdist")
    sdist = Path(done.stdout.splitlines()[-1])
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = member.name.removeprefix(top + "/")
            if member.isfile() and (name == VOCABULARY or re.fullmatch(r"tests/\w+\.py", name)):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file = archive.extractfile(member)
                assert file
                target.write_bytes(file.read())
    return folder


@pytest.fixture(scope="module")
def models(smollm2: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Local models for the repositories that the tests download from."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "ggml-org/models": str(smollm2),
        "lmstudio-community/Qwen3.5-0.8B-GGUF": str(qwen),
        "QuantFactory/mamba-130m-hf-GGUF": str(tiny.write(folder, "mamba", "mamba")),
        "tiiuae/Falcon-H1-Tiny-90M-Instruct-GGUF": str(tiny.write(folder, "h1", "falcon-h1")),
        "CompendiumLabs/bge-small-en-v1.5-gguf": str(tiny.write(folder, "bert", "bert")),
    }


@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_their_tests_pass(suite: Path, models: dict[str, str], kv: str) -> None:
    out = suite / "results.xml"
    command = [sys.executable, "-m", "pytest", "-p", "plugin", "-q", "-rA", "--tb=short", "tests"]
    env = subprocess_env(XQ_SUITE=json.dumps({"kv": kv, "models": models}))
    env["PYTHONPATH"] = f"{Path(__file__).parent / 'upstream'}:{env['PYTHONPATH']}"
    done = subprocess.run(
        [*command, f"--junitxml={out}", "-c", "/dev/null", "--rootdir", str(suite)],
        cwd=suite,
        capture_output=True,
        text=True,
        env=env,
        timeout=900,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (\S+)", done.stdout, re.MULTILINE)
    passed = [name for outcome, name in outcomes if outcome == "PASSED"]
    others = {name.split("::")[-1] for outcome, name in outcomes if outcome != "PASSED"}
    assert others == set(DIFFERENT), done.stdout[-6000:]
    assert len(passed) > 20, done.stdout[-6000:]
