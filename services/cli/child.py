"""One service process: started, its log kept, stopped; it never outlives the process that started it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from services.cli.logfile import LogPump, ServiceLog
from services.cli.state import ProcessId

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def service_command(name: str) -> list[str]:
    """The command line of a service. -P: the folder one happens to be in is no place to import from."""
    return [sys.executable, "-P", "-m", f"services.{name}"]


def _die_with(parent: int) -> Callable[[], None]:
    """To run in the child before exec: the kernel kills it when its parent dies, however that happens.

    SIGKILL, not SIGTERM: a service bears being killed at any moment, and a hung one would not hear anything
    less.
    """

    def before_exec() -> None:
        if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    return before_exec


class Child:
    """A running service process; make one with `spawn`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, pump: LogPump) -> None:
        self.name = name
        self.pid: int = process.pid
        self.identity = ProcessId.of(process.pid)
        self.began = time.monotonic()
        self._process = process
        self._pump = pump

    @classmethod
    async def spawn(
        cls, name: str, command: Sequence[str], environ: Mapping[str, str], log: ServiceLog
    ) -> "Child":
        """Starts a service by its command line; its standard streams go to the log."""
        pump = LogPump(log)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pump.write_end,
                stderr=pump.write_end,
                env=dict(environ),
                # Ctrl-C in the terminal is for `up` alone, which then stops the services in their order.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        except BaseException:
            pump.close()
            raise
        pump.start()
        return cls(name, process, pump)

    @property
    def age_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def ended(self) -> bool:
        """Whether it has been seen to end."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Until it ends; returns its exit code, -n for signal n."""
        code = await self._process.wait()
        self._pump.close()
        return code

    def last_words(self) -> str:
        """The last line it logged that says something is wrong, else the last line at all."""
        return self._pump.last_words()

    def kill(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    async def stop(self, limit_s: float) -> bool:
        """Lets it drain for `limit_s`, then ends it. Returns False if it had to be killed."""
        if self.ended:
            return True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        # Not by asyncio's process: it looks first whether the child lives, which reaps one that has just
        # ended, and whoever waits for that one then learns neither its code nor that all is well.
        if not self.ended and self.identity.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
