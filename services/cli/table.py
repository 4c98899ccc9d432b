"""Tables for people: columns as wide as their widest cell, the last one cut to the terminal."""

import shutil
import sys
from collections.abc import Sequence

import click

_GAP = "  "


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line per row. Into a file or a pipe nothing is cut."""
    lines = [list(heads), *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads) - 1)]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        text = _GAP.join([*padded, line[-1]]).rstrip()
        if most is not None and len(text) > most:
            text = text[: max(1, most - 1)] + "…"
        click.echo(text)
