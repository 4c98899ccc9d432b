"""PostgreSQL under `up`: the embedded one, kept running, or the one that DATABASE_URL names."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from services.cli.runner import BACKOFF_S, State

Changed = Callable[[State, str], None]

_HEALTHY_S: Final = 30.0


class Database(Protocol):
    """Where the services keep everything."""

    @property
    def pids(self) -> list[int]:
        """Processes that must not outlive `up`."""
        ...

    async def start(self) -> str:
        """The DSN, once it takes connections."""
        ...

    async def run(self) -> None:
        """Keeps it running, until cancelled."""
        ...

    async def stop(self) -> None:
        """Ends it, if it is ours."""
        ...


class ExternalDatabase:
    """Somebody else's server: only its address is known, the services say whether it answers."""

    pids: Final[list[int]] = []

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def start(self) -> str:
        return self._dsn

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        return


class EmbeddedDatabase:
    """The PostgreSQL that comes with the installation, started again whenever it ends."""

    def __init__(self, data_dir: Path, changed: Changed) -> None:
        # Late: a mesh on a server of its own does not need it.
        from services.mesh.store import EmbeddedPostgres

        self._postgres = EmbeddedPostgres(data_dir)
        self._changed = changed
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        pid = self._postgres.pid
        return [] if pid is None else [pid]

    async def start(self) -> str:
        began = time.monotonic()
        self._changed(State.STARTING, "")
        dsn: str = await self._postgres.start()
        took_s = time.monotonic() - began
        self._changed(State.READY, f"embedded, pid {self._postgres.pid} ({took_s:.1f} s)")
        return dsn

    async def run(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            await self._ended()
            if self._stopping:
                return
            attempt = 0 if time.monotonic() - began > _HEALTHY_S else attempt
            while True:
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                attempt += 1
                self._changed(State.CRASHED, f"starts again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
                try:
                    await self.start()
                    break
                except (OSError, RuntimeError) as error:
                    self._changed(State.FAILING, str(error))

    async def stop(self) -> None:
        self._stopping = True
        await self._postgres.stop()
        self._changed(State.STOPPED, "")

    async def _ended(self) -> None:
        """Until the server's process has ended, whoever its parent is."""
        pid = self._postgres.pid
        if pid is None:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
