"""PostgreSQL killed outright, with all that serves its connections."""

import asyncio
import os
import signal
import time
from pathlib import Path

from services.mesh.store import EmbeddedPostgres

_GUARD_S = 60.0


async def killed(server: EmbeddedPostgres) -> None:
    """Kills the server with -9; returns when nobody is there who could still answer."""
    pid = server.pid
    assert pid is not None
    await asyncio.to_thread(_kill, pid)
    await server.stop()


def _kill(pid: int) -> None:
    backends = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    # They outlive the server until they notice, and answer until then.
    ends = time.monotonic() + _GUARD_S
    while any(Path(f"/proc/{backend}").exists() for backend in backends):
        assert time.monotonic() < ends
        time.sleep(0.01)
