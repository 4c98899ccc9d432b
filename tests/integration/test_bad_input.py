"""Bad input over HTTP through the real mesh: the right code, the field's name, nothing stored or told."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bad_input_rig import (
    COURIER,
    DELIVERY,
    GPS,
    ORDER,
    OUTCOME,
    SECRETS,
    SEEDS,
    SIGNAL,
    Caller,
    Reply,
    refused,
    rows,
    seeded_mesh,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesRequest

from services.feedback.cursors import number_token, place_token
from services.feedback.store import Place
from services.gateway import tasks
from tests.running_mesh import RunningMesh

TASKS = tasks.load()
by_task = pytest.mark.parametrize("name", list(TASKS))
Ask = Callable[[Caller], Reply]


@pytest.fixture(scope="module")
def mesh(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    folder: Path = tmp_path_factory.mktemp("bad-input")
    with seeded_mesh(postgres_dsn, folder, ENABLE_OUTCOME_LOGGING="false") as running:
        yield running


@pytest.fixture
async def caller(mesh: RunningMesh) -> Any:
    """A client whose requests leave every row of every table as it was."""
    before = await rows(mesh.dsn)
    found = Caller(mesh.gateway)
    yield found
    found.close()
    assert await rows(mesh.dsn) == before


def task(name: str, parameters: object, **options: Any) -> Ask:
    return lambda caller: caller.task(name, parameters, **options)


def raw(body: bytes, **options: Any) -> Ask:
    return lambda caller: caller.send(body, **options)


def fix(**changes: object) -> Ask:
    return task("report_gps", {**GPS, **changes})


def fix_text(old: str, new: str) -> Ask:
    """The fix as text, changed in ways that no encoder writes."""
    text = json.dumps({"task": "report_gps", "parameters": GPS})
    assert text.count(old) == 1
    return raw(text.replace(old, new).encode())


# --- the table ------------------------------------------------------------------------------------

MALFORMED: list[tuple[str, Ask]] = [
    ("empty", raw(b"")),
    ("white space", raw(b" \n ")),
    ("cut off", raw(b'{"task":"report_gps","parameters":{"driver_id":"d')),
    ("two values", raw(b'{"task":"get_gps_stats"} {}')),
    ("single quotes", raw(b"{'task':'get_gps_stats'}")),
    ("a comma too many", raw(b'{"task":"get_gps_stats",}')),
    ("a control character", raw(b'{"task":"get_gps_stats\n"}')),
    ("not UTF-8", raw(b'{"task":"get_order","parameters":{"order_id":"\xff\xfe"}}')),
    ("UTF-16", raw('{"task":"get_gps_stats"}'.encode("utf-16"))),
    ("half a character", raw(b'{"task":"get_order","parameters":{"order_id":"\xc3"}}')),
    ("a surrogate in UTF-8", raw(b'{"task":"get_order","parameters":{"order_id":"\xed\xa0\x80"}}')),
    ("NaN", fix_text('"speed_kph": 0', '"speed_kph": NaN')),
    ("Infinity", fix_text('"speed_kph": 0', '"speed_kph": Infinity')),
    ("-Infinity", fix_text('"speed_kph": 0', '"speed_kph": -Infinity')),
    ("NaN for a latitude", fix_text('"lat": 1.0', '"lat": NaN')),
    ("hexadecimal", fix_text('"speed_kph": 0', '"speed_kph": 0x10')),
    ("a leading zero", fix_text('"speed_kph": 0', '"speed_kph": 01')),
    ("5,000 digits", fix_text('"speed_kph": 0', f'"speed_kph": {"9" * 5_000}')),
    ("10,000 lists deep", raw(b'{"task":"get_order","parameters":%s}' % (b"[" * 10_000 + b"]" * 10_000))),
    ("10,000 objects deep", raw(b'{"task":"x","parameters":%s1%s}' % (b'{"a":' * 10_000, b"}" * 10_000))),
    ("10,000 lists deep and no end", raw(b'{"task":' + b"[" * 10_000)),
]


@pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in MALFORMED])
def test_what_is_no_json_is_a_400_of_the_gateway(caller: Caller, ask: Ask) -> None:
    body = refused(ask(caller), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",))
    assert body["service"] == "gateway"


BEFORE_A_TASK: list[tuple[str, Ask, int, str, str, tuple[str, ...]]] = [
    ("10 MB", raw(b" " * 10_000_000), 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", ()),
    ("text/plain", raw(b"{}", content_type="text/plain"),
        415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ("a form", raw(b"task=x", content_type="application/x-www-form-urlencoded"),
        415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ("no content type", raw(b"{}", content_type=None),
        415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ("wrong key", task("get_gps_stats", {}, key=SECRETS["key"]),
        401, "UNAUTHENTICATED", "API_KEY_INVALID", ()),
    ("unknown task", task("predict_weather", {}), 404, "NOT_FOUND", "UNKNOWN_TASK", ()),
    ("the RPC's own name", task("ReportGps", GPS), 404, "NOT_FOUND", "UNKNOWN_TASK", ()),
    ("a stream is no task", task("watch_eta", {}), 404, "NOT_FOUND", "UNKNOWN_TASK", ()),
    ("no task", raw(b'{"parameters":{}}'), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("task",)),
    ("a task of null", raw(b'{"task":null}'), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("task",)),
    ("a list", raw(b"[]"), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("",)),
    ("a number", raw(b"1"), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("",)),
    ("two unknown fields", raw(b'{"task":"get_gps_stats","a":1,"b":2}'),
        400, "INVALID_ARGUMENT", "INVALID_FIELD", ("a", "b")),
    ("U+0000 in the task", raw(b'{"task":"\\u0000"}'), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("task",)),
    ("half a surrogate in the task", raw(b'{"task":"\\ud800"}'), 404, "NOT_FOUND", "UNKNOWN_TASK", ()),
    ("timeout_ms of 1e999", raw(b'{"task":"get_gps_stats","timeout_ms":1e999}'),
        400, "INVALID_ARGUMENT", "INVALID_FIELD", ("timeout_ms",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "status", "code", "reason", "fields"),
    [pytest.param(*row[1:], id=row[0]) for row in BEFORE_A_TASK],
)
def test_what_names_no_task_that_could_run_is_refused(
    caller: Caller, ask: Ask, status: int, code: str, reason: str, fields: tuple[str, ...]
) -> None:
    assert refused(ask(caller), status, code, reason, fields)["service"] == "gateway"


WRONG_VALUES: list[tuple[str, Ask, tuple[str, ...]]] = [
    ("latitude", fix(location={"lat": 90.1, "lon": 0}), ("parameters.location.lat",)),
    ("no latitude", fix(location={"lon": 2}), ("parameters.location.lat",)),
    ("null for a longitude", fix(location={"lat": 2, "lon": None}), ("parameters.location.lon",)),
    ("longitude", fix(location={"lat": 0, "lon": -180.1}), ("parameters.location.lon",)),
    ("both and the speed", fix(location={"lat": -91, "lon": 181}, speed_kph=-1), (
        "parameters.location.lat", "parameters.location.lon", "parameters.speed_kph",
    )),
    ("1e999", fix_text('"speed_kph": 0', '"speed_kph": 1e999'), ("parameters.speed_kph",)),
    ("-1e999 for a latitude", fix_text('"lat": 1.0', '"lat": -1e999'), ("parameters.location.lat",)),
    ("400 digits", fix_text('"speed_kph": 0', f'"speed_kph": {"9" * 400}'), ("parameters.speed_kph",)),
    ("a revision of 2^32", task("upsert_orders", {"orders": [{**ORDER, "revision": 2**32}]}), (
        "parameters.orders[0].revision",
    )),
    ("a revision of 2^31", task("upsert_orders", {"orders": [{**ORDER, "revision": 2**31}]}), (
        "parameters.orders[0].revision",
    )),
    ("U+0000 in an id", fix(driver_id="driver\0"), ("parameters.driver_id",)),
    ("U+0000 in the id of a list", task("allocate_drivers", {"order_ids": ["a", "\0"]}), (
        "parameters.order_ids[1]",
    )),
    ("half a surrogate", fix_text('"driver_1"', '"\\ud800"'), ("parameters.driver_id",)),
    ("an id too long", fix(driver_id="d" * 129), ("parameters.driver_id",)),
    ("the year 0", fix(timestamp="0000-12-31T23:59:59Z"), ("parameters.timestamp",)),
    ("the year 10000", fix(timestamp="10000-01-01T00:00:00Z"), ("parameters.timestamp",)),
    ("before the year 1 in UTC", fix(timestamp="0001-01-01T00:00:00+01:00"), ("parameters.timestamp",)),
    ("the 30th of February", fix(timestamp="2026-02-30T00:00:00Z"), ("parameters.timestamp",)),
    ("required and missing", task("report_gps", {"driver_id": "d", "order_id": "o"}), (
        "parameters.location", "parameters.trip_stage", "parameters.traffic_density", "parameters.zone_type",
        "parameters.timestamp",
    )),
    ("required and null", fix(location=None), ("parameters.location",)),
    ("an enum's zero", fix(trip_stage="unspecified"), ("parameters.trip_stage",)),
    ("an enum in proto3 JSON", fix(trip_stage="TRIP_STAGE_IDLE"), ("parameters.trip_stage",)),
    ("a flag twice", fix(anomaly_flags=["stale", "stale"]), ("parameters.anomaly_flags",)),
    ("no order unless idle", fix(trip_stage="to_pickup"), ("parameters.order_id",)),
    ("no order to predict", task("predict_eta", {}), ("parameters",)),
    ("latest before earliest", task("upsert_orders", {"orders": [{**ORDER, "promised_window": {
        "earliest": "2026-01-01T01:00:00Z", "latest": "2026-01-01T00:00:00Z"}}]}),
        ("parameters.orders[0].promised_window.latest",)),
    ("delivered before it is picked up", task("upsert_orders", {"orders": [{**ORDER,
        "picked_up_at": "2026-01-01T01:00:00Z", "delivered_at": "2026-01-01T00:00:00Z"}]}),
        ("parameters.orders[0].delivered_at",)),
    ("an action that ends before it starts", task("record_outcomes", {"events": [{**OUTCOME,
        "start_time": "2026-01-01T01:00:00Z", "end_time": "2026-01-01T00:00:00Z"}]}),
        ("parameters.events[0].end_time",)),
    ("quantiles that cross", task("record_delivery_outcomes", {"outcomes": [
        {**DELIVERY, "outcome_id": "x", "p10_minutes": 5, "p50_minutes": 4, "p90_minutes": 6}]}),
        ("parameters.outcomes[0]",)),
    ("a leg twice", task("record_delivery_outcomes", {"outcomes": [
        {**DELIVERY, "outcome_id": "x", "legs": [{"kind": "wait"}, {"kind": "wait"}]}]}),
        ("parameters.outcomes[0].legs",)),
    ("a time that ends before it starts", task("list_outcomes", {
        "start_time": "2026-01-01T01:00:00Z", "end_time": "2026-01-01T00:00:00Z"}), ("parameters.end_time",)),
    ("a matrix for more orders than fit", task("optimize_route", {
        "driver_id": "d", "matrix": {"durations_s": [0] * 82}}), ("parameters.matrix.durations_s",)),
    ("both of a oneof", task("optimize_route", {
        "driver_id": "d", "plane": {"speed_kph": 10}, "matrix": {"durations_s": [0]}}),
        ("parameters.matrix",)),
    ("all agents together, and some", task("query_metrics", {
        "agent_names": ["eta"], "together_only": True}), ("parameters.together_only",)),
    ("a window that is not kept", task("query_metrics", {"window": "61s"}), ("parameters.window",)),
    ("a page too large", task("list_outcomes", {"page_size": 1001}), ("parameters.page_size",)),
    ("the second of a batch", task("record_signals", {"signals": [
        {**SIGNAL, "signal_id": "s"}, {**SIGNAL, "kind": "unspecified"}]}), ("parameters.signals[1].kind",)),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "fields"), [pytest.param(*row[1:], id=row[0]) for row in WRONG_VALUES])
def test_a_wrong_value_is_a_400_that_names_the_field(
    caller: Caller, ask: Ask, fields: tuple[str, ...]
) -> None:
    refused(ask(caller), 400, "INVALID_ARGUMENT", "INVALID_FIELD", fields)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("list_outcomes", "page_token"),
        ("list_delivery_outcomes", "page_token"),
        ("get_gps_stats", "cursor"),
    ],
)
@pytest.mark.parametrize("token", ["nonsense", "AAAA", "gps.1", "é"])
def test_a_cursor_that_is_not_ours_is_a_400_that_names_the_field(
    caller: Caller, name: str, field: str, token: str
) -> None:
    reply, path = caller.task(name, {field: token}), f"parameters.{field}"
    body = refused(reply, 400, "INVALID_ARGUMENT", "CURSOR_INVALID", (path,), told=field)
    assert token not in body["error"]


def test_a_page_token_is_good_for_its_own_list_and_filters_alone(caller: Caller) -> None:
    token = place_token(Place(datetime(2026, 1, 1, tzinfo=UTC), 1), ListOutcomesRequest())
    assert caller.task("list_outcomes", {"page_size": 2, "page_token": token}).status == 200
    last = "A" if token[-1] != "A" else "Q"
    for name, parameters in (
        ("list_outcomes", {"page_token": token, "agent_name": "other"}),
        ("list_outcomes", {"page_token": token[:-1] + last}),
        ("list_alerts", {"page_token": token}),
        ("query_metrics", {"page_token": token}),
        ("list_delivery_outcomes", {"page_token": token}),
    ):
        reply = caller.task(name, parameters)
        body = refused(reply, 400, "INVALID_ARGUMENT", "CURSOR_INVALID", ("parameters.page_token",))
        assert body["details"][0]["description"].endswith("; leave it empty to start anew")


def test_a_silence_says_how_long_and_of_which_rule(caller: Caller) -> None:
    key = {"alert_key": "error_rate/nobody"}
    for parameters in (key, {**key, "duration_s": None}):
        reply = caller.task("silence_alert", parameters)
        refused(reply, 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("parameters.duration_s",), told="required")
    for wrong in ("nobody", "/nobody", "error-rate/nobody"):
        reply = caller.task("silence_alert", {"alert_key": wrong, "duration_s": 60})
        path = ("parameters.alert_key",)
        refused(reply, 400, "INVALID_ARGUMENT", "INVALID_FIELD", path, told="error_rate, p95_latency")


@pytest.mark.parametrize(
    ("name", "field", "token"),
    [
        ("list_delivery_outcomes", "page_token", number_token(10**9)),
        ("get_gps_stats", "cursor", "gps." + ".".join(["ffffffff"] * 10)),
    ],
)
def test_a_cursor_ahead_of_what_is_stored_is_a_400_that_names_the_field(
    caller: Caller, name: str, field: str, token: str
) -> None:
    reply, path = caller.task(name, {field: token}), f"parameters.{field}"
    refused(reply, 400, "OUT_OF_RANGE", "CURSOR_INVALID", (path,), told=field)


UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("predict_eta", {"order_id": "nobody"}, "ORDER_UNKNOWN"),
    ("get_order", {"order_id": "nobody"}, "ORDER_UNKNOWN"),
    ("cancel_order", {"order_id": "nobody"}, "ORDER_UNKNOWN"),
    ("cancel_order", {"order_id": "nobody", "revision": 7, "reason": "late"}, "ORDER_UNKNOWN"),
    ("allocate_drivers", {"order_ids": ["nobody"]}, "ORDER_UNKNOWN"),
    ("optimize_route", {"driver_id": "nobody"}, "COURIER_UNKNOWN"),
]


@pytest.mark.parametrize(("name", "parameters", "reason"), UNKNOWN)
def test_an_order_or_courier_that_nobody_knows_is_a_404(
    caller: Caller, name: str, parameters: dict[str, Any], reason: str
) -> None:
    refused(caller.task(name, parameters), 404, "NOT_FOUND", reason, ())


def test_in_a_batch_of_predictions_an_unknown_order_is_an_error_of_its_own(caller: Caller) -> None:
    reply = caller.task("batch_predict_eta", {"queries": [{"order_id": "nobody"}, {"order_id": "order_1"}]})
    unknown, known = reply.json["result"]["results"]
    assert unknown["error"]["reason"] == "ORDER_UNKNOWN"
    assert known["prediction"]["order_id"] == "order_1"


def test_of_several_orders_to_allocate_the_unknown_one_is_told(caller: Caller) -> None:
    reply = caller.task("allocate_drivers", {"order_ids": ["order_1", "nobody"]})
    told = {each["order_id"]: each["reason"] for each in reply.json["result"]["unallocated"]}
    assert told == {"order_1": "no courier is on shift with a known position", "nobody": "not known"}


OTHER_CONTENT: list[tuple[str, dict[str, Any]]] = [
    ("report_gps", {**GPS, "speed_kph": 9}),
    ("upsert_orders", {"orders": [{**ORDER, "priority": 9}]}),
    ("upsert_couriers", {"couriers": [{**COURIER, "capacity": 9}]}),
    ("record_outcomes", {"events": [{**OUTCOME, "status": "failure"}]}),
    ("record_delivery_outcomes", {"outcomes": [{**DELIVERY, "p90_minutes": 9}]}),
    ("record_signals", {"signals": [{**SIGNAL, "active": False}]}),
]


@pytest.mark.parametrize(("name", "parameters"), OTHER_CONTENT)
def test_the_same_id_with_other_content_is_a_409(
    caller: Caller, name: str, parameters: dict[str, Any]
) -> None:
    refused(caller.task(name, parameters), 409, "ALREADY_EXISTS", "CONFLICTING_CONTENT", ())


@pytest.mark.parametrize("name", list(SEEDS))
def test_the_same_again_is_a_success_that_changes_nothing(caller: Caller, name: str) -> None:
    reply = caller.task(name, SEEDS[name])
    assert (reply.status, reply.json["result"]["duplicate"]) == (200, True)


def test_an_older_revision_is_a_409(caller: Caller) -> None:
    older = caller.task("upsert_orders", {"orders": [{**ORDER, "revision": 1}]})
    refused(older, 409, "ABORTED", "STALE_REVISION", ())


def test_of_a_name_that_comes_twice_the_last_counts_also_for_what_is_wrong(caller: Caller) -> None:
    twice = fix_text('"speed_kph": 0', '"speed_kph": 0, "speed_kph": true')
    refused(twice(caller), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("parameters.speed_kph",))
    later = raw(b'{"task":"report_gps","task":"get_order","parameters":{"order_id":"nobody"}}')
    refused(later(caller), 404, "NOT_FOUND", "ORDER_UNKNOWN", ())


BATCHES = {
    "batch_predict_eta": ("queries", {"order_id": "order_1"}),
    "get_travel_times": ("origins", {"lat": 0, "lon": 0}),
    "upsert_orders": ("orders", ORDER),
    "upsert_couriers": ("couriers", COURIER),
    "record_outcomes": ("events", OUTCOME),
    "record_delivery_outcomes": ("outcomes", DELIVERY),
    "record_signals": ("signals", SIGNAL),
}


@pytest.mark.parametrize("name", list(BATCHES))
@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_that_is_empty_or_too_large_is_a_400(caller: Caller, name: str, count: int) -> None:
    field, item = BATCHES[name]
    more = {"destinations": [item]} if name == "get_travel_times" else {}
    reply = caller.task(name, {field: [item] * count, **more})
    refused(reply, 400, "INVALID_ARGUMENT", "INVALID_FIELD", (f"parameters.{field}",))


def test_of_1001_bad_items_50_fields_are_told(caller: Caller) -> None:
    reply = caller.task("upsert_orders", {"orders": [{"order_id": 1}] * 1001})
    fields = [f"parameters.orders[{place}].order_id" for place in range(50)]
    body = refused(reply, 400, "INVALID_ARGUMENT", "INVALID_FIELD", fields)
    assert body["error"].startswith("at least 50 fields are wrong")


# --- every field of every task --------------------------------------------------------------------

F = FieldDescriptor
HUGE = 10**400
BY_TYPE: dict[int, tuple[object, ...]] = {
    F.TYPE_DOUBLE: (True, "1", "NaN", [1], {}, HUGE),
    F.TYPE_UINT32: (True, "1", 1.5, -1, 2**32, HUGE, [1], {}),
    F.TYPE_BOOL: (0, 1, "true", [], {}),
    F.TYPE_STRING: (1, True, [], {}, "\ud800", "\0"),
    F.TYPE_ENUM: (1, True, "", "no_such_value", [], {}),
}
WELL_KNOWN: dict[str, tuple[object, ...]] = {
    "google.protobuf.Timestamp": (1, True, "", "yesterday", "2026-01-01", "2026-02-30T00:00:00Z", [], {}),
    "google.protobuf.Struct": (1, True, "x", []),
}
NO_OBJECT: tuple[object, ...] = (1, True, "x", [], [{}])
NO_LIST: tuple[object, ...] = (1, True, "x", {})


def wrong_values(descriptor: Descriptor) -> Iterator[tuple[str, Any]]:
    """A path and parameters that hold one wrong value there, for every field below."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            for wrong in NO_OBJECT:
                yield f".{field.name}", {field.name: wrong}
            continue
        if field.is_repeated:
            for wrong in NO_LIST:
                yield f".{field.name}", {field.name: wrong}
        for below, value in wrong_single(field):
            place = "[0]" if field.is_repeated else ""
            yield f".{field.name}{place}{below}", {field.name: [value] if field.is_repeated else value}


