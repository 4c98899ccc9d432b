"""What commands print: an output that takes nothing more ends a command with a line."""

import contextlib
import errno
import os
import sys
from typing import Final

import click

from services.cli.errors import CliError

# What writing to a file, a device or a closed descriptor ends with.
_LOST: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class OutputError(CliError):
    """What is printed cannot be written. Without words if its reader, such as `head`, has seen enough."""


def say(text: str = "", *, err: bool = False) -> None:
    """One line at once. Raises OutputError, also where other failures of the system are caught."""
    need()
    try:
        click.echo(text, err=err)
    except OSError as error:
        raise _told(error) from error


def need() -> None:
    """Raises OutputError if there is no standard output, before anything is done that it would tell."""
    if sys.stdout is None:
        raise OutputError("the standard output is closed: give it a terminal, a file or a pipe")


def lost(error: OSError) -> OutputError | None:
    """What to say of an error of the system if it is one of writing the output."""
    return _told(error) if error.errno in _LOST and error.filename is None else None


def give_up() -> None:
    """What is still in the buffer is let go: the end of the process would fail once more with it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def _told(error: OSError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return OutputError()
    return OutputError(f"the output cannot be written: {(error.strerror or str(error)).lower()}")
