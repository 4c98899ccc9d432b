"""What the command line says when it cannot go on."""


class CliError(Exception):
    """A failure told in one line that says what to do about it. The command exits with 1."""
