"""A pytest plugin for llama-cpp-python's own tests: ``llama_cpp.Llama`` is our class there.

XQ_SUITE holds JSON: ``kv``, and a model file for each repository that the tests download from.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from typing import Any

import pytest

import xquant_gguf

SUITE = json.loads(os.environ["XQ_SUITE"])


def hf_hub_download(repo_id: str, filename: str, **kwargs: Any) -> str:
    """The local model that stands for one on Hugging Face."""
    if repo_id not in SUITE["models"]:
        pytest.skip(f"no model stands for {repo_id}")
    return str(SUITE["models"][repo_id])


def module(name: str, **contents: Any) -> None:
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made


class Llama(xquant_gguf.Llama):
    """Our class with the cache under test; the vocabulary alone has none."""

    def __init__(self, model_path: str, **kwargs: Any) -> None:
        kv = "f16" if kwargs.get("vocab_only") else SUITE["kv"]
        super().__init__(model_path, **{"kv": kv, **kwargs})


module("huggingface_hub", hf_hub_download=hf_hub_download)
if importlib.util.find_spec("scipy") is None:  # imported, but not used
    module("scipy")
    module("scipy.special", log_softmax=None)

import llama_cpp  # noqa: E402

llama_cpp.Llama = Llama
