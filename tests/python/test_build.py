"""The build helpers: the pin, the patch applier, the tree they prepare, and what a failure says."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "build"))

import stock  # noqa: E402
import unidiff  # noqa: E402
import upstream  # noqa: E402

PATCHES = sorted((ROOT / "patches").glob("*.patch"))
ADDED_LINES_AT_MOST = 150

Project = tuple[Path, Path, Path]
Failure = Callable[..., str]

OLD = b"".join(b"line %d\n" % i for i in range(1, 21))
DIFF = b"""\
An explanation, as git writes one above a diff.

diff --git a/src/a.cpp b/src/a.cpp
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -2,3 +2,4 @@ void f() {
 line 2
+added
 line 3
 line 4
@@ -10,3 +11,3 @@
 line 10
-line 11
+changed
 line 12
"""
NEW = OLD.replace(b"line 3\n", b"added\nline 3\n").replace(b"line 11\n", b"changed\n")


# ---- the pin ----


def test_pin_is_complete_and_agrees_with_the_dependency() -> None:
    pin = upstream.read_pin()
    assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
    assert pin.sdist == f"{pin.name.replace('-', '_')}-{pin.version}.tar.gz"
    assert f'"{pin.name}=={pin.version}"' in (ROOT / "pyproject.toml").read_text("utf-8")


# ---- the applier ----


def test_applies_every_hunk() -> None:
    hunks = unidiff.parse(DIFF)["src/a.cpp"]
    assert unidiff.apply(OLD, hunks) == NEW
    assert [hunk.added for hunk in hunks] == [1, 1]


def test_accepts_a_moved_hunk_only_where_it_is_unique() -> None:
    hunks = unidiff.parse(DIFF)["src/a.cpp"]
    assert unidiff.apply(b"above\n" + OLD, hunks) == b"above\n" + NEW
    with pytest.raises(unidiff.PatchError, match="2 places fit"):
        unidiff.apply(b"above\n" + OLD + OLD, hunks)


@pytest.mark.parametrize("line", [b"line 2\n", b"line 4\n", b"line 11\n"])
@pytest.mark.parametrize("change", [lambda s: s.upper(), lambda s: s.replace(b"\n", b"\r\n")])
def test_refuses_context_that_differs(line: bytes, change: Callable[[bytes], bytes]) -> None:
    hunks = unidiff.parse(DIFF)["src/a.cpp"]
    with pytest.raises(unidiff.PatchError, match="context is not in the file"):
        unidiff.apply(OLD.replace(line, change(line)), hunks)


def test_refuses_to_apply_twice() -> None:
    hunks = unidiff.parse(DIFF)["src/a.cpp"]
    with pytest.raises(unidiff.PatchError):
        unidiff.apply(unidiff.apply(OLD, hunks), hunks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"prose only\n", "no hunks"),
        (DIFF[: DIFF.index(b"-line 11")], "ends inside a hunk"),
        (DIFF.replace(b" line 12\n", b"*line 12\n"), "line 15: not a hunk line"),
        (DIFF.replace(b"-10,3 +11,3", b"-10,3"), "malformed hunk header"),
        (DIFF.replace(b"-10,3 +11,3", b"-10,2 +11,3"), "line counts are wrong"),
        (DIFF.replace(b"--- a/src/a.cpp", b"--- /dev/null"), "adds or removes a file"),
        (DIFF.replace(b"+++ b/src/a.cpp", b"+++ b/src/b.cpp"), "renames"),
        (DIFF.replace(b"src/a.cpp", b"../a.cpp"), "bad path"),
        (DIFF + b"\\ No newline at end of file\n", "final newline"),
        (b"--- a/x\n+++ b/x\n@@ -3,0 +4,1 @@\n+new\n", "needs context"),
    ],
)
def test_refuses_malformed_diffs(text: bytes, message: str) -> None:
    with pytest.raises(unidiff.PatchError, match=message):
        unidiff.parse(text)


# ---- the tree ----


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small own tree, an empty tree to prepare, and a series of one patch."""
    own = tmp_path / "own"
    for name in ("src/llama-kv-cache.cpp", "src/a.cpp", "src/b.cpp"):
        write(own / name, OLD)
    for name in ("models/vocab.gguf", ".git/HEAD", "build/x.o", "src/.hidden"):
        write(own / name, b"not needed\n")
    write(tmp_path / "patches" / "0001-a.patch", DIFF)
    return own, tmp_path / "tree", tmp_path / "patches"


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def contents(tree: Path) -> dict[str, bytes]:
    files = (path for path in tree.rglob("*") if path.is_file() and path.name != upstream.STAMP)
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in files}


def times(tree: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}


def age(tree: Path) -> dict[Path, int]:
    for path in tree.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return times(tree)


def rewritten(tree: Path, before: dict[Path, int]) -> set[str]:
    now = times(tree)
    return {p.name for p in now if now[p] != before.get(p) and p.name != upstream.STAMP}


