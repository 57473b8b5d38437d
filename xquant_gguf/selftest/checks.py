"""A group of cases that share one measure and one budget, and what came out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .kernels import Kernels

Cases = Iterator[tuple[str, float]]
"""Name and error of every case."""

BYTES, NMSE = "bytes differ", "NMSE"


@dataclass(frozen=True)
class Group:
    """Cases of one kernel.

    Attributes:
        name: what is checked. unit: ``BYTES`` or ``NMSE``.
        budget: largest error that passes; 0 for bytes.
        cases: runs them all with one implementation; ``threads`` is how many a layer may use.
        gpu_budget: the budget on a GPU, which multiplies prompts in f16; None: single strips,
            which only the CPU takes.
    """

    name: str
    unit: str
    budget: float
    cases: Callable[[Kernels, str, int], Cases]
    gpu_budget: float | None = None


@dataclass(frozen=True)
class Result:
    """A group's outcome with one implementation.

    Attributes:
        worst: largest error, infinite if something was not finite or a write went beyond
            its array. where: the case that had it.
    """

    group: str
    implementation: str
    unit: str
    budget: float
    cases: int
    worst: float
    where: str

    @property
    def passed(self) -> bool:
        """Whether every case kept within the budget."""
        return self.cases > 0 and self.worst <= self.budget


def run(group: Group, kernels: Kernels, name: str, threads: int, gpu: bool = False) -> Result:
    """All cases of a group with the implementation ``name``, which is a device with ``gpu``."""
    budget = group.gpu_budget if gpu and group.gpu_budget is not None else group.budget
    worst, where, n = 0.0, "", 0
    for case, error in group.cases(kernels, name, threads):
        n += 1
        if not error <= worst:
            worst, where = (math.inf if math.isnan(error) else error), case
    return Result(group.name, name, group.unit, budget, n, worst, where)


def nmse(got: npt.NDArray[np.floating], want: npt.NDArray[np.floating]) -> float:
    """Square error over the square of what was wanted; infinite unless all is finite."""
    if not np.isfinite(got).all():
        return math.inf
    wide = want.astype(np.float64)
    error, power = float(np.square(got - wide).sum()), float(np.square(wide).sum())
    if power == 0:
        return 0.0 if error == 0 else math.inf
    return error / power


def bytes_off(got: npt.NDArray[np.generic], want: npt.NDArray[np.generic]) -> int:
    """Bytes in which two arrays of the same size differ."""
    pair = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (got, want))
    return int(np.not_equal(*pair).sum())
