"""What holds of the JSON codec for every message and every text."""
# ruff: noqa: PT017 - a property may hold with or without the error

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_probe import PROBE
from waymesh.eta.v1 import eta_pb2, eta_service_pb2
from waymesh.feedback.v1 import delivery_pb2, feedback_service_pb2, outcome_pb2, signal_pb2
from waymesh.gps.v1 import gps_pb2
from waymesh.order.v1 import context_pb2, events_pb2
from waymesh.route.v1 import route_pb2, route_service_pb2

from services.mesh import _json_pieces
from services.mesh.errors import InvalidArgument
from services.mesh.json_codec import decode, encode, from_dict, parse, pieces, to_dict
from tests.examples import examples

KINDS: list[type[Message]] = [
    gps_pb2.GpsEvent,
    outcome_pb2.OutcomeEvent,
    delivery_pb2.DeliveryOutcome,
    signal_pb2.Signal,
    context_pb2.DeliveryContext,
    events_pb2.OrderEvent,
    events_pb2.OrderCommand,
    eta_pb2.EtaPrediction,
    eta_service_pb2.BatchPredictEtaRequest,
    route_pb2.RouteOptimization,
    route_service_pb2.OptimizeRouteRequest,
    feedback_service_pb2.RecordOutcomesRequest,
    PROBE,
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
doubles = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | doubles | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
FD = FieldDescriptor
SIMPLE: dict[int, st.SearchStrategy[Any]] = {
    FD.TYPE_STRING: text,
    FD.TYPE_BOOL: st.booleans(),
    FD.TYPE_DOUBLE: doubles,
    FD.TYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    FD.TYPE_BYTES: st.binary(max_size=8),
    FD.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FD.TYPE_SINT32: st.integers(-(2**31), 2**31 - 1),
    FD.TYPE_UINT32: st.integers(0, 2**32 - 1),
}


def value_of(json_value: object) -> struct_pb2.Value:
    holder = struct_pb2.ListValue()
    holder.extend([json_value])  # type: ignore[list-item]
    return holder.values[0]


# Times of the year 1 to 9999; durations whose double is exact; statuses without details, which JSON keeps.
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "google.protobuf.Timestamp": st.fixed_dictionaries(
        {"seconds": st.integers(-62_135_596_800, 253_402_300_799), "nanos": st.integers(0, 999_999_999)}
    ),
    "google.protobuf.Duration": st.integers(-1_000_000, 1_000_000).map(lambda seconds: {"seconds": seconds}),
    "google.protobuf.Struct": st.dictionaries(text, plain, max_size=3),
    "google.protobuf.ListValue": st.lists(plain, max_size=3),
    "google.protobuf.Value": plain.map(value_of),
    "google.rpc.Status": st.fixed_dictionaries({"code": st.integers(0, 16), "message": text}),
}


def messages(descriptor: Descriptor, depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """What a constructor takes, for any message of this type whose enums the rules let pass."""
    taken: set[str] = set()
    members: dict[str, st.SearchStrategy[Any]] = {}
    choices: dict[str, list[FieldDescriptor]] = {}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1:
            choices.setdefault(oneof.name, []).append(field)
            taken.add(field.name)
        elif depth > 0 or field.message_type is None or field.message_type.full_name in KNOWN:
            members[field.name] = field_values(field, depth)
    # Enums without presence are written as `unspecified`, which the rules of many refuse: always set them.
    needed = {
        name: values
        for name, values in members.items()
        if descriptor.fields_by_name[name].type == FD.TYPE_ENUM
        and not descriptor.fields_by_name[name].is_repeated
    }
    base = st.fixed_dictionaries(needed, optional={n: v for n, v in members.items() if n not in needed})
    if depth == 0:
        return base
    picks = [
        st.just({}) | st.one_of([st.fixed_dictionaries({f.name: field_values(f, depth)}) for f in group])
        for group in choices.values()
    ]
    return st.tuples(base, *picks).map(lambda parts: {k: v for part in parts for k, v in part.items()})


def field_values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key = single(message.fields_by_name["key"], depth)
        return st.dictionaries(key, single(message.fields_by_name["value"], depth), max_size=2)
    one = single(field, depth)
    return st.lists(one, max_size=2) if field.is_repeated else one


def single(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values if value.number])
    if field.message_type is None:
        return SIMPLE[field.type]
    if field.message_type.full_name in KNOWN:
        return KNOWN[field.message_type.full_name]
    return messages(field.message_type, depth - 1)


