"""Tables for people: columns as wide as their widest cell.

Where a terminal is too narrow for a row, it goes on below, and nothing is left out.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Final

from services.cli.output import say

_GAP: Final = "  "
_INDENT: Final = "    "
# The last column, the one of sentences, is wrapped where it stands if it has so many characters there.
_ROOM: Final = 30


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line per row into a file or a pipe, and on a terminal where it fits."""
    lines = [list(heads), *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for text in _laid_out(lines, widths, most):
        say(text)


def _laid_out(lines: Sequence[Sequence[str]], widths: Sequence[int], most: int | None) -> list[str]:
    if most is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= most:
        return [_row(line, widths) for line in lines]
    parts = _parts(widths, most)
    return [text for line in lines for text in _broken(line, widths, parts, most)]


def _parts(widths: Sequence[int], most: int) -> list[range]:
    """Which columns stand beside each other."""
    parts: list[range] = []
    first, used = 0, 0
    for column, width in enumerate(widths):
        last = column == len(widths) - 1
        needed = min(width, _ROOM) if last else width
        if column > first and used + needed > most:
            parts.append(range(first, column))
            first, used = column, len(_INDENT)
        used += width + len(_GAP)
    return [*parts, range(first, len(widths))]


def _broken(line: Sequence[str], widths: Sequence[int], parts: Sequence[range], most: int) -> list[str]:
    found: list[str] = []
    for part in parts:
        start = _INDENT if found else ""
        *others, last = part
        before = start + "".join(f"{line[column]:<{widths[column]}}{_GAP}" for column in others)
        room = max(1, most - len(before))
        pieces = textwrap.wrap(line[last], room, break_on_hyphens=False) or [""]
        text = [before + pieces[0], *(" " * len(before) + piece for piece in pieces[1:])]
        found += [one.rstrip() for one in text if one.strip() or not found]
    return found


def _row(line: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
