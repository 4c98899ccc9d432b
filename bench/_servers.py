"""Servers that a bench starts, each a process with a log; they end with the bench."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[1]
_STOP_S: Final = 10.0


def program(name: str) -> str:
    """Path of a program that a package of this environment brings."""
    return str(Path(sys.executable).with_name(name))


class Servers:
    """A block in which they run. SIGTERM ends the bench, and so them, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Servers:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def start(self, name: str, *command: str, **environ: str) -> psutil.Process:
        """Runs it from the repository's root, with `environ` over the bench's own; does not wait."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        self._started.append(process)
        return psutil.Process(process.pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            for log in sorted(self._folder.glob("*.log")):
                if said := log.read_text(errors="replace")[-500:]:
                    print(f"{log.stem}:\n{said}", file=sys.stderr)
