"""What a body may hold, before a message is made of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.agent.v1.agent_registry_service_pb2 import CreateAgentRequest
from waymesh.agent.v1.task_pb2 import RunTaskRequest
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.route.v1.route_service_pb2 import UpsertOrdersRequest

from services.gateway import bulk
from services.mesh import json_codec
from services.mesh.errors import InvalidArgument


def read(message: Any, value: object) -> tuple[str, str] | None:
    """Field and description of the first thing wrong with a body; None if nothing is."""
    try:
        body, much = bulk.parse(json.dumps(value).encode())
        assert body == value
        if much:
            bulk.check(message.DESCRIPTOR, body)
    except InvalidArgument as error:
        return error.violations[0].field, error.violations[0].description
    return None


@pytest.mark.parametrize(
    ("message", "value", "field", "limit"),
    [
        (RunTaskRequest, {"input": {"a": [{}] * 10_000}}, "input", "10,000 values"),
        (RunTaskRequest, {"input": {"a": [0] * 10_000}}, "input", "10,000 values"),
        (RunTaskRequest, {"input": {str(n): n for n in range(10_001)}}, "input", "10,000 values"),
        (RunTaskRequest, {"input": {"a": [[[0]] * 5_000]}}, "input", "10,000 values"),
        (
            CreateAgentRequest,
            {"spec": {"output_schema": {"properties": {str(n): {} for n in range(10_000)}}}},
            "spec.output_schema",
            "10,000 values",
        ),
        (
            CreateAgentRequest,
            {"spec": {"capabilities": [{}, {"config": {"a": [0] * 11_000}}]}},
            "spec.capabilities[1].config",
            "10,000 values",
        ),
        (UpsertOrdersRequest, {"orders": [{}] * 10_002}, "orders", "no more than 1000 item(s)"),
        (
            UpsertOrdersRequest,
            {"orders": [{}, {"items": [{}] * 20_000}]},
            "orders[1].items",
            "no more than 200 item(s)",
        ),
        (RunTaskRequest, {"input": {"a": [0] * 300_000}}, "", "200,000 values"),
        (RunTaskRequest, [[]] * 300_000, "", "200,000 values"),
    ],
)
def test_too_much_is_refused_by_field(message: Any, value: object, field: str, limit: str) -> None:
    told = read(message, value)
    assert told is not None
    assert told[0] == field
    assert told[1].endswith(limit)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (RunTaskRequest, {"input": {"a": [0] * 9_999}}),
        (RunTaskRequest, {"task": ",[{" * 500_000}),
        (RunTaskRequest, {"task": '\\",' * 200_000 + "\\"}),
        (UpsertOrdersRequest, {"orders": [{"items": [{}] * 100}] * 1000}),
        (UpsertOrdersRequest, {"colours": [0] * 20_000, "orders": {"a": [0] * 20_000}}),
        (UpsertOrdersRequest, [0] * 20_000),
    ],
)
def test_as_much_as_may_be_is_read_and_what_is_wrong_besides_is_told_later(
    message: Any, value: object
) -> None:
    assert read(message, value) is None


def test_places_of_any_form_are_bounded_together() -> None:
    assert read(RecordOutcomesRequest, {"events": [{"input": {"a": [0] * 49}}] * 1000}) is None
    told = read(RecordOutcomesRequest, {"events": [{"input": {"a": [0] * 59}}] * 1000})
    assert told is not None
    assert told[0] == "events[833].input"
    assert told[1].endswith("all places of this kind together at most 50,000 values")


@settings(deadline=None)
@given(text=st.text(st.sampled_from('"\\,[]{}:a '), max_size=40))
def test_texts_are_not_counted_however_they_are_written(text: str) -> None:
    raw = json.dumps([text, text]).encode()
    assert bulk._TEXT.sub(b"", raw) == b"[, ]"


@settings(deadline=None)
@given(raw=st.binary(max_size=40))
def test_what_is_no_json_is_refused_as_before(raw: bytes) -> None:
    padded = raw + b"," * 20_000
    for data in (raw, padded):
        with_bounds = without = None
        try:
            with_bounds, _ = bulk.parse(data)
        except InvalidArgument as error:
            with_bounds = error.message
        try:
            without = json_codec.parse(data)
        except InvalidArgument as error:
            without = error.message
        assert repr(with_bounds) == repr(without)
