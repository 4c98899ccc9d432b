"""What the command line says when it cannot go on."""

from typing import ClassVar


class CliError(Exception):
    """A failure told in one line that says what to do about it."""

    exit_code: ClassVar[int] = 1


class CutShortError(CliError):
    """The user has ended it; one line that says how far it came."""

    exit_code: ClassVar[int] = 130
