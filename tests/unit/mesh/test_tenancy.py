"""Whose an id is: qualified and plain, in messages, errors and sentences."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.eta.v1 import eta_service_pb2
from waymesh.feedback.v1 import alert_pb2, feedback_service_pb2
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.mesh.v1 import tenancy_pb2
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN
from waymesh.order.v1 import events_pb2, order_pb2
from waymesh.route.v1 import allocation_pb2, route_pb2, route_service_pb2

from services.mesh import errors, tenancy
from services.mesh.errors import FieldViolation, NotFound
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from tests.examples import examples

tenants = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True) | st.just(DEFAULT_TENANT)
# Made to look like what they are not.
ids = st.text(min_size=1, max_size=12) | st.lists(tenants, min_size=1, max_size=4).map("/".join)

SERVICES = [
    eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"],
    route_service_pb2.DESCRIPTOR.services_by_name["RouteService"],
    feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
]
EVENTS = [
    GpsEvent, order_pb2.Order, events_pb2.OrderEvent, events_pb2.OrderCommand, allocation_pb2.Allocation,
    route_pb2.RouteOptimization, alert_pb2.Alert, AgentMetrics,
]  # fmt: skip


def _told() -> list[type[Message]]:
    """Every message that a tenant sends or is told, by RPC or by topic."""
    methods = [method for service in SERVICES for method in service.methods]
    each = [side for method in methods for side in (method.input_type, method.output_type)]
    return [GetMessageClass(one) for one in each] + list(EVENTS)


def _within(descriptor: Descriptor, seen: set[str] | None = None) -> Iterator[Descriptor]:
    seen = set() if seen is None else seen
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        yield descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                yield from _within(field.message_type, seen)


def _is_ours(descriptor: Descriptor) -> bool:
    return descriptor.full_name.startswith("waymesh.")


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> Message:
    """A message with whatever in its texts, and all kinds of what it may hold."""
    made = GetMessageClass(kind)()
    for field in kind.fields:
        inner = field.message_type
        if field.type == field.TYPE_STRING:
            texts = ids if tenancy.is_marked(field) else st.text(max_size=4)
            if field.is_repeated:
                getattr(made, field.name).extend(draw(st.lists(texts, max_size=3)))
            elif draw(st.booleans()):
                setattr(made, field.name, draw(texts))
        elif inner is None or inner.GetOptions().map_entry or not _is_ours(inner) or depth > 3:
            continue
        elif field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(messages(inner, depth + 1), max_size=2)))
        elif draw(st.booleans()):
            getattr(made, field.name).CopyFrom(draw(messages(inner, depth + 1)))
    return made


def _ids_of(message: Message) -> list[str]:
    """All ids in a message, found by walking over it as the plans do not."""
    found: list[str] = []
    for field, value in message.ListFields():
        if tenancy.is_marked(field):
            found += list(value) if field.is_repeated else [value]
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                found += _ids_of(each)
    return found


# --- ids ----------------------------------------------------------------------------------------------------


@given(tenants, ids)
def test_a_qualified_id_tells_its_tenant_and_its_plain_id(tenant: str, plain: str):
    qualified = tenancy.qualify(tenant, plain)
    assert tenancy.split(qualified) == (tenant, plain)
    assert (tenancy.tenant_of(qualified), tenancy.plain(qualified)) == (tenant, plain)


@given(st.tuples(tenants, ids), st.tuples(tenants, ids))
def test_two_tenants_ids_are_never_the_same(one: tuple[str, str], other: tuple[str, str]):
    assert (tenancy.qualify(*one) == tenancy.qualify(*other)) == (one == other)


@given(ids.filter(lambda one: "/" not in one))
def test_an_id_of_the_default_tenant_stands_as_it_is(plain: str):
    assert tenancy.qualify(DEFAULT_TENANT, plain) == plain


@given(tenants)
def test_no_id_stays_no_id(tenant: str):
    assert tenancy.qualify(tenant, "") == ""


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", _told(), ids=lambda kind: kind.DESCRIPTOR.name)
@settings(max_examples=examples(12), deadline=None)
@given(st.data())
def test_what_a_tenant_sent_is_told_as_he_sent_it(kind: type[Message], data: st.DataObject):
    sent, tenant = data.draw(messages(kind.DESCRIPTOR)), data.draw(tenants)
    kept = kind()
    kept.CopyFrom(sent)
    tenancy.qualify_message(kept, tenant)
    assert _ids_of(kept) == [tenancy.qualify(tenant, one) for one in _ids_of(sent)]
    assert tenancy.plain_message(kept, tenant) == sent
    assert tenancy.plain_copy(kept) == sent


@pytest.mark.parametrize("kind", _told(), ids=lambda kind: kind.DESCRIPTOR.name)
@settings(max_examples=examples(5), deadline=None)
@given(st.data())
def test_nothing_is_told_to_another_tenant(kind: type[Message], data: st.DataObject):
    kept = data.draw(messages(kind.DESCRIPTOR))
    mine, other = data.draw(st.lists(tenants, min_size=2, max_size=2, unique=True))
    tenancy.qualify_message(kept, mine)
    if any(_ids_of(kept)):
        with pytest.raises(tenancy.ForeignTenantError):
            tenancy.plain_message(kept, other)


def test_what_a_handler_keeps_is_not_changed_by_telling_it():
    kept = order_pb2.Order(order_id="acme/o1", driver_id="acme/c1")
    told = tenancy.plain_message(kept, "acme")
    assert (kept.order_id, told.order_id, told.driver_id) == ("acme/o1", "o1", "c1")


def test_a_message_of_the_default_tenant_is_told_as_it_is():
    kept = order_pb2.Order(order_id="o1", cancel_reason="a/b")
    assert tenancy.plain_message(kept, DEFAULT_TENANT) is kept


def test_ids_that_are_sent_for_the_mesh_stay_as_they_are():
    sent = order_pb2.Order(order_id="acme/o1", driver_id="c2")
    tenancy.qualify_message(sent, MESH_TENANT)
    assert tenancy.plain_message(sent, MESH_TENANT) is sent
    assert (sent.order_id, sent.driver_id) == ("acme/o1", "c2")


def test_an_absent_id_stays_absent():
    fix = GpsEvent(driver_id="c1")
    tenancy.qualify_message(fix, "acme")
    assert not fix.HasField("event_id")
    assert fix.order_id == ""


# --- the contracts ------------------------------------------------------------------------------------------

# Texts whose names look like those of ids, and why they are none of a tenant's.
UNMARKED = {
    "waymesh.feedback.v1.Alert.alert_id": "random, and nothing is looked up by it",
    "waymesh.feedback.v1.AgentMetrics.metrics_id": "made of plain names, and nothing is looked up by it",
    **{
        f"waymesh.feedback.v1.{kind}.alert_key": "made of a rule and a subject, which feedback qualifies"
        for kind in ("Alert", "SilenceAlertRequest", "SilenceAlertResponse")
    },
}


def _looks_like_an_id(name: str) -> bool:
    words = set(name.split("_"))
    return bool(words & {"id", "ids", "key", "subject"}) or (
        "agent" in words and bool(words & {"name", "names"})
    )


def test_every_field_that_looks_like_an_id_is_marked_or_has_its_reason():
    unmarked = {
        field.full_name
        for kind in _told()
        for one in _within(kind.DESCRIPTOR)
        if _is_ours(one) and not one.GetOptions().map_entry
        for field in one.fields
        if _looks_like_an_id(field.name) and not tenancy.is_marked(field)
    }
    assert unmarked == set(UNMARKED)


def test_ids_where_they_would_be_missed_are_no_contract():
    pool = descriptor_pool.DescriptorPool()
    for used in (descriptor_pb2.DESCRIPTOR, tenancy_pb2.DESCRIPTOR):
        pool.AddSerializedFile(used.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="wrong.proto", package="wrong", dependency=["waymesh/mesh/v1/tenancy.proto"]
    )
    held = file.message_type.add(name="Held")
    held.field.add(name="order_id", number=1, type=9, label=1)
    held.field[0].options.Extensions[tenancy_pb2.tenant_scoped] = True
    holder = file.message_type.add(name="Holder")
    entry = holder.nested_type.add(name="OrdersEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".wrong.Held")
    holder.field.add(name="orders", number=1, type=11, label=3, type_name=".wrong.Holder.OrdersEntry")
    number = file.message_type.add(name="Number")
    number.field.add(name="order_id", number=1, type=5, label=1)
    number.field[0].options.Extensions[tenancy_pb2.tenant_scoped] = True
    pool.Add(file)
    for name in ("Holder", "Number"):
        with pytest.raises(TypeError, match="of a tenant"):
            tenancy.qualify_message(GetMessageClass(pool.FindMessageTypeByName(f"wrong.{name}"))(), "acme")


# --- errors -------------------------------------------------------------------------------------------------


def test_an_error_tells_ids_as_the_tenant_knows_them():
    raised = NotFound(
        "order acme/o1 is not known; 'acme/o2' and (acme/acme/o3) are not either",
        reason=ERROR_REASON_ORDER_UNKNOWN,
        metadata={"order_id": "acme/o1", "id": "acme/o1@3"},
        violations=[FieldViolation('orders["acme/o1"]', "is not acme/o2")],
        retry_after_s=2.0,
    )
    told = tenancy.plain_error(raised, "acme")
    assert isinstance(told, NotFound)
    assert told.message == "order o1 is not known; 'o2' and (acme/o3) are not either"
    assert told.metadata == {"order_id": "o1", "id": "o1@3"}
    assert told.violations == (FieldViolation('orders["o1"]', "is not o2"),)
    assert (told.reason, told.retry_after_s) == (ERROR_REASON_ORDER_UNKNOWN, 2.0)


@pytest.mark.parametrize("tenant", [DEFAULT_TENANT, MESH_TENANT, "other"])
def test_an_error_that_names_nothing_of_the_tenants_stays_as_it_is(tenant: str):
    raised = NotFound("order o1 is not known", metadata={"order_id": "o1", "method": "/acme/x"})
    assert tenancy.plain_error(raised, tenant) is raised


@pytest.mark.parametrize(
    ("tenant", "kept", "told"),
    [
        ("default", "order default/a/b, not default/usual", "order a/b, not default/usual"),
        ("eta", "see /eta/x, waymesh.eta/x, beta/x: eta/x", "see /eta/x, waymesh.eta/x, beta/x: x"),
        ("a.b", "aXb/1 and a.b/1", "aXb/1 and 1"),
    ],
)
def test_only_whole_ids_are_made_plain_in_a_sentence(tenant: str, kept: str, told: str):
    assert tenancy.plain_text(kept, tenant) == told


def test_errors_within_an_answer_are_made_plain_too():
    error = errors.to_status(NotFound("order acme/o1 is not known", metadata={"order_id": "acme/o1"},
                                      reason=ERROR_REASON_ORDER_UNKNOWN))  # fmt: skip
    kept = route_service_pb2.UpsertOrdersResponse()
    kept.results.add(id="acme/o1").error.CopyFrom(error)
    told = tenancy.plain_message(kept, "acme").results[0]
    plain = errors.from_status(told.error)
    assert (told.id, plain.message, plain.metadata) == ("o1", "order o1 is not known", {"order_id": "o1"})
    assert plain.code is grpc.StatusCode.NOT_FOUND
    assert kept.results[0].error == error


def test_a_foreign_status_stays_as_it_is():
    kept = route_service_pb2.UpsertOrdersResponse()
    kept.results.add(id="o1").error.CopyFrom(status_pb2.Status(code=5, message="acme/o1"))
    assert tenancy.plain_message(kept, DEFAULT_TENANT) == kept
