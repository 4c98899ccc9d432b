"""A signal belongs to whom its subject belongs, and is told in that tenant's words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.mesh.breaker import Breaker, BreakerPolicy
from services.mesh.errors import Unavailable
from services.mesh.feedback.signals import SignalSender
from services.mesh.principal import current

RISK = SignalKind.SIGNAL_KIND_LATENESS_RISK
# Tenants' longest names, and the longest subject there may be.
LONG = "t" * 64


class Feedback:
    """Takes signals, and notes for whom; fails as often as it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Signal]] = []
        self.calls = 0
        self.fails = 0

    async def send(self, signals: Sequence[Signal]) -> None:
        self.calls += 1
        if self.fails:
            self.fails -= 1
            raise Unavailable("away")
        self.taken += [(current().tenant, signal) for signal in signals]


def put(sender: SignalSender, order_id: str, courier_id: str = "") -> None:
    sender.put(
        RISK,
        order_id,
        Severity.SEVERITY_WARNING,
        active=True,
        message=f"order {order_id} will be late",
        labels={"driver_id": courier_id},
    )


async def sent(sender: SignalSender) -> None:
    running = asyncio.create_task(sender.run())
    async with asyncio.timeout(30):
        while sender.queued:
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_signals_of_several_tenants_are_sent_for_each_in_its_own_words() -> None:
    feedback = Feedback()
    sender = SignalSender("eta", feedback.send)
    for tenant in ("acme/", "", "rival/", "acme/"):
        put(sender, f"{tenant}order", f"{tenant}courier")
    put(sender, "default/a/b", "default/c/d")
    await sent(sender)
    assert [
        (tenant, one.subject, one.message, one.labels["driver_id"]) for tenant, one in feedback.taken
    ] == [
        ("acme", "order", "order order will be late", "courier"),
        ("acme", "order", "order order will be late", "courier"),
        ("default", "order", "order order will be late", "courier"),
        ("default", "a/b", "order a/b will be late", "c/d"),
        ("rival", "order", "order order will be late", "courier"),
    ]
    assert feedback.calls == 3


async def test_a_subject_is_as_long_as_the_contract_lets_it_be_whoevers_it_is() -> None:
    feedback = Feedback()
    sender = SignalSender("eta", feedback.send)
    put(sender, f"{LONG}/{'ä' * 256}")
    await sent(sender)
    [(tenant, one)] = feedback.taken
    assert (tenant, one.subject) == (LONG, "ä" * 256)


async def test_what_a_process_notices_of_itself_belongs_to_the_operators() -> None:
    feedback = Feedback()
    sender = SignalSender("eta", feedback.send)
    breaker = Breaker(
        "acme/route:50052", "/waymesh.route.v1.RouteService/PlanRoutes", BreakerPolicy(failures=1)
    )
    breaker.on_change(sender.breaker_changed)
    breaker.settle(breaker.admit(), Unavailable("down"))
    sender.check_changed("acme/store", "OSError")
    await sent(sender)
    assert [(tenant, one.subject) for tenant, one in feedback.taken] == [
        ("default", "acme/route:50052/waymesh.route.v1.RouteService/PlanRoutes"),
        ("default", "acme/store"),
    ]


async def test_what_could_not_be_sent_is_sent_again_for_the_same_tenant() -> None:
    feedback = Feedback()
    feedback.fails = 1
    sender = SignalSender("eta", feedback.send)
    put(sender, "acme/order")
    put(sender, "rival/order")
    await sent(sender)
    assert [tenant for tenant, _ in feedback.taken] == ["acme", "rival"]
