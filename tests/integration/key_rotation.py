"""Keys that are rotated while clients go on: each takes the new key when it hears of it, sooner or later."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.gateway.keys import digest_of
from tests.integration.gateway_rig import GPS, Client, Rig
from tests.integration.key_commands import keys

GUARD_S = 60.0


@dataclass
class Tally:
    """What clients got, and how long each answer took."""

    rotations: int = 0
    took_s: list[float] = field(default_factory=list)
    # What was no success: status and what was said.
    failed: list[tuple[int, str]] = field(default_factory=list)


class _Caller:
    """One client at its own pace; it works with the key it knows."""

    def __init__(self, client: Client, key: str, pause_s: float, tally: Tally) -> None:
        self._client = client
        self._pause_s = pause_s
        self._tally = tally
        self.key = key
        # How many requests it has made with the key that it knows now.
        self.used = 0

    async def run(self, stop: asyncio.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            began = time.monotonic()
            used = self.key
            reply = await self._client.task("report_gps", GPS, key=used)
            self._tally.took_s.append(time.monotonic() - began)
            if reply.status != 200:
                self._tally.failed.append((reply.status, reply.body.decode()))
            elif used == self.key:
                self.used += 1
            due += self._pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def take(self, key: str) -> None:
        self.key, self.used = key, 0


async def rotate_under_load(
    database: str, rigs: Sequence[Rig], *, rate_per_s: float, rotations: int, requests: int, spread_s: float
) -> Tally:
    """So many rotations with `waymesh keys rotate` and so many requests at least, at all gateways alike.

    After each rotation every client changes over within `spread_s`, and then the old key is revoked.
    """
    tally = Tally()
    chance = random.Random(1)
    stop = asyncio.Event()
    _, key, told = await keys(database, "add", "partner", "--rate", "1000000", "--burst", "1000000")
    key = key.strip()
    assert key, told
    clients = [rig.client() for rig in rigs for _ in range(4)]
    callers = [_Caller(client, key, len(clients) / rate_per_s, tally) for client in clients]
    tasks = [asyncio.create_task(caller.run(stop)) for caller in callers]
    try:
        while tally.rotations < rotations or len(tally.took_s) < requests:
            old = digest_of(key.encode()).hex()[:12]
            code, key, told = await keys(database, "rotate", old, "--overlap", "1h")
            assert code == 0, told
            key = key.strip()
            for caller in callers:
                asyncio.get_running_loop().call_later(chance.uniform(0, spread_s), caller.take, key)
            async with asyncio.timeout(GUARD_S):
                while not all(caller.key == key and caller.used > 2 for caller in callers):
                    await asyncio.sleep(0.02)
            assert (await keys(database, "revoke", old))[0] == 0
            tally.rotations += 1
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    return tally
