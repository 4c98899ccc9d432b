"""The command line of a bench: its docstring is the text of `--help`."""

from __future__ import annotations

import argparse
import math
import textwrap

_RESULT = "The last line printed is the result as JSON; `python -m bench` keeps it in .build/bench.jsonl."


class Help(argparse.HelpFormatter):
    """Paragraphs as wide as the terminal, indented ones as they stand, every option with its default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width)
            for paragraph in text.strip("\n").split("\n\n")
        )

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        return f"{said} [%(default)s]" if action.type is not None else said


def command(name: str, text: str | None) -> argparse.ArgumentParser:
    """Of `python -m bench.NAME`, which `text` tells of."""
    return argparse.ArgumentParser(
        prog=f"python -m bench.{name}", description=text, epilog=_RESULT, formatter_class=Help
    )


def seconds(text: str) -> float:
    """The type of an option that says how long."""
    number = float(text)
    if not 0 <= number < math.inf:  # nan neither
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number from 0")
    return number
