"""PostgreSQL under `up`: what it needs of one, and the embedded one, kept running."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from services.cli.child import describe_exit
from services.cli.errors import CliError
from services.cli.runner import BACKOFF_S, State

Changed = Callable[[State, str], None]

_HEALTHY_S: Final = 30.0


class Database(Protocol):
    """Where the services keep everything."""

    @property
    def pid(self) -> int | None:
        """Its process, where it is ours."""
        ...

    async def check(self) -> None:
        """Before anything is made or started. Raises CliError if it cannot be used."""
        ...

    async def start(self) -> str:
        """The DSN, once it takes connections. Raises CliError if it cannot be."""
        ...

    async def run(self) -> None:
        """Keeps it running, until it is stopped."""
        ...

    async def stop(self) -> None:
        """Ends it, if it is ours."""
        ...


class EmbeddedDatabase:
    """The PostgreSQL that comes with the installation, started again whenever it ends."""

    def __init__(self, data_dir: Path, changed: Changed) -> None:
        # Late: a mesh on a server of its own does not need it.
        from services.mesh.store import EmbeddedPostgres

        self._postgres = EmbeddedPostgres(data_dir)
        self._changed = changed
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self._postgres.pid

    async def check(self) -> None:
        return

    async def start(self) -> str:
        from services.mesh.store import EmbeddedPostgresError

        began = time.monotonic()
        self._changed(State.STARTING, "")
        try:
            dsn = await self._postgres.start()
        except EmbeddedPostgresError as error:
            raise CliError(str(error)) from error
        self._changed(State.READY, f"embedded (pid {self.pid}, {time.monotonic() - began:.1f} s)")
        return dsn

    async def run(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            code = await self._postgres.wait()
            if self._stopping:
                return
            attempt = 0 if time.monotonic() - began > _HEALTHY_S else attempt
            pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            attempt += 1
            self._changed(State.CRASHED, f"{describe_exit(code)}; starts again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            await self._start_again()

    async def stop(self) -> None:
        self._stopping = True
        running = self.pid is not None
        await self._postgres.stop()
        if running:
            self._changed(State.STOPPED, "")

    async def _start_again(self) -> None:
        """Until it runs: a full disk or a slow recovery may pass."""
        while not self._stopping:
            try:
                await self.start()
                return
            except CliError as error:
                self._changed(State.FAILING, str(error))
                await asyncio.sleep(BACKOFF_S[-1])
