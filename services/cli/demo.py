"""The demo fleet beside a running mesh: a process of its own, its table in the terminal."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from services.cli.child import Child, describe_exit
from services.cli.logfile import ServiceLog
from services.cli.screen import Screen

_STOP_S: Final = 3.0


def demo_command(*, couriers: int, speed: float, seed: int) -> list[str]:
    """The command line of the fleet."""
    options = ("--couriers", str(couriers), "--speed", str(speed), "--seed", str(seed))
    return [sys.executable, "-P", "-m", "services.sim", *options]


class DemoFleet:
    """Shows what the fleet prints. A fleet that fails does not take the mesh with it."""

    def __init__(self, command: Sequence[str], data_dir: Path, screen: Screen) -> None:
        self._command = command
        self._screen = screen
        self._log = ServiceLog(data_dir / "logs" / "demo.log", lambda _, line: self._show(line))
        self._child: Child | None = None
        self._stopping = False

    async def run(self, environ: Mapping[str, str]) -> None:
        """Until the fleet ends."""
        self._child = await Child.spawn("demo", self._command, environ, self._log)
        code = await self._child.wait()
        if not self._stopping:
            self._screen.change("demo", "ended", f"{describe_exit(code)}: {self._child.last_words()}")

    async def stop(self) -> None:
        """Sends the fleet home."""
        self._stopping = True
        if self._child is not None:
            await self._child.stop(_STOP_S)
        self._log.close()

    def _show(self, line: bytes) -> None:
        self._screen.line(line.decode("utf-8", "replace"))
