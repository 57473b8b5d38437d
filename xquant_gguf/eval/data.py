"""Where the evaluation data lie below ``--data``."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError

WIKITEXT = "wikitext-2/wiki.test.raw"
RETRIEVAL = "kv-retrieval/*.jsonl.gz"
TRUTHFULQA = "truthfulqa/TruthfulQA.csv"


def find(root: str | None, pattern: str, needed_by: str) -> Path:
    """The file of a pattern below the data folder, the first by name of several.

    Args:
        root: ``--data``. pattern: one of this module's constants.
        needed_by: the option that wants it, as ``"--retrieval"``.

    Raises:
        ConfigError: no folder given, or no such file in it.
    """
    if root is None:
        raise ConfigError(
            f"{needed_by} needs the data folder", "no --data", f"give --data DIR with {pattern}"
        )
    found = sorted(path for path in Path(root).glob(pattern) if path.is_file())
    if not found:
        raise ConfigError(
            f"{needed_by} needs {pattern} below --data",
            f"no file {Path(root) / pattern}",
            "put it there or correct --data",
        )
    return found[0]


def text_file(text: str | None, root: str | None) -> str:
    """The text to score: ``--text``, else WikiText-2 below ``--data``.

    Raises:
        ConfigError: neither is given, or the data folder lacks the text.
    """
    if text is not None:
        return text
    if root is None:
        raise ConfigError(
            "KL needs a text",
            "neither --text nor --data",
            f"give --text FILE, or --data DIR with {WIKITEXT}; --tokens 0 leaves KL out",
        )
    return str(find(root, WIKITEXT, "KL without --text"))
