"""A locale with decimal commas: the system's, or one that localedef builds into a folder.

``XQUANT_TEST_LOCALE=de_DE.UTF-8 pytest tests`` runs the tests of a session in it (conftest.py).
"""

from __future__ import annotations

import locale
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "de_DE.UTF-8"
_PROBE = (
    "import locale, sys; locale.setlocale(locale.LC_ALL, sys.argv[1]); "
    "sys.exit(locale.localeconv()['decimal_point'] != ',')"
)


class NoLocale(Exception):
    """The locale is not installed and cannot be built; the text says what to install."""


def environment(folder: Path, name: str = NAME) -> dict[str, str]:
    """What a process needs in its environment to find the locale: nothing, or LOCPATH.

    Args:
        folder: where it is built if the system lacks it.

    Raises:
        NoLocale: it is not installed, and localedef or its sources are missing.
    """
    for found in ({}, {"LOCPATH": str(folder)}):
        if _works(name, found):
            return found
    localedef = shutil.which("localedef")
    if localedef is None:
        raise NoLocale(f"no locale {name} and no localedef to build it with")
    folder.mkdir(parents=True, exist_ok=True)
    source, _, charmap = name.partition(".")
    built = subprocess.run(
        [localedef, "--quiet", "-i", source, "-f", charmap or "UTF-8", str(folder / name)],
        capture_output=True,
        text=True,
    )
    found = {"LOCPATH": str(folder)}
    if not _works(name, found):
        why = " ".join(built.stderr.split()) or "it has no decimal comma"
        raise NoLocale(f"no locale {name}: {why}; install Debian's package locales, or {name}")
    return found


def enter(folder: Path, name: str) -> None:
    """Put this process into the locale.

    Raises:
        NoLocale: see :func:`environment`.
    """
    os.environ.update(environment(folder, name))
    locale.setlocale(locale.LC_ALL, name)


def _works(name: str, env: dict[str, str]) -> bool:
    command = [sys.executable, "-c", _PROBE, name]
    return (
        subprocess.run(command, env={**os.environ, **env}, stderr=subprocess.DEVNULL).returncode
        == 0
    )
