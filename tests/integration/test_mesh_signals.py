"""Feedback hears of breakers that open and of checks that fail, and nobody waits for that."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, rig
from gateway_rig import GPS, gateway
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback.server import Feedback
from services.mesh import errors

BREAKER = SignalKind.SIGNAL_KIND_BREAKER_OPEN
HEALTH = SignalKind.SIGNAL_KIND_HEALTH_FAILING
REPORT = "eta/waymesh.eta.v1.EtaService/ReportGps"


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


async def fails(_request: Any, _context: Any) -> Any:
    raise errors.Internal("down")


async def stored(mesh: Rig, holds: Callable[[list[Signal]], bool]) -> list[Signal]:
    """What feedback has, once it is enough."""
    found: list[Signal] = []

    async def enough() -> bool:
        rows = await mesh.store.pool.fetch("SELECT body FROM feedback.signals ORDER BY at, id")
        found[:] = [Signal.FromString(row["body"]) for row in rows]
        return holds(found)

    await mesh.until(enough, "feedback has the signals")
    return found


async def test_a_breaker_of_the_gateway_that_opens_is_told(mesh: Rig) -> None:
    feedback: Feedback = await mesh.with_feedback()
    async with gateway({"ReportGps": fails}, feedback_target=f"127.0.0.1:{feedback.server.port}") as front:
        client = front.client()
        for _ in range(5):
            await client.task("report_gps", GPS)
        assert (await client.task("report_gps", GPS)).json["reason"] == "BREAKER_OPEN"
        [signal] = await stored(mesh, lambda found: len(found) == 1)
    assert (signal.kind, signal.source, signal.subject, signal.active) == (BREAKER, "gateway", REPORT, True)
    assert signal.labels["target"] + signal.labels["method"] == REPORT
    assert signal.labels["request_id"]


async def test_while_feedback_is_away_signals_wait_and_calls_go_on(mesh: Rig) -> None:
    async with gateway({"ReportGps": fails}) as front:
        client = front.client()
        for _ in range(6):
            reply = await client.task("report_gps", GPS)
        assert reply.json["reason"] == "BREAKER_OPEN"
        assert [signal.subject for signal in front.gateway.signals.queued][:1] == [REPORT]


async def test_a_check_that_fails_is_told_and_that_it_passes_again(mesh: Rig) -> None:
    await mesh.with_feedback()
    eta = await mesh.start()
    well = True

    async def probe() -> None:
        if not well:
            raise OSError("away")

    eta.server.check("depot", probe)
    await stored(mesh, lambda found: not found)
    await mesh.until(lambda: passes(eta), "the check has run")
    well = False
    await stored(mesh, lambda found: len(found) == 1)
    well = True
    found = await stored(mesh, lambda found: len(found) == 2)
    assert [(one.kind, one.source, one.subject, one.active) for one in found] == [
        (HEALTH, "eta", "depot", True),
        (HEALTH, "eta", "depot", False),
    ]
    assert found[0].labels["error"] == "OSError"


async def passes(eta: Any) -> bool:
    return bool(eta.server.health.report()["checks"].get("depot") == "ok")


async def test_feedback_tells_of_itself_without_a_call(mesh: Rig) -> None:
    feedback = await mesh.with_feedback()
    feedback.signals.check_changed("bus", "TimeoutError")
    [signal] = await stored(mesh, lambda found: len(found) == 1)
    assert (signal.source, signal.subject, signal.active) == ("feedback", "bus", True)
