"""kill -9 of each service in turn, and of PostgreSQL, while requests run."""

import asyncio
import os
import signal
import time

import asyncpg
import pytest

from services.mesh.store import connect
from tests.faults.traffic import SLACK_S, TIMEOUT_MS, Answer, Traffic, ways
from tests.faults.up_rig import UNLIMITED, Up, up
from tests.integration.gateway_rig import Client

pytestmark = pytest.mark.faults

# How long a machine that does much else may take until nothing is refused any more; the usual is printed, and
# measured by `make chaos` (longest_recovery_s).
GUARD_S = 120.0


def wrong(answers: list[Answer]) -> list[str]:
    """Those that are neither an answer, degraded or not, nor a 503 that says when to come back."""
    return [answer.told() for answer in answers if not (answer.taken or answer.refused)]


async def whole(traffic: Traffic) -> None:
    """Until 300 requests in a row are taken."""
    async with asyncio.timeout(GUARD_S):
        while True:
            since = time.monotonic()
            await traffic.more(300)
            if all(answer.taken for answer in traffic.since(since)):
                return


async def test_a_killed_service_costs_503s_or_degraded_answers_and_is_back_soon() -> None:
    async with up(**UNLIMITED) as mesh:
        for name in ("eta", "route", "feedback", "agents"):
            async with Traffic(ways(mesh.gateway_port, mesh.runtime_ports), mesh.key) as traffic:
                await traffic.more(300)
                pid = mesh.state.services[name].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await mesh.until_line(rf" {name} +ready ", times=2)
                back_at = time.monotonic()
                await whole(traffic)
            assert wrong(traffic.answers) == []
            assert max(answer.took_s for answer in traffic.answers) < TIMEOUT_MS / 1000 + SLACK_S
            refused = [answer for answer in traffic.answers if not answer.taken]
            degraded = [answer for answer in traffic.answers if answer.degraded]
            last = max((answer.sent_at for answer in refused + degraded), default=back_at) - back_at
            print(f"{name}: {len(refused)} refused, {len(degraded)} degraded, whole after {last:+.2f} s")


async def test_a_killed_database_loses_nothing_that_was_acknowledged() -> None:
    async with up(**UNLIMITED) as mesh:
        async with Traffic(ways(mesh.gateway_port, mesh.runtime_ports), mesh.key) as traffic:
            for turn in (2, 3):
                await traffic.more(500)
                pid = mesh.state.postgres_pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await mesh.until_line(r" postgres +ready ", times=turn)
                await traffic.more(500)
            await whole(traffic)
        assert wrong(traffic.answers) == []
        refused = [answer for answer in traffic.answers if not answer.taken]
        print(f"{len(traffic.answers)} requests, {len(refused)} refused")
        await everything_acknowledged_is_there_once(mesh, traffic.answers)


async def everything_acknowledged_is_there_once(mesh: Up, answers: list[Answer]) -> None:
    """By the database's own account, and by the services'."""
    taken = [answer for answer in answers if answer.taken]

    def ids(task: str, *path: str) -> set[str]:
        found = set()
        for answer in taken:
            if answer.task == task:
                value = answer.parameters
                for step in path[:-1]:
                    value = value[step][0]
                found.add(value[path[-1]])
        return found

    connection = await connect(mesh.state.dsn)
    try:
        await _holds(
            connection, "SELECT order_id FROM route.orders", ids("upsert_orders", "orders", "order_id")
        )
        outcomes = ids("record_outcomes", "events", "event_id")
        await _holds(connection, "SELECT id FROM feedback.outcomes", outcomes)
        signals = ids("record_signals", "signals", "signal_id")
        await _holds(connection, "SELECT id FROM feedback.signals", signals)
        deliveries = ids("record_delivery_outcomes", "outcomes", "outcome_id")
        await _holds(connection, "SELECT id FROM feedback.deliveries", deliveries)
    finally:
        await connection.close()
    fixes = ids("report_gps", "event_id")
    sent = {answer.parameters["event_id"] for answer in answers if answer.task == "report_gps"}
    client = Client(mesh.gateway_port)
    async with asyncio.timeout(60):
        counted = 0
        while counted < len(fixes):
            counted = (await client.task("get_gps_stats", {}, key=mesh.key)).json["result"]["fixes"]
    assert len(fixes) <= counted <= len(sent)
    await client.close()


async def _holds(connection: asyncpg.Connection, query: str, ids: set[str]) -> None:
    stored = [row[0] for row in await connection.fetch(query)]
    assert ids
    assert ids <= set(stored), sorted(ids - set(stored))[:5]
    assert len(stored) == len(set(stored))
