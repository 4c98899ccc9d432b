"""One node of a cluster: broker and controller in one Java process."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

# Started often and short-lived: no second compiler, one thread of collection, little memory.
_JAVA: Final = (
    "java", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
)  # fmt: skip
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_STOP_S: Final = 20.0
# Of 19: where much else runs, too, the lowest would hardly ever have its turn.
_LOW: Final = 10


class Node:
    """May be started again after it has ended, with what it had stored."""

    def __init__(
        self,
        number: int,
        folder: Path,
        classpath: str,
        settings: Mapping[str, str],
        heap_mib: int,
        *,
        background: bool = False,
    ) -> None:
        self.number = number
        self.log = folder / f"node-{number}.log"
        self._folder = folder
        self._background = background
        self._config = folder / f"node-{number}.properties"
        self._java = [*_JAVA, f"-Xmx{heap_mib}m", "-cp", classpath]
        self._process: subprocess.Popen[bytes] | None = None
        own = {"node.id": str(number), "log.dirs": str(folder / f"data-{number}")}
        self._config.write_text("".join(f"{key}={value}\n" for key, value in {**settings, **own}.items()))

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def begin_format(self, cluster_id: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Prepares the empty data folder; the caller waits for its end."""
        command = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._config)]
        return self._spawn([*command, *arguments])

    def begin(self) -> None:
        """Starts the process; when it serves is for the cluster to see."""
        if self.pid is None:
            self._process = self._spawn(["kafka.Kafka", str(self._config)])

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        if self.pid is not None and self._process is not None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Waits for the end of the process."""
        if self._process is not None:
            await ended(self._process)

    async def stop(self) -> None:
        """In good order within a limit: without the others a node cannot give up what it leads."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self.ended()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """At once, as a crash would."""
        self.send(signal.SIGKILL)
        await self.ended()

    def last_words(self) -> str:
        """The end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _spawn(self, arguments: list[str]) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self._java, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then end it
                preexec_fn=_die_with(os.getpid(), self._background),
            )


async def ended(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the end of a child of this process; its return code."""
    if process.poll() is None:
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        try:
            loop.add_reader(descriptor, seen.set)
            await seen.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()


def _die_with(parent: int, background: bool) -> Callable[[], None]:
    """To run in the child before exec: the kernel kills it when the thread that started it ends. In the
    background it runs at a low priority.
    """

    def before_exec() -> None:
        if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)
        if background:
            os.nice(_LOW)
            # Where each session has a share of its own, a priority counts only within it.
            with contextlib.suppress(OSError):
                Path("/proc/self/autogroup").write_text(str(_LOW))

    return before_exec
