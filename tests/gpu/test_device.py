"""A real model on an emulated device: buffers, scheduling, sessions, refusals.

Packed layers go through the CUDA host code; the rest of the model is computed by ggml's CPU
backend on memory that crashes whoever takes it for the host's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import subprocess_env

from .build import LIMIT
from .ggml import EMULATED, HERE, compiled, linked

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.usefixtures("packed_library")]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("device")
    objects = compiled([*EMULATED, HERE / "emulated_device.cpp"], out, "-O2")
    return linked(objects, out / "device.so", "-shared")


def on(device: Path, case: str, model: Path) -> str:
    env = subprocess_env()
    path = os.pathsep.join([str(HERE.parent), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "gpu.on_device", str(device), case, str(model)],
        env={**env, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    assert done.returncode == 0 and done.stdout.endswith("passed\n"), done.stdout[-4000:]
    return done.stdout


def test_all_layers_on_a_device(device: Path, smollm2: Path) -> None:
    """Two parts of the graph: the token embedding on the CPU, and everything else."""
    printed = on(device, "one", smollm2)
    assert "splits = 2 / 2" in printed
    assert "EMU0 KV buffer size" in printed and "CPU KV buffer size" not in printed


def test_a_pair_on_two_devices_does_not_share(device: Path, smollm2: Path) -> None:
    printed = on(device, "two", smollm2)
    assert "layers 14 and 15 lie on different devices and do not share codes" in printed
    assert "EMU1 KV buffer size" in printed


def test_a_device_without_packed_kernels_is_refused(device: Path, smollm2: Path) -> None:
    on(device, "none", smollm2)


def test_the_self_test_on_a_device(device: Path, smollm2: Path) -> None:
    """Layers by their nodes, and a reply; what a machine with a GPU runs."""
    printed = on(device, "selftest", smollm2)
    assert "EMU0         attention" in printed and "FAIL" not in printed