def test_copies_and_patches_without_touching_the_source(project: Project) -> None:
    own, tree, patches = project
    before = contents(own)
    upstream.prepare(tree, upstream.Directory(own), patches)
    expected = {"src/llama-kv-cache.cpp": OLD, "src/a.cpp": NEW, "src/b.cpp": OLD}
    assert contents(tree) == expected
    assert contents(own) == before


def test_second_run_writes_nothing(project: Project) -> None:
    own, tree, patches = project
    assert upstream.prepare(tree, upstream.Directory(own), patches)
    before = age(tree)
    assert not upstream.prepare(tree, upstream.Directory(own), patches)
    assert times(tree) == before


def test_a_changed_series_rewrites_only_what_changes(project: Project) -> None:
    own, tree, patches = project
    write(patches / "0002-b.patch", DIFF.replace(b"a.cpp", b"b.cpp"))
    upstream.prepare(tree, upstream.Directory(own), patches)

    before = age(tree)
    write(patches / "0002-b.patch", b"Other words.\n" + DIFF.replace(b"a.cpp", b"b.cpp"))
    assert upstream.prepare(tree, upstream.Directory(own), patches)
    assert rewritten(tree, before) == set()

    write(patches / "0002-b.patch", DIFF.replace(b"a.cpp", b"b.cpp").replace(b"changed", b"other"))
    upstream.prepare(tree, upstream.Directory(own), patches)
    assert rewritten(tree, before) == {"b.cpp"}

    (patches / "0002-b.patch").unlink()
    upstream.prepare(tree, upstream.Directory(own), patches)
    assert contents(tree)["src/b.cpp"] == OLD
    assert contents(tree)["src/a.cpp"] == NEW


def test_patches_apply_in_name_order(project: Project) -> None:
    own, tree, patches = project
    second = b"--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -2,2 +2,2 @@\n line 2\n-added\n+added later\n"
    write(patches / "0002-again.patch", second)
    upstream.prepare(tree, upstream.Directory(own), patches)
    assert contents(tree)["src/a.cpp"] == NEW.replace(b"added\n", b"added later\n")


def test_a_changed_own_tree_is_followed(project: Project) -> None:
    own, tree, patches = project
    upstream.prepare(tree, upstream.Directory(own), patches)
    before = age(tree)
    write(own / "src" / "new.cpp", b"new\n")
    (own / "src" / "b.cpp").unlink()
    upstream.prepare(tree, upstream.Directory(own), patches)
    assert set(contents(tree)) == {"src/llama-kv-cache.cpp", "src/a.cpp", "src/new.cpp"}
    assert rewritten(tree, before) == {"new.cpp"}


def test_a_failed_run_is_repaired_by_the_next(project: Project) -> None:
    own, tree, patches = project
    upstream.prepare(tree, upstream.Directory(own), patches)
    write(patches / "0001-a.patch", DIFF.replace(b" line 2\n", b" line two\n"))
    with pytest.raises(upstream.BuildError, match=r"0001-a.patch does not fit src/a.cpp"):
        upstream.prepare(tree, upstream.Directory(own), patches)
    write(patches / "0001-a.patch", DIFF)
    upstream.prepare(tree, upstream.Directory(own), patches)
    assert contents(tree)["src/a.cpp"] == NEW


def test_diff_gives_back_the_series(project: Project, tmp_path: Path) -> None:
    own, tree, patches = project
    source = upstream.Directory(own)
    upstream.prepare(tree, source, patches)
    write(tmp_path / "again" / "0001-all.patch", upstream.diff(tree, source).encode())
    before = age(tree)
    upstream.prepare(tree, source, tmp_path / "again")
    assert rewritten(tree, before) == set()


def test_diff_of_one_patch_leaves_out_the_files_of_others(project: Project) -> None:
    own, tree, patches = project
    other = DIFF.replace(b"src/a.cpp", b"src/b.cpp")
    write(patches / "0002-b.patch", other)
    source = upstream.Directory(own)
    upstream.prepare(tree, source, patches)
    for name, text in (("0001-a.patch", DIFF), ("0002-b.patch", other)):
        others = upstream.files_of_others(patches, name)
        written = upstream.diff(tree, source, others).encode()
        assert set(unidiff.parse(written)) == set(unidiff.parse(text))


# ---- the series ----


def hook_table() -> set[str]:
    text = (ROOT / "patches" / "README.md").read_text("utf-8")
    return set(re.findall(r"^\| *`([^`]+)` *\|", text, re.MULTILINE))


def test_series_stays_within_its_budget() -> None:
    added = 0
    for path in PATCHES:
        assert path.read_bytes().startswith(b"--- a/")  # the patch, nothing a tool printed
        for hunks in unidiff.parse(path.read_bytes()).values():
            added += sum(hunk.added for hunk in hunks)
    assert added <= ADDED_LINES_AT_MOST


