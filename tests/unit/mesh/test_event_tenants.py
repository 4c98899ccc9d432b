"""Whose an event is: plain ids in the value, the qualified one as its key, the tenant as a header."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import ORDER_STATUS_PLACED, Order

from services.mesh import tenancy
from services.mesh.chain.server.validation import check
from services.mesh.events import JSON, PROTOBUF, Message, PoisonMessage, Record, tenants
from services.mesh.events.cloud_events import from_headers
from services.mesh.events.inbox import event_digest
from services.mesh.request_id import serving

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True) | st.just("default")


def read(message: Message) -> Record:
    """The event as a consumer sees it."""
    said = {each.name: getattr(message, each.name) for each in fields(message)}
    return Record(**said, partition=0, position=0, time=datetime.now(UTC), source="route")


def order(order_id: str) -> OrderEvent:
    return OrderEvent(order=Order(order_id=order_id, status=ORDER_STATUS_PLACED))


def changed(order_id: str, content_type: str = PROTOBUF) -> Message:
    return tenants.event("orders", order_id, order(order_id), f"{order_id}@1", content_type=content_type)


def test_an_event_of_the_default_tenant_is_what_it_always_was():
    with serving("r1"):
        event = changed("o1")
    assert event == Message(
        topic="orders", key="o1", value=order("o1").SerializeToString(),
        event_id="o1@1", type="waymesh.order.v1.OrderEvent", headers={"x-request-id": "r1"},
    )  # fmt: skip


def test_who_reads_the_event_of_a_tenant_sees_the_tenants_ids():
    with serving("r1"):
        event = changed("acme/o1", JSON)
    assert b'"order_id":"o1"' in event.value
    assert (event.key, event.headers) == ("acme/o1", {"x-request-id": "r1", "x-waymesh-tenant": "acme"})


@settings(deadline=None)
@given(names, ids)
def test_a_service_reads_what_another_has_published(tenant: str, order_id: str):
    kept = tenancy.qualify(tenant, order_id)
    for content_type in (PROTOBUF, JSON):
        event = read(changed(kept, content_type))
        assert tenants.tenant_of(event) == tenant
        assert tenants.read(event, OrderEvent).order.order_id == kept


def test_an_event_tells_of_one_tenant_alone():
    mixed = OrderEvent(order=Order(order_id="acme/o1", driver_id="bolt/c1"))
    with pytest.raises(tenancy.ForeignTenantError):
        tenants.event("orders", "acme/o1", mixed, "1")


@pytest.mark.parametrize("name", ["", "*", "a/b", " acme"])
def test_an_event_of_nobody_who_can_be_named_is_poison(name: str):
    value = OrderEvent(order=Order(order_id="o1")).SerializeToString()
    event = read(Message("orders", "o1", value, "1", "", headers={"x-waymesh-tenant": name}))
    with pytest.raises(PoisonMessage, match="names no tenant"):
        tenants.read(event, OrderEvent)


def test_the_rules_are_about_the_ids_that_were_sent():
    longest = "x" * 128
    fits = Courier(driver_id=f"acme/{longest}", revision=1, vehicle_type=5, status=2)
    event = tenants.event("orders", f"acme/{longest}", fits, "1")
    assert tenants.read(read(event), Courier, check).driver_id == f"acme/{longest}"
    fits.driver_id += "x"
    event = tenants.event("orders", f"acme/{longest}", fits, "1")
    with pytest.raises(PoisonMessage, match="driver_id"):
        tenants.read(read(event), Courier, check)


def test_ids_that_two_tenants_gave_their_events_are_two():
    mine, default = (
        read(Message("gps-events", "c1", b"{}", "1", "", headers=headers))
        for headers in ({"x-waymesh-tenant": "acme"}, {})
    )
    assert event_digest(mine) != event_digest(default)


@pytest.mark.parametrize("name", ["x-waymesh-tenant", "X-Waymesh-Tenant", "X-WAYMESH-TENANT"])
def test_the_header_is_known_however_it_is_written(name: str):
    assert from_headers([(name, b"acme"), ("X-Other", b"1")]).headers == {
        "x-waymesh-tenant": "acme",
        "X-Other": "1",
    }
