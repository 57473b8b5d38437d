"""A pytest plugin: the tests that the file XQUANT_TESTS names, and a line for each that is through.

The lines go to the file number XQUANT_OUTCOMES.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = set(Path(os.environ["XQUANT_TESTS"]).read_text("utf-8").splitlines())
    items[:] = [item for item in items if item.nodeid in wanted]


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    over = report.when == "call" or report.outcome != "passed"
    if not over or report.when == "teardown":
        return
    why = ""
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message if crash else report.longrepr)[:300]
    line = "\t".join([report.nodeid, report.outcome, " ".join(why.split())])
    os.write(int(os.environ["XQUANT_OUTCOMES"]), (line + "\n").encode())
