"""Every case of the CPU kernels (tests/kernels), by the Vulkan shaders on a device.

A software device will do: Mesa's lavapipe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from kernels import lib, test_attend, test_ranked, test_rotate, test_unbiased
from kernels.case import Shape

from .checks import Check, attention, packing
from .mutants import mutants
from .run_mutants import label
from .test_kernels import MODULES, kernel_tests
from .test_threads import test_spans  # noqa: F401
from .vulkan import PATIENCE, started, vulkan

pytestmark = pytest.mark.slow

for _module in MODULES:
    globals().update(kernel_tests(_module))
for _module in ("edges", "pages"):
    globals().update(kernel_tests(_module, "gpu"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return started(vulkan(tmp_path_factory.mktemp("vulkan")))


@pytest.fixture
def impl(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(lib.others, "vulkan", library)
    return "vulkan"


@pytest.fixture
def strip_impl(impl: str) -> str:
    return impl


# ---- that the cases above see what is wrong ----

DEFECTS = mutants("vulkan_defects.txt")


def put_defects(folder: Path) -> None:
    for defect in sorted(DEFECTS, key=lambda d: -d.nth):
        path = folder / defect.file
        path.write_text(defect.put(path.read_text("utf-8")), encoding="utf-8")


def seen_by(checks: list[Check]) -> str:
    """The check that fails, or ""."""
    for check in checks:
        try:
            check("vulkan")
        except AssertionError:
            return label(check)
    return ""


@pytest.mark.usefixtures("impl")
def test_every_defect_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = started(vulkan(tmp_path, put_defects))
    monkeypatch.setitem(lib.others, "vulkan", changed)
    roots = partial(test_unbiased.test_values_half_way_between_levels, bits=2)
    checks = [*packing(), *attention(), roots]
    assert not seen_by(checks), "without any defect"
    unseen = []
    for defect in DEFECTS:
        changed.xq_set_mutant(defect.number)
        start = time.monotonic()
        check = seen_by(checks)
        print(f"{defect.name:45} {check or 'NOT SEEN':45} {time.monotonic() - start:4.1f} s")
        unseen += [] if check else [defect.name]
    assert not unseen


BARRIERS: dict[str, Check] = {
    "meeting": partial(test_rotate.test_against_the_matrix, block=64, blocks=3),
    "block": partial(test_ranked.test_whole_strips, rows=72, kind="spread"),
    "warp": partial(test_attend.test_random_shapes, shape=Shape(tokens=1, k_bits=3, v_bits=3)),
}
"""What sees that one is missing, in the order of device.glsl."""


@pytest.mark.usefixtures("impl")
@pytest.mark.parametrize("nth", range(len(BARRIERS)), ids=list(BARRIERS))
def test_no_barrier_is_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    def leave_out(folder: Path) -> None:
        parts = (folder / "device.glsl").read_text("utf-8").split("barrier();")
        assert len(parts) == len(BARRIERS) + 1
        text = "barrier();".join(parts[: nth + 1]) + "barrier();".join(parts[nth + 1 :])
        (folder / "device.glsl").write_text(text, encoding="utf-8")

    monkeypatch.setitem(lib.others, "vulkan", started(vulkan(tmp_path, leave_out)))
    assert seen_by([list(BARRIERS.values())[nth]])


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (signal.SIGSEGV, f"the driver ended its process with signal {signal.SIGSEGV:d}"),
        (signal.SIGSTOP, "the device did not come back in 2 s"),
    ],
    ids=("crash", "hang"),
)
def test_a_driver_that_fails(
    library: ctypes.CDLL,
    impl: str,
    capfd: pytest.CaptureFixture[str],
    sent: signal.Signals,
    error: str,
) -> None:
    """The device's process may end or never come back: a test fails, and the next one goes on."""
    check = BARRIERS["meeting"]
    assert library.xq_vulkan_start() == b""
    os.kill(library.xq_vulkan_process(), sent)
    library.xq_vulkan_patience(2)
    try:
        assert seen_by([check])
    finally:
        library.xq_vulkan_patience(PATIENCE)
    assert error in capfd.readouterr().err
    check(impl)
