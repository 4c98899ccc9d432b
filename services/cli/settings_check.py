"""Every service's settings, read before any of them is started."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Self

from services.cli.environment import SERVICE_NAMES
from services.cli.errors import CliError


class SettingsCheck:
    """Goes on beside other work; `finish` says what came out."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.mesh.settings_check", *SERVICE_NAMES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def finish(self) -> None:
        """Raises CliError with one line if a variable holds what is not allowed."""
        said, trouble = self._process.communicate()
        if self._process.returncode != 0:
            raise CliError((said or trouble or "the settings could not be read").strip().splitlines()[-1])
