"""What the tests that compile C++ need: a compiler, and the tree whose headers they use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from llama_trees import trees


def compiler() -> str:
    """A compiler that takes the flags of g++ or clang++: CXX, c++, g++ or clang++."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    pytest.skip("the C++ tests need c++, g++ or clang++ on PATH, or CXX")


def llama_tree() -> Path:
    """A patched llama.cpp source tree: XQUANT_SRC, or that of a build in this checkout."""
    named = os.environ.get("XQUANT_SRC")
    for tree in trees():
        if (tree / "src" / "llama-kv-cells.h").is_file():
            return tree
    if named:
        pytest.fail(f"XQUANT_SRC must name a llama.cpp tree with src/llama-kv-cells.h; got {named}")
    pytest.skip("the C++ tests need a llama.cpp tree: build the project here, or set XQUANT_SRC")
