"""``import llama_cpp`` finds our library in every order, and leaves another one's owner alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from xquant_gguf import _dropin

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = _dropin.library_names()[0]
SHOW = "import os, llama_cpp; print(os.environ.get('LLAMA_CPP_LIB_PATH'))"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages folder as the wheel leaves it, with a llama_cpp that has no library."""
    folder = tmp_path / "site"
    library = folder / "xquant_gguf" / "lib"
    library.mkdir(parents=True)
    (library / LIBRARY).touch()
    shutil.copy(ROOT / "python" / "install" / "xquant_gguf.pth", folder)
    shutil.copy(ROOT / "xquant_gguf" / "_dropin.py", folder / "_xquant_gguf_dropin.py")
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp" / "__init__.py").touch()
    return folder


def run(site: Path, code: str, **env: str) -> str:
    """Run code where ``site`` is the only site-packages folder; standard error must stay empty."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XQUANT", "LLAMA", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import site; site.addsitedir({str(site)!r})\n{code}"],
        capture_output=True,
        text=True,
        env={**clean, **env},
        cwd=site.parent,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def test_llama_cpp_without_a_library_is_given_ours(site: Path) -> None:
    assert run(site, SHOW) == str(site / "xquant_gguf" / "lib")


@pytest.mark.parametrize("name", _dropin.library_names())
def test_llama_cpp_with_its_own_library_keeps_it(site: Path, name: str) -> None:
    (site / "llama_cpp" / "lib").mkdir()
    (site / "llama_cpp" / "lib" / name).touch()
    assert run(site, SHOW) == "None"


def test_what_the_user_names_stays(site: Path, tmp_path: Path) -> None:
    assert run(site, SHOW, LLAMA_CPP_LIB_PATH="elsewhere") == "elsewhere"
    own = tmp_path / "own build"
    own.mkdir()
    assert run(site, SHOW, XQUANT_GGUF_LIB=str(own)) == "None"  # nothing in it
    (own / LIBRARY).touch()
    assert run(site, SHOW, XQUANT_GGUF_LIB="own build") == str(own)


def test_nothing_is_touched_before_llama_cpp_is_imported(site: Path) -> None:
    # a program of another environment that is started from here would inherit the variable
    code = "import os, sys; print('LLAMA_CPP_LIB_PATH' in os.environ, 'xquant_gguf' in sys.modules)"
    assert run(site, code) == "False False"


def test_a_llama_cpp_that_comes_later_on_the_path_is_seen(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "llama_cpp"
    (other / "lib").mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "lib" / LIBRARY).touch()
    assert run(site, f"import sys; sys.path.insert(0, {str(other.parent)!r})\n{SHOW}") == "None"


def test_a_broken_installation_says_nothing(site: Path) -> None:
    missing = "import importlib.util as u; print(u.find_spec('llama_cpp'))"
    shutil.rmtree(site / "llama_cpp")
    assert run(site, missing) == "None"
    shutil.rmtree(site / "xquant_gguf")
    assert run(site, missing) == "None"
    (site / "_xquant_gguf_dropin.py").write_text("raise RuntimeError")
    assert run(site, missing) == "None"
    (site / "_xquant_gguf_dropin.py").unlink()
    assert run(site, missing) == "None"


def test_an_import_that_fails_inside_is_not_hidden(site: Path) -> None:
    (site / "llama_cpp" / "__init__.py").write_text("raise ImportError('its own words')")
    code = "try:\n import llama_cpp\nexcept ImportError as error:\n print(error)"
    assert run(site, code) == "its own words"


def test_it_is_installed_once_and_removes_itself(site: Path) -> None:
    code = (
        "import sys, _xquant_gguf_dropin as d; d.install('x'); names = lambda: [type(f).__name__ "
        "for f in sys.meta_path].count('_Waiting'); before = names(); import llama_cpp; "
        "d.install('x'); print(before, names())"
    )
    assert run(site, code) == "1 0"


def test_starting_python_takes_no_longer(site: Path) -> None:
    code = (
        "import time, sys; sys.path.insert(0, {!r}); modules = set(sys.modules); "
        "start = time.process_time(); line = open({!r}).read(); exec(line); "
        "print(time.process_time() - start, sorted(set(sys.modules) - modules))"
    ).format(str(site), str(site / "xquant_gguf.pth"))
    seconds, _, modules = run(site, code).partition(" ")
    assert modules == "[]"  # the .pth has loaded it already: nothing else is
    assert float(seconds) < 0.02
    fresh = code.replace("modules = set", "sys.modules.pop('_xquant_gguf_dropin'); modules = set")
    seconds, _, modules = run(site, fresh).partition(" ")
    assert set(eval(modules)) <= {"_xquant_gguf_dropin", "__future__"}
    assert float(seconds) < 0.02


def test_a_llama_cpp_that_appears_after_a_first_look_is_helped(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "llama_cpp"
    other.mkdir(parents=True)
    shutil.move(str(site / "llama_cpp" / "__init__.py"), other)
    (site / "llama_cpp").rmdir()
    look = "import sys, importlib.util as u; assert u.find_spec('llama_cpp') is None"
    code = f"{look}; sys.path.insert(0, {str(other.parent)!r}); {SHOW}"
    assert run(site, code) == str(site / "xquant_gguf" / "lib")


def test_the_package_does_it_without_the_pth(site: Path) -> None:
    (site / "xquant_gguf.pth").unlink()
    for name in ("__init__.py", "_dropin.py"):
        shutil.copy(ROOT / "xquant_gguf" / name, site / "xquant_gguf")
    assert run(site, f"import xquant_gguf; {SHOW}") == str(site / "xquant_gguf" / "lib")


# the installed package

ORDERS = {
    "llama_cpp alone": "import llama_cpp; llama_cpp.llama_backend_init()",
    "the package first": "import xquant_gguf; import llama_cpp",
    "llama_cpp first": "import llama_cpp; from xquant_gguf import Llama",
    "our class first": "from xquant_gguf import Llama; import llama_cpp",
}


def installed(*args: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed package alone; skips where there is none."""
    try:
        files = metadata.files("xquant-gguf") or []
    except metadata.PackageNotFoundError:
        files = []
    if not any(file.name == "xquant_gguf.pth" for file in files):
        pytest.skip("xquant-gguf is not installed here: pip install .")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XQUANT", "LLAMA", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        env=clean,
        cwd=Path.home(),
        timeout=300,
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_import_order_works_in_an_installed_environment(order: str) -> None:
    done = installed("-c", ORDERS[order])
    assert (done.returncode, done.stderr) == (0, "")


def test_llama_cpp_answers_alone_in_an_installed_environment(smollm2: Path) -> None:
    code = (
        "import llama_cpp; llm = llama_cpp.Llama({!r}, n_ctx=256, n_threads=2, verbose=False); "
        "print(llm('The capital of France is', max_tokens=4, temperature=0)['choices'][0]['text'])"
    )
    done = installed("-c", code.format(str(smollm2)))
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_llama_cpp_server_starts_in_an_installed_environment() -> None:
    pytest.importorskip("uvicorn", reason="llama-cpp-python[server] is not installed")
    done = installed("-m", "llama_cpp.server", "--help")
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout
