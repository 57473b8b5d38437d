"""Markdown tables: as they are in a file or a pipe, drawn to fit on a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(markdown: str) -> None:
    """Print text with Markdown tables on standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        print(markdown)
        return
    for is_table, lines in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            console.print(_table([_cells(line) for line in lines]))
        else:
            console.print(Text("\n".join(lines)))


def _table(rows: list[list[str]]) -> Table:
    table = Table(pad_edge=False)
    head, _, *body = rows
    for i, name in enumerate(head):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    return table


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
