"""Every case of the CPU kernels (tests/kernels), on the emulated GPU kernels."""

from __future__ import annotations

import importlib
import inspect

MODULES = (
    "attend",
    "attend_ranked",
    "format",
    "not_finite",
    "ranked",
    "rotate",
    "seal",
    "seal_layer",
    "unbiased",
)


def kernel_tests(module: str, package: str = "kernels") -> dict[str, object]:
    """Tests that take an implementation, under names that tell the modules apart."""
    found = vars(importlib.import_module(f"{package}.test_{module}"))
    return {
        f"test_{module}_{name[5:]}": test
        for name, test in found.items()
        if name.startswith("test_")
        and callable(test)
        and {"impl", "strip_impl"} & set(inspect.signature(test).parameters)
    }


for _module in MODULES:
    globals().update(kernel_tests(_module))
