"""Every cause of an error over HTTP: status, code, reason, who failed, and one form for all."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gateway_rig import GPS, JSON, KEY, Client, Reply, gateway, took_in
from waymesh.mesh.v1 import error_reason_pb2 as reasons

from services.mesh import errors
from services.mesh.errors import FieldViolation, MeshError

FIELDS = {"error", "request_id", "duration_ms", "service", "code", "reason", "details"}
Ask = Callable[[Client], Awaitable[Reply]]


def check(
    reply: Reply, status: int, code: str, reason: str, service: str = "gateway", details: tuple[str, ...] = ()
) -> dict[str, Any]:
    body: dict[str, Any] = reply.json
    assert set(body) == FIELDS
    assert reply.status == status
    assert (body["code"], body["reason"], body["service"]) == (code, reason, service)
    assert [each["field"] for each in body["details"]] == list(details)
    assert all(set(each) == {"field", "description"} for each in body["details"])
    assert body["request_id"] == reply.headers["x-request-id"]
    assert body["duration_ms"] >= 0
    assert body["error"]
    assert ("retry-after" in reply.headers) == (status in (429, 503))
    return body


def post(body: object, **options: Any) -> Ask:
    return lambda client: client.post("/execute", body, **options)


def task(name: str, parameters: object, **options: Any) -> Ask:
    return lambda client: client.task(name, parameters, **options)


def report(**changes: object) -> Ask:
    return task("report_gps", {**GPS, **changes})


async def chunked_10_mb(client: Client) -> Reply:
    await client.send(
        "POST", "/execute", headers={"X-API-Key": KEY, "Content-Type": JSON, "Transfer-Encoding": "chunked"}
    )
    _, writer = await client.connect()
    piece = b" " * 100_000
    for _ in range(100):
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    return await client.receive()


async def garbage(client: Client) -> Reply:
    _, writer = await client.connect()
    writer.write(b"garbage\r\n\r\n")
    return await client.receive()


BEFORE_ROUTING: list[tuple[str, Ask, int, str, str, tuple[str, ...]]] = [
    ("no key", task("report_gps", GPS, key=None), 401, "UNAUTHENTICATED", "API_KEY_MISSING", ()),
    ("empty key", task("report_gps", GPS, key=""), 401, "UNAUTHENTICATED", "API_KEY_MISSING", ()),
    ("wrong key", task("report_gps", GPS, key="wm_wrong"), 401, "UNAUTHENTICATED", "API_KEY_INVALID", ()),
    ("unknown path", lambda c: c.ask("GET", "/exec"), 404, "NOT_FOUND", "UNKNOWN_PATH", ()),
    ("unknown path, with a body", lambda c: c.post("/", {}), 404, "NOT_FOUND", "UNKNOWN_PATH", ()),
    ("unknown task", task("predict_weather", {}), 404, "NOT_FOUND", "UNKNOWN_TASK", ()),
    ("wrong method", lambda c: c.ask("GET", "/execute"), 405, "INVALID_ARGUMENT", "METHOD_NOT_ALLOWED", ()),
    ("odd method", lambda c: c.ask("DELETE", "/docs"), 405, "INVALID_ARGUMENT", "METHOD_NOT_ALLOWED", ()),
    *(
        (
            f"method {method} that no path has",
            lambda c, method=method: c.ask(method, "/execute"),
            *(405, "INVALID_ARGUMENT", "METHOD_NOT_ALLOWED", ()),
        )
        for method in ("FOO", "post", "POSTX", "DESCRIBE", "PRI", "CONNECT", "TRACE", "!#$%&'*+.^_`|~0")
    ),
    ("odd method, unknown path", lambda c: c.ask("FOO", "/exec"), 404, "NOT_FOUND", "UNKNOWN_PATH", ()),
    ("10 MB body", post(b" " * 10_000_000), 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", ()),
    ("10 MB in pieces", chunked_10_mb, 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", ()),
    (
        "text/plain",
        post(b"{}", headers={"Content-Type": "text/plain"}),
        *(415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ),
    (
        "no content type",
        lambda c: c.ask("POST", "/execute", b"{}", {"X-API-Key": KEY}),
        *(415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ),
    (
        "other charset",
        post(b"{}", headers={"Content-Type": "application/json; charset=utf-16"}),
        *(415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
    ),
    *(
        (
            f"a body in {coding}",
            post(b"{}", headers={"Content-Type": "application/json", "Content-Encoding": coding}),
            *(415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", ()),
        )
        for coding in ("gzip", "br", "identity, gzip")
    ),
    ("empty body", post(b""), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",)),
    ("malformed", post(b'{"task":'), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",)),
    ("not UTF-8", post(b'{"task":"\xff"}'), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",)),
    ("NaN", post(b'{"task":NaN}'), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",)),
    ("10,000 deep", post(b'{"task":' + b"[" * 10_000), 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ("",)),
    ("a list", post([]), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("",)),
    ("no task", post({"parameters": {}}), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("task",)),
    ("task no text", post({"task": 1}), 400, "INVALID_ARGUMENT", "INVALID_FIELD", ("task",)),
    (
        "unknown field beside the task",
        post({"task": "report_gps", "parameters": GPS, "params": {}}),
        *(400, "INVALID_ARGUMENT", "INVALID_FIELD", ("params",)),
    ),
    *(
        (
            f"timeout_ms {timeout!r}",
            post({"task": "report_gps", "parameters": GPS, "timeout_ms": timeout}),
            *(400, "INVALID_ARGUMENT", "INVALID_FIELD", ("timeout_ms",)),
        )
        for timeout in (0, -1, 60_001, True, "10", [1])
    ),
    (
        "headers too large",
        lambda c: c.ask("GET", "/health", headers={"X-Long": "a" * 20_000}),
        *(431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE", ()),
    ),
    ("no HTTP", garbage, 400, "INVALID_ARGUMENT", "MALFORMED_BODY", ()),
]


@pytest.mark.parametrize(
    ("ask", "status", "code", "reason", "details"),
    [pytest.param(*row[1:], id=row[0]) for row in BEFORE_ROUTING],
)
async def test_what_fails_before_routing_is_the_gateways(
    ask: Ask, status: int, code: str, reason: str, details: tuple[str, ...]
) -> None:
    async with gateway() as rig:
        check(await ask(rig.client()), status, code, reason, "gateway", details)


WRONG_FIELDS: list[tuple[str, Ask, tuple[str, ...]]] = [
    ("true for a number", report(speed_kph=True), ("parameters.speed_kph",)),
    ("text for a list", report(anomaly_flags="stale"), ("parameters.anomaly_flags",)),
    ("unknown enum", report(trip_stage="flying"), ("parameters.trip_stage",)),
    ("unknown field", report(sped_kph=1), ("parameters.sped_kph",)),
    ("no object", task("report_gps", [1]), ("parameters",)),
    ("out of range", report(location={"lat": 91, "lon": 181}), (
        "parameters.location.lat", "parameters.location.lon",
    )),
    ("rule broken", report(driver_id=""), ("parameters.driver_id",)),
    ("rule of a list", report(anomaly_flags=["stale", "stale"]), ("parameters.anomaly_flags",)),
    ("rule across fields", report(order_id=""), ("parameters.order_id",)),
    ("nothing where much is needed", task("report_gps", {}), (
        "parameters.order_id", "parameters.driver_id", "parameters.location", "parameters.trip_stage",
        "parameters.traffic_density", "parameters.zone_type", "parameters.timestamp",
    )),
    ("rule in a list", task("batch_predict_eta", {"queries": [{"order_id": "a"}, {"order_id": "b" * 129}]}), (
        "parameters.queries[1].order_id",
    )),
    ("empty list", task("batch_predict_eta", {"queries": []}), ("parameters.queries",)),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "fields"), [pytest.param(*row[1:], id=row[0]) for row in WRONG_FIELDS])
async def test_wrong_fields_are_named_from_the_bodys_root(ask: Ask, fields: tuple[str, ...]) -> None:
    async with gateway() as rig:
        body = check(await ask(rig.client()), 400, "INVALID_ARGUMENT", "INVALID_FIELD", "eta", fields)
        assert "event" not in body["error"]


BY_CODE = [
    (errors.InvalidArgument, 400),
    (errors.OutOfRange, 400),
    (errors.FailedPrecondition, 400),
    (errors.Unauthenticated, 401),
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.AlreadyExists, 409),
    (errors.Aborted, 409),
    (errors.ResourceExhausted, 429),
    (errors.Cancelled, 499),
    (errors.Unknown, 500),
    (errors.Internal, 500),
    (errors.DataLoss, 500),
    (errors.Unimplemented, 501),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
]


@pytest.mark.parametrize(("kind", "status"), BY_CODE, ids=lambda v: getattr(v, "__name__", str(v)))
async def test_an_error_of_the_owner_has_the_status_of_its_code(kind: type[MeshError], status: int) -> None:
    async def fails(_request: Any, _context: Any) -> Any:
        raise kind(
            "order order_456 is not known",
            reason=reasons.ERROR_REASON_ORDER_UNKNOWN,
            violations=[FieldViolation("event.order_id", "names no order")],
            retry_after_s=60.0 if status in (429, 503) else None,  # longer than the request: no retries
        )

    async with gateway({"ReportGps": fails}) as rig:
        reply = await rig.client().task("report_gps", GPS)
        check(reply, status, kind.code.name, "ORDER_UNKNOWN", "eta", ("parameters.order_id",))
        if status in (429, 503):
            assert reply.headers["retry-after"] == "60"


async def test_an_exception_of_the_owner_shows_nothing_of_itself() -> None:
    async def breaks(_request: Any, _context: Any) -> Any:
        raise RuntimeError("postgres://user:hunter2@db/x")

    async with gateway({"ReportGps": breaks}) as rig:
        reply = await rig.client().task("report_gps", GPS)
        check(reply, 500, "INTERNAL", "INTERNAL_FAULT", "eta")
        assert b"hunter2" not in reply.body


async def test_an_owner_that_is_away_is_a_503_to_come_back_to() -> None:
    async with gateway() as rig:
        reply = await rig.client().task("get_order", {"order_id": "order_1"}, timeout_ms=300)
        check(reply, 503, "UNAVAILABLE", "TARGET_UNAVAILABLE", "route")


async def test_a_method_that_the_owner_does_not_serve_is_a_501() -> None:
    async with gateway() as other, gateway(route_target=f"127.0.0.1:{other.eta.port}") as rig:
        reply = await rig.client().task("get_order", {"order_id": "order_1"})
        check(reply, 501, "UNIMPLEMENTED", "METHOD_UNIMPLEMENTED", "route")


@pytest.mark.parametrize("timeout_ms", [200, 20, 1, 0.001])
async def test_the_requests_own_deadline_is_a_504_in_time(timeout_ms: float) -> None:
    async def sleeps(_request: Any, _context: Any) -> Any:
        await asyncio.sleep(60)

    async with gateway({"ReportGps": sleeps}) as rig:
        body = check(
            await rig.client().task("report_gps", GPS, timeout_ms=timeout_ms),
            504,
            "DEADLINE_EXCEEDED",
            "DEADLINE_PASSED",
            "eta",
        )
        # The owner is not waited for, which sleeps for longer than that.
        assert timeout_ms - 50 < body["duration_ms"] < 30_000


async def test_an_open_breaker_is_a_503_with_the_time_to_come_back() -> None:
    async def fails(_request: Any, _context: Any) -> Any:
        raise errors.Internal("broken")

    async with gateway({"ReportGps": fails}) as rig:
        client = rig.client()
        for _ in range(5):
            assert (await client.task("report_gps", GPS)).status == 500
        reply = await client.task("report_gps", GPS)
        check(reply, 503, "UNAVAILABLE", "BREAKER_OPEN", "eta")
        assert 1 <= int(reply.headers["retry-after"]) <= 60


async def test_beyond_the_rate_a_key_is_told_when_to_come_back() -> None:
    async with gateway(rate_per_s=0.1, rate_burst=2) as rig:
        client = rig.client()
        assert [(await client.task("report_gps", GPS)).status for _ in range(2)] == [200, 200]
        reply = await client.task("report_gps", GPS)
        check(reply, 429, "RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert 9 <= int(reply.headers["retry-after"]) <= 10
        assert (await rig.client("agent-demo").task("report_gps", GPS, path="/run", key=None)).status == 200


async def test_beyond_the_requests_a_process_takes_it_says_so() -> None:
    held = asyncio.Event()
    arrived = asyncio.Event()

    async def holds(request: Any, context: Any) -> Any:
        arrived.set()
        await held.wait()
        return await took_in(request, context)

    async with gateway({"ReportGps": holds}, max_concurrent_rpcs=1) as rig:
        first = asyncio.create_task(rig.client().task("report_gps", GPS))
        await arrived.wait()
        reply = await rig.client("agent-demo").task("report_gps", GPS, path="/run", key=None)
        check(reply, 503, "UNAVAILABLE", "OVERLOADED", service="agent-demo")
        assert (await rig.client().ask("GET", "/health")).status == 200
        held.set()
        assert (await first).status == 200


async def test_no_key_alone_has_all_that_a_process_takes() -> None:
    held, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def holds(request: Any, context: Any) -> Any:
        arrived.release()
        await held.wait()
        return await took_in(request, context)

    async with gateway({"ReportGps": holds}, max_concurrent_rpcs=4) as rig:
        slow = [asyncio.create_task(rig.client().task("report_gps", GPS)) for _ in range(3)]
        for _ in slow:
            await arrived.acquire()
        reply = await rig.client().task("report_gps", GPS)
        check(reply, 429, "RESOURCE_EXHAUSTED", "TOO_MANY_UNDER_WAY")
        assert reply.json["error"] == "this key has 3 requests under way, which is all it may have"
        held.set()
        assert [(await each).status for each in slow] == [200, 200, 200]


async def test_405_says_what_is_allowed_and_401_how_to_ask() -> None:
    async with gateway() as rig:
        client = rig.client()
        assert (await client.ask("PUT", "/run")).headers["allow"] == "POST"
        assert (await client.ask("POST", "/health")).headers["allow"] == "GET, HEAD"
        assert "ApiKey" in (await client.task("report_gps", GPS, key=None)).headers["www-authenticate"]


async def test_404_says_where_to_look_and_a_broken_rule_counts_as_people_do() -> None:
    async with gateway() as rig:
        client = rig.client()
        assert (await client.ask("GET", "/")).json["error"] == "this path is not served: see /docs"
        other = await rig.client("agent-demo").ask("GET", "/")
        assert other.json["error"] == "this path is not served: there are /health and /run"
        [wrong] = (await client.task("report_gps", {**GPS, "driver_id": ""})).json["details"]
        assert wrong["description"] == "must be at least 1 character"


async def test_on_a_runtime_the_runtime_is_who_fails() -> None:
    async with gateway() as rig:
        client = rig.client("agent-custom")
        check(await client.ask("GET", "/docs"), 404, "NOT_FOUND", "UNKNOWN_PATH", "agent-custom")
        check(await client.post("/execute", {}), 404, "NOT_FOUND", "UNKNOWN_PATH", "agent-custom")
        wrong = await client.task("report_gps", {**GPS, "speed_kph": True}, path="/run", key=None)
        check(wrong, 400, "INVALID_ARGUMENT", "INVALID_FIELD", "agent-custom", ("parameters.speed_kph",))


async def test_a_connection_goes_on_after_an_error_that_was_read_to_its_end() -> None:
    async with gateway() as rig:
        client = rig.client()
        for _ in range(3):
            assert (await client.post("/execute", b" " * 3_000_000)).status == 413
            assert (await client.task("report_gps", GPS)).status == 200
        assert client.connections == 1


async def test_nothing_secret_of_a_refused_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="services")
    async with gateway() as rig:
        client = rig.client()
        await client.task("report_gps", GPS, key="wm_very_secret_key")
        await client.task("report_gps", {**GPS, "driver_id": "secret-driver", "speed_kph": True})
        await client.post(
            "/execute", json.dumps({"task": "nope", "parameters": {"password": "hunter2"}}).encode()
        )
    text = " ".join(str(record.__dict__) for record in caplog.records)
    assert "wm_very_secret_key" not in text
    assert "secret-driver" not in text
    assert "hunter2" not in text


def test_every_status_of_the_contract_has_a_row_here() -> None:
    seen = {row[2] for row in BEFORE_ROUTING} | {status for _, status in BY_CODE}
    assert seen == {400, 401, 403, 404, 405, 409, 413, 415, 429, 431, 499, 500, 501, 503, 504}
