"""Tables: columns that fit a terminal, aligned words anywhere else."""

import sys
from collections.abc import Sequence

from llmstream_cli.cli.terminal import AnswerWriter, without_controls

_MAX_COLUMN_WIDTH = 24


def aligned(rows: Sequence[Sequence[str]], *, gap: int = 2, right: bool = False) -> str:
    """Return rows as lines, their cells under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table to a terminal; elsewhere columns of words, of which the last has spaces."""
    rows = [[without_controls(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        words = [[cell.replace(" ", "_") for cell in row[:-1]] + row[-1:] for row in rows]
        AnswerWriter(sys.stdout).write(aligned([headings, *words]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=_MAX_COLUMN_WIDTH)
    table.add_column(headings[-1])  # the only one that may become narrower
    for row in rows:
        table.add_row(*map(Text, row[:-1]), Text(row[-1], no_wrap=True, overflow="ellipsis"))
    Console(file=sys.stdout, highlight=False, markup=False).print(table)