def wrong_single(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    inner = field.message_type
    if inner is None:
        yield from (("", wrong) for wrong in BY_TYPE[field.type])
    elif inner.full_name in WELL_KNOWN:
        yield from (("", wrong) for wrong in WELL_KNOWN[inner.full_name])
    else:
        yield from (("", wrong) for wrong in NO_OBJECT)
        yield ".no_such_field", {"no_such_field": 1}
        yield from wrong_values(inner)


@by_task
def test_a_wrong_type_anywhere_is_a_400_that_names_the_field(caller: Caller, name: str) -> None:
    cases = [
        *(("", wrong) for wrong in NO_OBJECT),
        (".no_such_field", {"no_such_field": 1}),
        *wrong_values(TASKS[name].parameters.DESCRIPTOR),
    ]
    assert len(cases) > len(NO_OBJECT) + bool(TASKS[name].parameters.DESCRIPTOR.fields)
    for path, parameters in cases:
        reply = caller.task(name, parameters)
        refused(reply, 400, "INVALID_ARGUMENT", "INVALID_FIELD", (f"parameters{path}",))


# --- what may not be written down -----------------------------------------------------------------


@by_task
def test_nothing_secret_of_a_refused_request_is_told_or_logged(
    mesh: RunningMesh, caller: Caller, name: str
) -> None:
    secret = {field: value for field, value in SECRETS.items() if field != "key"}
    replies = [
        caller.task(name, secret, key=SECRETS["key"]),
        caller.task(name, secret),
        caller.send(json.dumps({"task": name, "parameters": {}, **secret}).encode()),
        caller.send(json.dumps({"task": name, **secret}).encode() + b"}"),
    ]
    assert [reply.status for reply in replies] == [401, 400, 400, 400]
    written = b"".join(reply.body for reply in replies) + "\n".join(line for _, line in mesh.logs()).encode()
    assert not [value for value in SECRETS.values() if value.encode() in written]


def test_no_service_took_any_of_it_for_a_fault_of_its_own(mesh: RunningMesh) -> None:
    services = {"gateway", "eta", "route", "feedback", "agents"}
    lines = [(service, json.loads(line)) for service, line in mesh.logs()]
    assert {service for service, _ in lines} == services
    # Were levels written otherwise than they are looked for here, nothing would ever be found.
    assert {service for service, line in lines if line["level"] == "INFO"} == services
    assert [each for each in lines if each[1]["level"] in ("WARNING", "ERROR", "CRITICAL")] == []
