"""Tests compile against a whole tree, also while another build lays out its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cpp_compiler
import llama_trees
import pytest
from gpu import ggml

sys.path.insert(0, str(llama_trees.ROOT / "tests" / "fuzz"))

import programs  # noqa: E402

FILES = ("src/llama-kv-cells.h", "ggml/include/ggml.h")


def lay_out(root: Path, name: str, *files: str) -> Path:
    tree = root / "build" / name / "llama.cpp"
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text("", "utf-8")
    return tree


@pytest.mark.parametrize("find", [cpp_compiler.llama_tree, ggml.tree, programs.tree])
def test_a_tree_that_is_being_laid_out_is_not_taken(
    find: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XQUANT_SRC", raising=False)
    for module in (llama_trees, cpp_compiler, ggml, programs):
        monkeypatch.setattr(module, "ROOT", tmp_path, raising=False)
    lay_out(tmp_path, "begun", *FILES)
    whole = lay_out(tmp_path, "whole", *FILES, llama_trees.STAMP)
    assert find() == whole


def test_a_named_tree_needs_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XQUANT_SRC", str(lay_out(tmp_path, "own", *FILES)))
    assert llama_trees.trees() == [tmp_path / "build/own/llama.cpp"]
