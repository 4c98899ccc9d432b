"""One process of a service, ended in every way."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.cli.child import Child
from services.cli.logfile import LogPump, ServiceLog


async def test_a_process_that_is_ended_twice_is_reaped_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ServiceLog(tmp_path / "fake.log")
    for _ in range(50):
        child = await Child.spawn("fake", ["/bin/sleep", "600"], os.environ, log)
        while child.identity.alive:
            child.kill()
        await child.stop(1.0)
        assert await child.wait() == -signal.SIGKILL
    log.close()
    assert caplog.text == "", "asyncio has missed the end of a process"


async def test_a_process_that_ends_before_it_is_looked_at_is_one_that_has_ended(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "fake.log")
    pump = LogPump(log)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdout=pump.write_end)
    pump.start()
    await process.wait()
    child = Child("fake", process, pump)
    assert not child.identity.alive
    assert await child.stop(1.0)
    assert await child.wait() == 0
    log.close()


async def test_a_process_that_has_ended_unseen_can_be_stopped(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "fake.log")
    child = await Child.spawn("fake", [sys.executable, "-c", ""], os.environ, log)
    while child.identity.alive:
        await asyncio.sleep(0)
    assert await child.stop(1.0)
    assert child.ended
    log.close()
