"""One service under `up`: started, watched, started again, replaced, stopped. With real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.cli.child import Child
from services.cli.environment import free_port
from services.cli.errors import CliError
from services.cli.logfile import ServiceLog
from services.cli.probe import health
from services.cli.runner import Address, ServiceRunner, StartFailedError, State
from services.cli.state import ProcessId

FAKE = Path(__file__).with_name("fake_service.py")
GUARD_S = 30


class Rig:
    """A runner of fake services, and the changes it told."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.environ = {**os.environ, "FAKE_SICK": str(folder / "sick"), **variables}
        self.log = ServiceLog(folder / "fake.log")
        self.changes: list[tuple[State, str]] = []
        self.children: list[Child] = []
        self._told = asyncio.Event()
        port = free_port()
        self.runner = ServiceRunner("fake", Address("127.0.0.1", port, port), self._launch, self._changed)
        self.task = asyncio.create_task(self.runner.run())

    async def _launch(self) -> Child:
        command = [sys.executable, str(FAKE), str(self.runner.address.port)]
        child = await Child.spawn("fake", command, self.environ, self.log)
        self.children.append(child)
        return child

    def _changed(self, runner: ServiceRunner, detail: str) -> None:
        self.changes.append((runner.state, detail))
        self._told.set()

    @property
    def states(self) -> list[State]:
        return [state for state, _ in self.changes]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(GUARD_S):
            while not holds():
                self._told.clear()
                await self._told.wait()

    async def until_ready(self, times: int = 1) -> None:
        await self.until(lambda: self.states.count(State.READY) >= times)

    async def close(self) -> None:
        self.runner.kill()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for child in self.children:
            child.kill()
            await child.wait()
        self.log.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.close()


async def test_a_service_is_ready_once_its_health_says_so(rig: Rig) -> None:
    await rig.until_ready()
    assert rig.states == [State.STARTING, State.READY]
    assert str(rig.runner.address) in rig.changes[-1][1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_service_that_ends_is_started_again_and_said_so(rig: Rig, number: signal.Signals) -> None:
    await rig.until_ready()
    os.kill(rig.children[0].pid, number)
    await rig.until_ready(2)
    assert rig.states == [State.STARTING, State.READY, State.CRASHED, State.STARTING, State.READY]
    words = "killed by SIGKILL" if number is signal.SIGKILL else "exit code 0"
    assert words in rig.changes[2][1]


async def test_a_service_that_never_starts_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FAKE_BROKEN="1")
    with pytest.raises(StartFailedError, match="fake does not start: cannot do this"):
        await asyncio.wait_for(rig.task, GUARD_S)
    await rig.close()


async def test_failing_health_is_told_with_what_fails_and_so_is_recovery(rig: Rig, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    await rig.until_ready()
    sick.touch()
    await rig.until(lambda: State.FAILING in rig.states)
    assert rig.changes[-1] == (State.FAILING, "store: away")
    sick.unlink()
    await rig.until_ready(2)
    assert len(rig.children) == 1


async def test_a_successor_takes_over_without_a_moment_in_which_nobody_answers(rig: Rig) -> None:
    await rig.until_ready()
    refused = 0
    done = asyncio.Event()

    async def ask() -> None:
        nonlocal refused
        while not done.is_set():
            answer = await health(rig.runner.address.host, rig.runner.address.port)
            refused += not answer.ready
            await asyncio.sleep(0.001)

    rig.environ["FAKE_DROWSY"] = "0.3"  # bound, and not yet answering, as one that still starts
    asking = asyncio.create_task(ask())
    said: list[str] = []
    await asyncio.wait_for(rig.runner.replace(said.append), GUARD_S)
    first, second = rig.children
    assert rig.runner.child is second
    assert first.ended
    assert not second.ended
    assert (await health("127.0.0.1", rig.runner.address.port, answered_by=second.pid)).ready
    assert not (await health("127.0.0.1", rig.runner.address.port, answered_by=first.pid)).reached
    assert [words.split(" (")[0] for words in said] == [
        "successor started",
        f"successor ready; draining pid {first.pid}",
    ]
    done.set()
    await asking
    os.kill(second.pid, signal.SIGKILL)  # and the successor is looked after like the first
    await rig.until(lambda: rig.states[-2:] == [State.STARTING, State.READY])


async def test_a_successor_that_fails_leaves_the_old_process_at_work(rig: Rig) -> None:
    await rig.until_ready()
    rig.environ["FAKE_BROKEN"] = "1"
    with pytest.raises(CliError, match="the successor of fake does not start: cannot do this"):
        await rig.runner.replace(lambda _: None)
    first = rig.children[0]
    assert rig.runner.child is first
    assert not first.ended
    assert (await health("127.0.0.1", rig.runner.address.port)).ready


async def test_a_process_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FAKE_DEAF="1")
    await rig.until_ready()
    await rig.runner.stop(limit_s=0.2)
    assert rig.changes[-1] == (State.STOPPED, "killed: it did not drain within 0.2 s")
    await asyncio.wait_for(rig.task, GUARD_S)
    await rig.close()


async def test_stopping_ends_the_process_and_the_runner(rig: Rig) -> None:
    await rig.until_ready()
    await rig.runner.stop()
    await asyncio.wait_for(rig.task, GUARD_S)
    assert rig.children[0].ended
    assert rig.states[-1] is State.STOPPED


def test_a_child_dies_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
from pathlib import Path
from services.cli.child import Child
from services.cli.logfile import ServiceLog

async def main():
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = await Child.spawn("x", command, os.environ, ServiceLog(Path({str(tmp_path)!r}) / "x.log"))
    print(child.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        identity = ProcessId.of(int(parent.stdout.readline()))
        gone = os.pidfd_open(identity.pid)
        parent.kill()
        parent.wait()
        import select

        assert select.select([gone], [], [], GUARD_S)[0]
        os.close(gone)
