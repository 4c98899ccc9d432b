"""Signals of the mesh: what is told, once, without ever being in the way."""

import asyncio
import os
from collections.abc import Sequence

import pytest
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.mesh import errors
from services.mesh.breaker import Breaker, BreakerPolicy
from services.mesh.chain.server.validation import check
from services.mesh.feedback import signals
from services.mesh.feedback.signals import SignalSender
from services.mesh.health import Health
from services.mesh.redact import redact
from services.mesh.telemetry import Telemetry


class Feedback:
    """Takes signals; first raises the errors that it is given."""

    def __init__(self, *refusals: Exception) -> None:
        self.taken: list[Signal] = []
        self.asked = 0
        self._refusals = list(refusals)
        self._some = asyncio.Event()

    async def __call__(self, given: Sequence[Signal]) -> None:
        self.asked += 1
        if self._refusals:
            raise self._refusals.pop(0)
        self.taken += given
        self._some.set()

    async def some(self) -> list[Signal]:
        async with asyncio.timeout(10):
            await self._some.wait()
        return self.taken


def outage(sender: SignalSender) -> Breaker:
    """A breaker that opens, is probed in vain, and closes."""
    now = 100.0
    breaker = Breaker(
        "eta", "/waymesh.eta.v1.EtaService/PredictEta", BreakerPolicy(failures=1), clock=lambda: now
    )
    breaker.on_change(sender.breaker_changed)
    breaker.settle(breaker.admit(), errors.Unavailable("down"))
    for answer in (errors.Unavailable("down"), None):
        now += 60
        breaker.settle(breaker.admit(), answer)
    return breaker


async def test_an_outage_is_told_when_it_begins_and_when_it_is_over():
    sender = SignalSender("gateway", Feedback())
    outage(sender)
    assert [(one.active, one.subject) for one in sender.queued] == [
        (True, "eta/waymesh.eta.v1.EtaService/PredictEta"),
        (False, "eta/waymesh.eta.v1.EtaService/PredictEta"),
    ]
    for signal in sender.queued:
        check(signal)
        assert signal.kind == SignalKind.SIGNAL_KIND_BREAKER_OPEN


async def test_a_check_is_told_when_it_begins_to_fail_and_when_it_passes_again():
    sender = SignalSender("eta", Feedback())
    health = Health(Telemetry("eta"), every_s=0.001)
    health.on_change(sender.check_changed)
    outcomes = [None, OSError(), ValueError(), None, None]
    done = asyncio.Event()

    async def probe() -> None:
        if not outcomes:
            done.set()
            return
        if (failure := outcomes.pop(0)) is not None:
            raise failure

    health.add("store", probe)
    await health.start([])
    async with asyncio.timeout(10):
        await done.wait()
    await health.stop()
    assert [(one.active, one.subject) for one in sender.queued] == [(True, "store"), (False, "store")]
    for signal in sender.queued:
        check(signal)


async def test_a_check_that_fails_at_the_start_is_told_and_one_that_passes_is_not():
    sender = SignalSender("eta", Feedback())
    health = Health(Telemetry("eta"))
    health.on_change(sender.check_changed)

    async def away() -> None:
        raise OSError

    async def there() -> None: ...

    health.add("bus", away)
    health.add("store", there)
    await health.start([])
    await health.stop()
    assert [(one.active, one.subject) for one in sender.queued] == [(True, "bus")]


async def test_signals_wait_while_feedback_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "_BACKOFF_S", (0.001, 0.002))
    feedback = Feedback(errors.Unavailable("away"), errors.DeadlineExceeded("late"))
    sender = SignalSender("eta", feedback)
    sender.check_changed("store", "OSError")
    task = asyncio.create_task(sender.run())
    assert len(await feedback.some()) == 1
    assert feedback.asked == 3
    task.cancel()


async def test_what_feedback_refuses_is_not_sent_again():
    feedback = Feedback(errors.InvalidArgument("no"))
    sender = SignalSender("eta", feedback)
    task = asyncio.create_task(sender.run())
    sender.check_changed("first", "OSError")
    async with asyncio.timeout(10):
        while sender.queued:
            await asyncio.sleep(0)
    sender.check_changed("second", "OSError")
    assert [one.subject for one in await feedback.some()] == ["second"]
    task.cancel()


async def test_of_more_than_the_queue_holds_the_newest_are_kept():
    sender = SignalSender("eta", Feedback())
    for number in range(10_050):
        sender.check_changed(f"check {number}", "OSError")
    assert len(sender.queued) == 10_000
    assert sender.queued[-1].subject == "check 10049"


async def test_what_goes_on_is_told_again_until_it_is_over():
    now_s = 1_000.0
    feedback = Feedback()
    sender = SignalSender("eta", feedback, wall=lambda: now_s, remind_s=0.01)
    task = asyncio.create_task(sender.run())
    sender.check_changed("store", "OSError")
    sender.check_changed("bus", "OSError")
    sender.check_changed("bus", None)
    assert [one.subject for one in await feedback.some()] == ["store", "bus", "bus"]
    now_s += 1.0
    async with asyncio.timeout(10):
        while len(feedback.taken) < 4:
            await asyncio.sleep(0)
    again, first = feedback.taken[3], feedback.taken[0]
    assert (again.subject, again.active, again.timestamp.seconds) == ("store", True, 1_001)
    assert again.signal_id != first.signal_id
    check(again)
    task.cancel()


async def test_replicas_are_told_apart_where_each_notices_for_itself():
    sender = SignalSender("eta", Feedback())
    sender.check_changed("store", "OSError")
    assert sender.queued[0].labels["process"].endswith(f"-{os.getpid()}")


async def test_what_cannot_be_told_harms_nobody(caplog: pytest.LogCaptureFixture):
    sender = SignalSender("eta", Feedback())
    sender.check_changed("\ud800", "OSError")
    assert not sender.queued or sender.queued[0].subject == "\ufffd"
    sender.check_changed("x" * 1000, "password=hunter2 postgres://u:pw@db/x")
    assert "hunter2" not in str(sender.queued[-1])
    check(sender.queued[-1])


@pytest.mark.parametrize(
    "name", ["a\nb", "\u202e", "  ", "", "\0", "x" * 300, "password=hunter2 " * 30, "\ud800"]
)
def test_no_signal_of_ours_is_refused_for_its_names(name: str):
    sender = SignalSender(name, Feedback())
    sender.put(
        SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        name,
        Severity.SEVERITY_INFO,
        active=True,
        message=name,
        labels={name or "a": name, **{f"label {n}": "x" for n in range(40)}},
    )
    (told,) = sender.queued
    check(told)
    assert signals.without_secrets(told) == told
    assert "hunter2" not in str(told)


def test_labels_are_redacted_by_the_rule_for_payloads():
    given = {"password": "x", "tokens_used": "x", "max_tokens": "3", "name": "pin", "value": "x", "note": "y"}
    clean = signals.without_secrets(Signal(source="a", subject="b", labels=given))
    assert dict(clean.labels) == redact(given)
