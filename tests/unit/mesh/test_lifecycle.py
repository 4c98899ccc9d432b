"""The life of a process, its background tasks and its signals."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from services.mesh import lifecycle
from services.mesh.lifecycle import Lifecycle

HANG_S = 20.0


def noted(seen: list[str], what: str) -> lifecycle.AsyncHook:
    async def hook() -> None:
        seen.append(what)

    return hook


def with_hooks(seen: list[str]) -> Lifecycle:
    life = Lifecycle("test", drain_s=0.0)
    for name in ("a", "b"):
        life.on_start(noted(seen, f"start {name}"))
        life.on_ready(noted(seen, f"ready {name}"))
        life.on_stop(noted(seen, f"stop {name}"))
    return life


async def test_hooks_run_in_order_and_stop_hooks_in_reverse():
    seen: list[str] = []
    life = with_hooks(seen)
    life.on_ready(lambda: asyncio.sleep(0, life.end()))
    async with asyncio.timeout(HANG_S):
        assert await life.run() == 0
    assert seen == [
        *("start a", "start b", "ready a", "ready b"),
        *("stop b", "stop a"),
    ]


async def test_a_start_that_fails_stops_what_was_started_and_is_an_exit_code(
    caplog: pytest.LogCaptureFixture,
):
    seen: list[str] = []
    life = Lifecycle("test", drain_s=0.0)
    life.on_start(noted(seen, "start"))
    life.on_stop(noted(seen, "stop"))

    async def fails() -> None:
        raise RuntimeError("no store")

    life.on_start(fails)
    life.on_ready(noted(seen, "ready"))
    assert await life.run() == 1
    assert seen == ["start", "stop"]
    assert "could not start" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_stops(number: signal.Signals):
    seen: list[str] = []
    life = with_hooks(seen)

    async def signalled() -> None:
        os.kill(os.getpid(), number)

    life.on_ready(signalled)
    async with asyncio.timeout(HANG_S):
        assert await life.run() == 0
    assert seen[-2:] == ["stop b", "stop a"]


async def test_a_signal_ends_a_start_that_waits():
    seen: list[str] = []
    life = Lifecycle("test")
    life.on_stop(noted(seen, "stop"))

    async def waits() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    life.on_start(waits)
    async with asyncio.timeout(HANG_S):
        assert await life.run() == 0
    assert seen == ["stop"]


async def test_a_second_signal_skips_what_is_left_of_the_drain():
    seen: list[str] = []
    life = with_hooks(seen)

    async def signalled() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    class DrainsForEver:
        async def start(self) -> None: ...

        async def drain(self, _wait_s: float) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

        async def stop(self) -> None:
            seen.append("server stopped")

    life.on_ready(signalled)
    server: Any = DrainsForEver()
    async with asyncio.timeout(HANG_S / 4):
        assert await life.run(server) == 0
    assert "server stopped" in seen
    assert seen[-2:] == ["stop b", "stop a"]


@pytest.mark.parametrize(
    ("error", "said", "traced"),
    [
        (ValueError("a fault of ours"), "background task consumer failed", True),
        (ConnectionError("the store is away"), "background task consumer waits: ConnectionError", False),
    ],
)
async def test_a_background_task_that_fails_starts_again(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    said: str,
    traced: bool,
):
    monkeypatch.setattr(lifecycle, "_BACKOFF_S", (0.001, 0.002))
    runs = 0
    well = asyncio.Event()

    async def consumer() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise error
        well.set()
        await asyncio.Event().wait()

    life = Lifecycle("test", drain_s=0.0)
    life.background("consumer", consumer)
    await life.start()
    await asyncio.wait_for(well.wait(), HANG_S)
    await life.stop()
    assert runs == 4
    assert caplog.text.count(said) == 3
    assert ("Traceback" in caplog.text) is traced


@pytest.mark.parametrize("registered", ["before the start", "by a start hook", "by a ready hook", "later"])
async def test_a_background_task_runs_once_whenever_it_is_registered(registered: str):
    runs = 0
    life = Lifecycle("test", drain_s=0.0)

    async def consumer() -> None:
        nonlocal runs
        runs += 1
        await asyncio.Event().wait()

    async def registers() -> None:
        life.background("consumer", consumer)

    if registered == "before the start":
        await registers()
    elif registered == "by a start hook":
        life.on_start(registers)
    elif registered == "by a ready hook":
        life.on_ready(registers)
    await life.start()
    if registered == "later":
        await registers()
    await asyncio.sleep(0)  # every task that was made has begun
    await life.stop()
    assert runs == 1


async def test_background_tasks_are_cancelled_before_the_stop_hooks_run():
    seen: list[str] = []
    running = asyncio.Event()

    async def consumer() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            seen.append("consumer ended")

    life = Lifecycle("test", drain_s=0.0)
    life.background("consumer", consumer)
    life.on_stop(noted(seen, "stop"))
    await life.start()
    await running.wait()
    await life.stop()
    assert seen == ["consumer ended", "stop"]


async def test_a_stop_hook_that_fails_does_not_keep_the_others_from_stopping(
    caplog: pytest.LogCaptureFixture,
):
    seen: list[str] = []

    async def fails() -> None:
        raise RuntimeError("x")

    life = Lifecycle("test", drain_s=0.0)
    life.on_stop(noted(seen, "first"))
    life.on_stop(fails)
    await life.start()
    await life.stop()
    assert seen == ["first"]
    assert "failed" in caplog.text


PROCESS = """
import asyncio, sys
from services.mesh.lifecycle import Lifecycle, run_process

async def main():
    life = Lifecycle("test", drain_s=0.0)
    async def ready():
        print("ready", flush=True)
    life.on_ready(ready)
    return await life.run()

run_process(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_ends_clean_and_silent(number: signal.Signals):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-c",
        PROCESS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), HANG_S) == b"ready\n"
    process.send_signal(number)
    _, stderr = await asyncio.wait_for(process.communicate(), HANG_S)
    assert (process.returncode, stderr) == (0, b"")
