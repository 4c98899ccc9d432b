"""Processes of the harness's own, started again whenever they end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_AGAIN_S: Final = 0.2
_LINE_BYTES: Final = 4 << 20


class Child:
    """A Python module of the harness that runs until `close`. It ends with the harness: its stdin does."""

    def __init__(
        self,
        name: str,
        module: str,
        environ: Mapping[str, str],
        log: Path,
        said: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self.module = f"tests.faults.chaos.{module}"
        self.environ = dict(environ)
        self.starts = 0
        self._log = log
        self._said = said
        self._last_words: bytes | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Does not wait for it to run."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    def kill(self) -> None:
        """-9; it comes back."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def tell(self, words: str) -> None:
        """A line on its stdin, and on that of every process that takes its place."""
        self._last_words = words.encode() + b"\n"
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(self._last_words)

    async def close(self) -> None:
        """Ends it for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.module,
                env=self.environ,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
            self.starts += 1
            try:
                if self._last_words is not None and process.stdin is not None:
                    process.stdin.write(self._last_words)
                await asyncio.gather(self._listen(process), self._keep(process))
                await process.wait()
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                    await asyncio.shield(process.wait())
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):  # else it died in the middle of it
                self._said(line.decode().rstrip("\n"))

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        """Its log is written here: it may have no disk."""
        assert process.stderr is not None
        with self._log.open("ab") as log:
            async for line in process.stderr:
                log.write(line)
                log.flush()