def test_series_touches_exactly_the_files_of_the_hook_table() -> None:
    touched: set[str] = set()
    for path in PATCHES:
        touched |= set(unidiff.parse(path.read_bytes()))
    assert touched == hook_table()


def test_series_fits_the_pinned_upstream(tmp_path: Path) -> None:
    pin = upstream.read_pin()
    if not (upstream.cache_dir() / pin.sha256 / pin.sdist).is_file():
        pytest.skip("the pinned sdist is not in the cache")
    upstream.prepare(tmp_path / "tree", upstream.Archive(pin), ROOT / "patches")
    assert (tmp_path / "tree" / "LICENSE").is_file()


# ---- failures: one line with step, reason and remedy ----


@pytest.fixture
def failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Failure:
    """Run upstream.py with an empty cache; return the one line it fails with."""
    monkeypatch.setenv("XQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XQUANT_LLAMA_CPP", raising=False)

    def run(*args: str) -> str:
        assert upstream.main(["prepare", "--tree", str(tmp_path / "tree"), *args]) == 1
        line = capfd.readouterr().err
        assert line.count("\n") == 1
        assert re.match(r"xquant_gguf build, step '[a-z ]+': .+\. Remedy: .+\.\n", line)
        return str(line)

    return run


def fake_pip(tmp_path: Path, body: str) -> list[str]:
    script = tmp_path / "pip.py"
    script.write_text("import sys, pathlib\n" + body, "utf-8")
    return [sys.executable, str(script)]


def test_without_pip(failure: Failure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "pip_command", lambda: None)
    line = failure()
    assert "step 'download'" in line and "has no pip" in line and "ensurepip" in line


def test_without_network(failure: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = "sys.exit('WARNING: retrying\\nERROR: No matching distribution found for it')"
    monkeypatch.setattr(upstream, "pip_command", lambda: fake_pip(tmp_path, says))
    line = failure()
    assert "(No matching distribution found for it)" in line
    assert "network" in line and str(tmp_path / "cache" / upstream.read_pin().sha256) in line


@pytest.mark.parametrize("data", [None, b"something else"])
def test_with_a_wrong_file(
    failure: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None
) -> None:
    pin = upstream.read_pin()
    place = f"pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], {pin.sdist!r})"
    body = f"{place}.write_bytes({data!r})" if data else "pass"
    monkeypatch.setattr(upstream, "pip_command", lambda: fake_pip(tmp_path, body))
    line = failure()
    assert "step 'check'" in line and f"expected {pin.sha256}" in line
    if data:
        assert hashlib.sha256(data).hexdigest() in line
    assert not list((tmp_path / "cache").rglob("*.tar.gz"))


def test_a_damaged_cache_is_fetched_again(
    failure: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = upstream.read_pin()
    write(tmp_path / "cache" / pin.sha256 / pin.sdist, b"half a file")
    monkeypatch.setattr(upstream, "pip_command", lambda: None)
    assert "step 'download'" in failure()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes anywhere")
def test_with_a_cache_that_cannot_be_written(failure: Failure, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    assert "step 'cache'" in failure()


def test_with_a_cache_below_a_file(failure: Failure, tmp_path: Path) -> None:
    write(tmp_path / "cache", b"")
    assert "set XQUANT_CACHE" in failure()


def test_with_an_own_tree_that_is_none(failure: Failure, tmp_path: Path) -> None:
    assert "step 'own tree'" in failure("--source", str(tmp_path))


def test_cmake_shows_the_line(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if not cmake:
        pytest.skip("no cmake")
    places = ["-S", str(ROOT), "-B", str(tmp_path / "build")]
    command = [cmake, *places, f"-DXQUANT_LLAMA_CPP={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert re.search(r"step 'own tree': .+Remedy: .+", result.stderr)


def test_a_stock_build_outlives_the_venv_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next venv has another ninja; the build tree stays as it was."""
    ninja = shutil.which("ninja")
    if not ninja or not shutil.which("cmake"):
        pytest.skip("no cmake or no ninja")
    write(
        tmp_path / "project" / "CMakeLists.txt",
        b"cmake_minimum_required(VERSION 3.21)\n"
        b"project(a NONE)\nfile(WRITE ${PROJECT_BINARY_DIR}/bin/made yes)\n",
    )
    monkeypatch.setattr(stock, "ROOT", tmp_path / "project")
    monkeypatch.setenv("XQUANT_CACHE", str(tmp_path / "cache"))
    path, trees = os.environ["PATH"], set()
    for venv in (tmp_path / "first", tmp_path / "second"):
        venv.mkdir()
        (venv / "ninja").symlink_to(Path(ninja).resolve())
        monkeypatch.setenv("PATH", f"{venv}{os.pathsep}{path}")
        trees.add(stock.build())
        shutil.rmtree(venv)
    assert len(trees) == 1 and (trees.pop() / "made").is_file()
