"""A real model whose layers lie on the fake Metal device: packed nodes there, the rest on the CPU.

What tests the device itself is test_metal_nodes.py; here it is libllama's questions to
the backend, its buffers, graph allocation and sessions.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .build import CPP, HERE
from .ggml import compiled, linked
from .metal import backend, device, metal_tree
from .test_device import on

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.usefixtures("packed_library")]


@pytest.fixture(scope="module")
def metal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("metal")
    include = f"-isystem{metal_tree() / 'ggml/src/ggml-metal'}"
    objects = compiled([HERE / "metal_registered.cpp"], out, include, "-O2")
    library = backend(out / "build", CPP, "-O2")
    return linked([*objects, *device(out, "-O2"), library], out / "device.so", "-shared")


def test_all_layers_on_a_device(metal: Path, smollm2: Path) -> None:
    """A part of the graph for every layer's packed nodes, and the parts between them.

    The fake device has no plain multiplication, so each layer's factors of keys and queries end two
    parts more.
    """
    printed = on(metal, "one", smollm2)
    assert set(re.findall(r"splits = (\d+) / (\d+)", printed)) == {("121", "121")}
    assert "MTL0_Private KV buffer size" in printed and "CPU KV buffer size" not in printed


def test_a_pair_on_two_devices_does_not_share(metal: Path, smollm2: Path) -> None:
    printed = on(metal, "two", smollm2)
    assert "layers 14 and 15 lie on different devices and do not share codes" in printed
    assert "MTL1_Private KV buffer size" in printed


def test_a_compiler_that_refuses_the_kernels(metal: Path, smollm2: Path) -> None:
    """A sentence with the remedy, and the remedy works."""
    on(metal, "refused", smollm2)
