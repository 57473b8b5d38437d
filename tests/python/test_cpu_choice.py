"""XQUANT_CPU: a name that means nothing here is refused, and nothing runs in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from conftest import subprocess_env

pytestmark = pytest.mark.usefixtures("packed_library")

RULE = "XQUANT_CPU must name kernels that run on this machine: "
REST = "generic; got 'nonsense'; correct it, or unset it for the best ones"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model"), "small")


def run(code: str, name: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=subprocess_env(XQUANT_CPU=name, **more),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def refused(code: str, name: str = "nonsense") -> None:
    text = run(
        f"""
from xquant_gguf import ConfigError
try:
    {code}
except ConfigError as error:
    print(error)
""",
        name,
    )
    assert text.startswith(RULE) and text.endswith(REST.replace("nonsense", name))


def test_llama(model: Path) -> None:
    refused(f"from xquant_gguf import Llama; Llama({str(model)!r})")
    refused(f"from xquant_gguf import Llama; Llama({str(model)!r})", "GENERIC")


def test_tools(model: Path) -> None:
    refused(
        "from xquant_gguf.eval.contexts import Context, Model; from xquant_gguf import PRESETS;"
        f"Context(Model({str(model)!r}), PRESETS['tiny'], n_ctx=256, threads=1)"
    )
    refused("from xquant_gguf import _native; _native.load().cpu_implementations()")


def test_callers_of_the_library(model: Path) -> None:
    """Without ``xq_config_set``: as llama-server does it."""
    text = run(
        f"""
from xquant_gguf import _native
native = _native.load()
import llama_cpp
params = llama_cpp.llama_model_default_params()
model = llama_cpp.llama_model_load_from_file({str(model)!r}.encode(), params)
params = llama_cpp.llama_context_default_params()
params.type_k = params.type_v = native.ggml_type()
params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
assert not llama_cpp.llama_init_from_model(model, params)
print(native.last_error())
""",
        "nonsense",
    )
    assert text.startswith(f"xquant: {RULE}") and text.endswith(REST)


def test_stock_caches_do_not_ask(model: Path) -> None:
    code = f"from xquant_gguf import Llama; print(Llama({str(model)!r}, kv='f16').n_ctx())"
    assert run(code, "nonsense") == "512"


@pytest.mark.parametrize("name", ["", "generic"])
def test_names_that_are_known(model: Path, name: str) -> None:
    code = f"""
from xquant_gguf import Llama, _native
Llama({str(model)!r}).eval(list(range(40)))
print(_native.load().cpu_implementations()[0])
"""
    assert run(code, name) == name or not name


def test_the_chat_says_it_in_one_line(
    model: Path, run_chat: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XQUANT_CPU", "nonsense")
        done = run_chat(model, stdin="hello\n")
    assert done.returncode == 2
    assert RULE in done.stderr and done.stderr.count("\n") <= 2, done.stderr