relaxed = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    max_examples=examples(25),
    deadline=None,
)


def message_of(kind: type[Message], data: st.DataObject) -> Message:
    message = kind(**data.draw(messages(kind.DESCRIPTOR)))
    # Map entries and plain JSON may have been built in any order: compare what the wire makes of it.
    return kind.FromString(message.SerializeToString())


@kinds
@relaxed
@given(data=st.data())
def test_a_message_comes_back_from_json_as_it_went(kind: type[Message], data: st.DataObject) -> None:
    message = message_of(kind, data)
    written = encode(message)
    assert decode(kind, written) == message
    assert decode(kind, written, unknown="ignore") == message
    assert from_dict(kind, to_dict(message)) == message
    assert encode(decode(kind, written)) == written
    strict: Callable[[str], object] = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    assert json.loads(written, parse_constant=strict) == to_dict(message)


@kinds
@relaxed
@given(data=st.data())
def test_long_lists_are_the_same_text_in_pieces(kind: type[Message], data: st.DataObject) -> None:
    message = message_of(kind, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_pieces, "_LONG_OF_MESSAGES", 1)
        patch.setattr(_json_pieces, "_LONG_OF_VALUES", 1)
        assert b"".join(pieces(message)) == encode(message)


@kinds
@relaxed
@given(data=st.data())
def test_what_a_message_lacks_may_as_well_be_null(kind: type[Message], data: st.DataObject) -> None:
    message = message_of(kind, data)
    absent = {f.name: None for f in kind.DESCRIPTOR.fields if f.name not in ("anything",)}
    assert from_dict(kind, absent | to_dict(message)) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@kinds
@relaxed
@given(data=st.data(), unknown=st.sampled_from(["reject", "ignore"]))
def test_any_value_in_any_field_is_read_or_refused_by_name(
    kind: type[Message], data: st.DataObject, unknown: str
) -> None:
    """A message, some of whose fields at any depth are replaced by any JSON."""
    body = to_dict(message_of(kind, data))
    places: list[tuple[Any, Any]] = []
    open_: list[Any] = [body]
    while open_:
        holder = open_.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, item in entries:
            places.append((holder, key))
            if isinstance(item, dict | list):
                open_.append(item)
    for holder, key in data.draw(st.lists(st.sampled_from(places), max_size=2)) if places else []:
        holder[key] = data.draw(json_values)
    try:
        message = from_dict(kind, body, unknown=unknown)  # type: ignore[arg-type]
    except InvalidArgument as error:
        assert 1 <= len(error.violations) <= 50
        # The explanation finds what the fast way fell over.
        assert all("cannot be read" not in each.description for each in error.violations)
        for each in error.violations:
            each.field.encode()
            each.description.encode()
    else:
        message.SerializeToString()


@kinds
@relaxed
@given(body=json_values)
def test_any_json_is_read_or_refused(kind: type[Message], body: object) -> None:
    for unknown in ("reject", "ignore"):
        try:
            from_dict(kind, body, unknown=unknown)  # type: ignore[arg-type]
        except InvalidArgument as error:
            assert all("cannot be read" not in each.description for each in error.violations)


@given(body=st.binary() | st.text().map(str.encode) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = parse(body)
    except InvalidArgument:
        return
    assert json.dumps(json.loads(body)) == json.dumps(value)
    try:
        decode(outcome_pb2.OutcomeEvent, body)
    except InvalidArgument as error:
        assert error.violations


@given(body=json_values)
def test_the_scanner_reads_what_json_loads_reads(body: object) -> None:
    dumped = json.dumps(body)
    finite = "NaN" not in dumped and "Infinity" not in dumped
    if finite and "\\u0000" not in dumped:
        assert json.dumps(parse(dumped)) == dumped


@given(number=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_of_32_bits_is_written_with_the_fewest_digits(number: float) -> None:
    written = to_dict(PROBE(ratio=number))["ratio"]
    assert PROBE(ratio=written).ratio == number  # type: ignore[attr-defined]
    assert len(repr(written)) <= len(repr(number)) or math.isclose(written, number)
