"""Every service restarted and keys changed, while traffic goes on."""

import asyncio
from dataclasses import dataclass, field

from tests.faults.traffic import Answer, Traffic, Way, ways
from tests.faults.up_rig import GUARD_S, Up
from tests.integration.gateway_rig import Client

SERVICES = ("eta", "route", "gateway", "feedback", "agents")
# An allocation waits for the one before it, however long that takes on a machine that starts processes.
TIMEOUT_MS = 20_000
# Requests all the while, yet time for what starts: without pauses a machine of few cores does little else.
PAUSE_S = 0.1


@dataclass
class Tally:
    """What was done meanwhile, and what all clients got."""

    restarts: int = 0
    key_changes: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        """Whatever is not a plain success."""
        return [answer for answer in self.answers if not answer.taken]


async def restart_all(mesh: Up, at_least: int, *, pause_s: float = PAUSE_S) -> Tally:
    """Round after round until so many requests are answered, and one round at least.

    In each round a key comes, is used through the restart of everything, the gateway included, and goes.
    """
    tally = Tally()
    clients = ways(mesh.gateway_port, mesh.runtime_ports, pause_s=pause_s)
    async with Traffic(clients, mesh.key, timeout_ms=TIMEOUT_MS) as traffic:
        await traffic.more(200)
        while not tally.restarts or len(traffic.answers) + len(tally.answers) < at_least:
            name = f"partner-{tally.restarts}"
            code, key, err = await mesh.run("keys", "add", name, "--rate", "1000000", "--burst", "1000000")
            assert code == 0, err
            partner = Traffic([Way(name, mesh.gateway_port)], key.strip(), timeout_ms=TIMEOUT_MS)
            async with partner:
                for service in SERVICES:
                    await traffic.more(50)
                    code, _, err = await mesh.run("restart", service)
                    assert code == 0, err
                    tally.restarts += 1
                await partner.more(20)
            tally.answers += partner.answers
            code, _, err = await mesh.run("keys", "revoke", name)
            assert code == 0, err
            await _until_unknown(mesh, key.strip())
            tally.key_changes += 2
        await traffic.more(200)
    tally.answers += traffic.answers
    return tally


async def _until_unknown(mesh: Up, key: str) -> None:
    client = Client(mesh.gateway_port)
    async with asyncio.timeout(GUARD_S):
        while (await client.task("get_gps_stats", {}, key=key)).status != 401:
            await asyncio.sleep(0.02)
    await client.close()
