"""Processes that a test starts: their end with it, and waiting for what no event can tell."""

import asyncio
import ctypes
import signal
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def end_with_us() -> None:
    """Run in the child: who starts it may be killed, and it is not to stay."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


async def until(holds: Callable[[], bool], what: str, *, guard_s: float = 120.0) -> None:
    """Returns as soon as `holds`; fails after the guard, which only keeps a broken test from hanging."""
    deadline = time.monotonic() + guard_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {guard_s} s: {what}"
        await asyncio.sleep(0.01)
