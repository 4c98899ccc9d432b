"""Waiting for what happens outside of this process, where no event can tell."""

import asyncio
import time
from collections.abc import Callable


async def until(holds: Callable[[], bool], what: str, *, guard_s: float = 120.0) -> None:
    """Returns as soon as `holds`; fails after the guard, which only keeps a broken test from hanging."""
    deadline = time.monotonic() + guard_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {guard_s} s: {what}"
        await asyncio.sleep(0.01)
