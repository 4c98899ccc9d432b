"""RPCs under paths of their own, as their annotations say: path, query and body in, the response out."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import waymesh
from gateway_rig import JSON, KEY, Reply, Rig, gateway
from waymesh.agent.v1 import agent_registry_service_pb2 as registry
from waymesh.agent.v1.definition_pb2 import AgentDefinition, AgentSpec
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_STALE_VERSION

from services.gateway.keys import digest_of
from services.gateway.rest import binding
from services.mesh import principal
from services.mesh.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from tests.probe_contract import installed
from tests.processes import until

WITH_KEY = {"X-API-Key": KEY}


async def ask(rig: Rig, method: str, path: str, body: object = None, **headers: str) -> Reply:
    """A request with a key, and with JSON if there is a body."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**WITH_KEY, **({"Content-Type": JSON} if raw else {}), **headers}
    return await rig.client().ask(method, path, raw, sent)


# --- agents ---------------------------------------------------------------------------------------


class Registry:
    """Keeps agents in memory, as far as a path can tell."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.principals: list[principal.Principal] = []

    def _saw(self, request: Any) -> None:
        self.requests.append(request)
        self.principals.append(principal.current())

    async def create(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        return registry.CreateAgentResponse(agent_id=request.agent_id or f"id of {request.spec.name}")

    async def get(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        if request.agent_id == "missing":
            raise NotFound("no such agent")
        return registry.GetAgentResponse(
            agent=AgentDefinition(agent_id=request.agent_id, version=request.version)
        )

    async def update(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        if request.expected_version < 3:
            raise Aborted("it has changed", reason=ERROR_REASON_STALE_VERSION, metadata={"version": "3"})
        return registry.UpdateAgentResponse(
            agent=AgentDefinition(agent_id=request.agent_id, spec=request.spec)
        )

    async def list(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        agents = [
            AgentDefinition(agent_id=str(n), spec=AgentSpec(name="a")) for n in range(request.page_size)
        ]
        return registry.ListAgentsResponse(agents=agents)

    async def add(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        return registry.AddCapabilityResponse(status="success")

    async def capabilities(self, request: Any, _context: Any) -> Any:
        self._saw(request)
        return registry.ListCapabilitiesResponse()

    @property
    def handlers(self) -> dict[str, Any]:
        return {
            "CreateAgent": self.create,
            "GetAgent": self.get,
            "UpdateAgent": self.update,
            "ListAgents": self.list,
            "AddCapability": self.add,
            "ListCapabilities": self.capabilities,
        }


async def test_an_agent_is_created_read_and_changed_by_its_paths() -> None:
    made = Registry()
    async with gateway(agents=made.handlers) as rig:
        reply = await ask(rig, "POST", "/api/agents", {"name": "night-shift"}, **{"X-Request-Id": "mine"})
        assert (reply.status, reply.json) == (200, {"agent_id": "id of night-shift", "duplicate": False})
        assert reply.headers["x-request-id"] == "mine"
        reply = await ask(rig, "POST", "/api/agents?agent_id=a7", {"name": "night-shift"})
        assert reply.json["agent_id"] == "a7"
        reply = await ask(rig, "GET", "/api/agents/a7?version=2")
        assert reply.json["agent"]["version"] == 2
        reply = await ask(
            rig, "PUT", "/api/agents/a7", {"expected_version": 3, "spec": {"name": "day-shift"}}
        )
        assert reply.json["agent"]["spec"]["name"] == "day-shift"
        reply = await ask(rig, "PUT", "/api/agents/a7", {"expected_version": 2, "spec": {"name": "x"}})
        assert (reply.status, reply.json["reason"], reply.json["code"]) == (409, "STALE_VERSION", "ABORTED")
        reply = await ask(rig, "POST", "/api/agents/a7/capabilities/weather")
        assert (reply.status, reply.json) == (200, {"status": "success", "duplicate": False})
        reply = await ask(rig, "POST", "/api/agents/a7/capabilities/weather", {"config": {"timeout_s": 2}})
        assert made.requests[-1].config["timeout_s"] == 2
        assert (made.requests[-1].agent_id, made.requests[-1].capability_id) == ("a7", "weather")
        for path, agent in (("/api/agents/a7/capabilities", "a7"), ("/api/capabilities", "")):
            assert (await ask(rig, "GET", path)).json == {"capabilities": []}
            assert made.requests[-1].agent_id == agent
        first = principal.Principal("default", digest_of(KEY.encode()).hex()[:12], "FASTAPI_API_KEY")
        assert {*made.principals} == {first}


async def test_the_owners_rules_are_told_by_body_and_parameter() -> None:
    made = Registry()
    async with gateway(agents=made.handlers) as rig:
        reply = await ask(
            rig, "POST", "/api/agents", {"name": "Night Shift", "config": {"model": {"temperature": 3}}}
        )
        assert (reply.status, reply.json["reason"], reply.json["service"]) == (400, "INVALID_FIELD", "agents")
        assert [each["field"] for each in reply.json["details"]] == ["name", "config.model.temperature"]
        reply = await ask(rig, "POST", "/api/agents")
        assert [each["field"] for each in reply.json["details"]] == [""]
        reply = await ask(rig, "POST", f"/api/agents?agent_id={'a' * 129}", {"name": "a"})
        assert [each["field"] for each in reply.json["details"]] == ["agent_id"]
        reply = await ask(rig, "PUT", "/api/agents/a7", {"spec": {"name": "-"}})
        assert {each["field"] for each in reply.json["details"]} == {"expected_version", "spec.name"}
        reply = await ask(rig, "GET", "/api/agents?page_size=1001")
        assert [each["field"] for each in reply.json["details"]] == ["page_size"]
        reply = await ask(rig, "GET", "/api/agents/a7/diff")
        assert reply.json["error"] == "from_version must be greater than or equal to 1"
        assert made.requests == []


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("POST", "/api/agents", {"name": 1, "colour": "red"}, ["name", "colour"]),
        ("POST", "/api/agents", [1], [""]),
        ("POST", "/api/agents", b"{", [""]),
        ("POST", "/api/agents?name=a", {"name": "a"}, ["name"]),
        ("POST", "/api/agents?spec.name=a", {"name": "a"}, ["spec.name"]),
        ("POST", "/api/agents?spec=a", {"name": "a"}, ["spec"]),
        ("PUT", "/api/agents/a7", {"agent_id": "a7", "expected_version": 1}, ["agent_id"]),
        ("PUT", "/api/agents/a7", ["x"], [""]),
        ("PUT", "/api/agents/a7?expected_version=1", {"spec": {}}, ["expected_version"]),
        ("GET", "/api/agents?page_size=ten", None, ["page_size"]),
        ("GET", "/api/agents?page_size=", None, ["page_size"]),
        ("GET", "/api/agents?page_size=-1", None, ["page_size"]),
        ("GET", "/api/agents?page_size=1&page_size=2", None, ["page_size"]),
        ("GET", "/api/agents?show_deleted=yes&size=1", None, ["show_deleted", "size"]),
        ("GET", "/api/agents?page_token=%FF", None, ["page_token"]),
        ("GET", "/api/agents?page_token=%00", None, ["page_token"]),
        ("GET", "/api/agents?%FF=1", None, [""]),
        ("GET", "/api/agents/a7?agent_id=a8", None, ["agent_id"]),
        ("GET", "/api/agents/%FF", None, ["agent_id"]),
        ("GET", "/api/agents/a%00b", None, ["agent_id"]),
        ("DELETE", "/api/agents/a7", {"expected_version": 3}, ["expected_version"]),
        ("DELETE", "/api/agents/a7", {"agent_id": "a8", "colour": "red"}, ["agent_id", "colour"]),
        ("DELETE", "/api/agents/a7", [3], [""]),
        ("DELETE", "/api/agents/a7", b"expected_version=3", [""]),
        ("GET", "/api/agents", {"page_size": 1}, ["page_size"]),
        ("GET", "/api/agents", {str(place): place for place in range(100)}, [str(n) for n in range(50)]),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(
    method: str, path: str, body: Any, fields: list[str]
) -> None:
    made = Registry()
    async with gateway(agents=made.handlers) as rig:
        reply = await ask(rig, method, path, body)
        assert (reply.status, reply.json["code"]) == (400, "INVALID_ARGUMENT")
        assert [each["field"] for each in reply.json["details"]] == fields
        assert made.requests == []


async def test_a_body_where_none_is_read_says_where_its_fields_belong() -> None:
    async with gateway(agents=Registry().handlers) as rig:
        reply = await ask(rig, "DELETE", "/api/agents/a7", {"expected_version": 3})
        assert reply.json["error"] == "expected_version must stand in the query: this path takes no body"
        reply = await ask(rig, "DELETE", "/api/agents/a7", b"3", **{"Content-Type": "text/plain"})
        assert (
            reply.json["error"]
            == "the request must have no body: path and query say all that there is to say"
        )
        for nothing in (b"", b"{}"):
            assert (await ask(rig, "GET", "/api/agents/a7", nothing)).status == 200


async def test_a_parameter_that_is_nearly_right_is_guessed() -> None:
    async with gateway(agents={}) as rig:
        reply = await ask(rig, "GET", "/api/agents?pagesize=3")
        [detail] = reply.json["details"]
        assert detail["description"] == "is not a known parameter; did you mean page_size?"


@pytest.mark.parametrize(
    ("segment", "agent_id"),
    [
        ("a%2Fb", "a/b"),
        ("a%2fversions", "a/versions"),
        ("%61", "a"),
        ("n%C3%A4ht", "näht"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("a%25b", "a%b"),
        ("a%zzb", "a%zzb"),
        ("a;b=c,d", "a;b=c,d"),
        ("..%2F..", "../.."),
    ],
)
async def test_a_segment_is_what_was_encoded_in_it(segment: str, agent_id: str) -> None:
    made = Registry()
    async with gateway(agents=made.handlers) as rig:
        assert (await ask(rig, "GET", f"/api/agents/{segment}")).json["agent"]["agent_id"] == agent_id


async def test_paths_have_keys_limits_and_errors_like_all_others() -> None:
    made = Registry()
    async with gateway(agents=made.handlers, rate_per_s=0.01, rate_burst=3) as rig:
        client = rig.client()
        for key, reason in (({}, "API_KEY_MISSING"), ({"X-API-Key": "wm_wrong"}, "API_KEY_INVALID")):
            reply = await client.ask("GET", "/api/agents", headers=key)
            assert (reply.status, reply.json["reason"]) == (401, reason)
            assert reply.json["service"] == "gateway"
        reply = await client.ask("POST", "/api/agents", b"{}", {**WITH_KEY, "Content-Type": "text/plain"})
        assert (reply.status, reply.json["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        reply = await client.ask("GET", "/api/agents/missing", headers=WITH_KEY)
        assert (reply.status, reply.json["service"]) == (404, "agents")
        assert (await client.ask("GET", "/api/agents", headers=WITH_KEY)).status == 200
        reply = await client.ask("GET", "/api/agents", headers=WITH_KEY)
        assert (reply.status, reply.json["reason"]) == (429, "RATE_LIMITED")
        assert client.connections == 1


async def test_a_body_may_not_be_larger_than_elsewhere() -> None:
    async with gateway(agents={}, max_body_bytes=1024) as rig:
        reply = await ask(rig, "POST", "/api/agents", {"name": "a" * 1024})
        assert (reply.status, reply.json["reason"]) == (413, "BODY_TOO_LARGE")


async def test_a_body_may_not_hold_more_than_others_can_wait_for() -> None:
    schema = {"properties": {str(place): {} for place in range(20_000)}}
    async with gateway(agents={}) as rig:
        reply = await ask(rig, "POST", "/api/agents", {"name": "a", "output_schema": schema})
        assert (reply.status, reply.json["reason"]) == (400, "INVALID_FIELD")
        assert reply.json["error"] == "output_schema must hold at most 10,000 values"
        reply = await ask(rig, "PUT", "/api/agents/a", {"spec": {"output_schema": schema}})
        assert [each["field"] for each in reply.json["details"]] == ["spec.output_schema"]
        reply = await rig.client().task("run_task", {"input": schema})
        assert [each["field"] for each in reply.json["details"]] == ["parameters.input"]
        reply = await rig.client().post("/execute", {"task": "run_task", "parameters": [0] * 300_000})
        assert reply.json["error"] == "the body must hold at most 200,000 values"


async def test_the_time_for_it_is_the_gateways() -> None:
    async def never(_request: Any, _context: Any) -> Any:
        await asyncio.Event().wait()

    async with gateway(agents={"ListAgents": never}, timeout_ms=300) as rig:
        reply = await ask(rig, "GET", "/api/agents")
        assert (reply.status, reply.json["reason"]) == (504, "DEADLINE_PASSED")


async def test_an_owner_that_is_away_is_unavailable() -> None:
    async with gateway(timeout_ms=500) as rig:
        reply = await ask(rig, "GET", "/api/agents")
        assert (reply.status, reply.json["service"]) == (503, "agents")
        assert "retry-after" in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/api/agents", "POST, GET, HEAD"),
        ("POST", "/api/agents/a7", "GET, PUT, DELETE, HEAD"),
        ("DELETE", "/api/capabilities", "GET, HEAD"),
        ("BREW", "/api/agents/a7/revert", "POST"),
        ("GET", "/api/agents/a7/revert", "POST"),
        ("OPTIONS", "/api/agents", "POST, GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_there_are(method: str, path: str, allowed: str) -> None:
    async with gateway(agents={}) as rig:
        reply = await ask(rig, method, path)
        assert (reply.status, reply.json["reason"]) == (405, "METHOD_NOT_ALLOWED")
        assert reply.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/agents/",
        "/api//agents",
        "/api/agents/a/b",
        "/api/agents/a/versions/1",
        "/Api/agents",
    ],
)
async def test_other_paths_are_not_served(path: str) -> None:
    async with gateway(agents={}) as rig:
        reply = await ask(rig, "GET", path)
        assert (reply.status, reply.json["reason"]) == (404, "UNKNOWN_PATH")


async def test_runtimes_serve_none_of_them() -> None:
    async with gateway(agents=Registry().handlers) as rig:
        reply = await rig.client("agent-demo").ask("GET", "/api/agents")
        assert reply.status == 404


async def test_head_is_get_without_its_body() -> None:
    async with gateway(agents=Registry().handlers) as rig:
        client = rig.client()
        whole = await client.ask("GET", "/api/agents?page_size=3", headers=WITH_KEY)
        head = await client.ask("HEAD", "/api/agents?page_size=3", headers=WITH_KEY)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.body))
        assert client.connections == 1


async def test_a_page_of_an_allowed_origin_may_use_every_method() -> None:
    async with gateway(agents=Registry().handlers, cors_origins="https://app.example") as rig:
        asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
        reply = await rig.client().ask("OPTIONS", "/api/agents/a7", headers=asks)
        assert reply.status == 204
        assert reply.headers["access-control-allow-methods"] == "GET, PUT, DELETE"
        assert "last-event-id" in reply.headers["access-control-allow-headers"]
        reply = await ask(rig, "GET", "/api/agents", Origin="https://app.example")
        assert reply.headers["access-control-allow-origin"] == "https://app.example"


async def test_what_is_counted_and_traced_names_the_template_and_never_the_path() -> None:
    async with gateway(agents=Registry().handlers) as rig:
        await ask(rig, "GET", "/api/agents/secret-id")
        await ask(rig, "POST", "/api/agents/secret-id")
        path = "/api/agents/{agent_id}"
        for code in ("200", "405"):
            assert rig.metric("http_requests_total", listener="gateway", path=path, code=code) == 1
        metrics = await rig.client().ask("GET", "/metrics")
        assert b"secret-id" not in metrics.body
        await until(lambda: any(span.name.startswith("GET /api") for span in rig.spans()), "it is traced")
        [span] = [span for span in rig.spans() if span.name.startswith("GET /api")]
        assert dict(span.attributes or {})["http.route"] == path
        assert dict(span.attributes or {})["waymesh.task"] == "get_agent"


async def test_a_request_under_way_is_answered_while_the_process_drains() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def waits(_request: Any, _context: Any) -> Any:
        arrived.set()
        await go_on.wait()
        return registry.ListAgentsResponse()

    async with gateway(agents={"ListAgents": waits}) as rig:
        asking = asyncio.create_task(ask(rig, "GET", "/api/agents"))
        await arrived.wait()
        draining = asyncio.create_task(rig.gateway.http.drain(0))
        await until(lambda: rig.gateway.status.draining, "the drain has begun")
        go_on.set()
        assert (await asking).status == 200
        await draining


async def test_hanging_up_ends_the_call() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def waits(_request: Any, _context: Any) -> Any:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with gateway(agents={"ListAgents": waits}) as rig:
        client = rig.client()
        await client.send("GET", "/api/agents", headers=WITH_KEY)
        await arrived.wait()
        await client.close()
        async with asyncio.timeout(30):
            await gone.wait()


# --- all that an annotation can say ---------------------------------------------------------------


@pytest.fixture
def probe_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waymesh, "__path__", [*waymesh.__path__, str(installed())])


@asynccontextmanager
async def probe(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A gateway before a service that answers with what it was asked."""
    from waymesh.probe.v1 import probe_service_pb2, probe_service_pb2_grpc  # type: ignore[import-not-found]

    async def echo(_self: object, request: Any, _context: Any) -> Any:
        if request.note == "fail":
            raise InvalidArgument("bad", violations=[FieldViolation("inner.name", "is wrong")])
        return probe_service_pb2.ProbeResponse(probe=request, numbers=request.numbers)

    names = ("ReadProbe", "ReadSpecial", "WriteProbe")
    servicer = type("Probe", (probe_service_pb2_grpc.ProbeServiceServicer,), dict.fromkeys(names, echo))
    async with AsyncExitStack() as stack:
        server = GrpcServer(
            "probe", host="127.0.0.1", port=0, admin_port=None, telemetry=Telemetry.create("probe")
        )
        server.add(probe_service_pb2_grpc.add_ProbeServiceServicer_to_server, servicer())
        await server.start()
        stack.push_async_callback(server.stop)
        monkeypatch.setenv("WAYMESH_PROBE_TARGET", f"127.0.0.1:{server.port}")
        yield await stack.enter_async_context(gateway())


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/probe/things/x", None, {"id": "x"}),
        ("GET", "/probe/things/special", None, {"id": ""}),
        ("GET", "/probe/things/x/places/-7", None, {"id": "x", "place": -7}),
        ("GET", "/probe/colours/dark_blue/true", None, {"colour": "dark_blue", "flag": True}),
        ("GET", "/probe/inner/n", None, {"inner": {"name": "n", "n": 0, "tags": []}}),
        (
            "GET",
            "/probe/inner/n?inner.n=5&inner.tags=a&inner.tags=b&inner.inner.name=m",
            None,
            {
                "inner": {
                    "name": "n",
                    "n": 5,
                    "tags": ["a", "b"],
                    "inner": {"name": "m", "n": 0, "tags": []},
                }
            },
        ),
        (
            "GET",
            "/probe/things/x?place=3&flag=false&colour=red&weight=-1.5e3&colours=red&colours=dark_blue&numbers=1",
            None,
            {
                "place": 3,
                "flag": False,
                "colour": "red",
                "weight": -1500.0,
                "colours": ["red", "dark_blue"],
                "numbers": [1],
            },
        ),
        (
            "GET",
            "/probe/things/x?at=2024-08-28T10:30:00%2B02:00&wait_s=2.5&note=a+b%2Bc&data=AAE%3D&right=r",
            None,
            {"at": "2024-08-28T08:30:00Z", "wait_s": 2.5, "note": "a b+c", "data": "AAE=", "right": "r"},
        ),
        ("GET", "/probe/things/x?&&note=", None, {"note": ""}),
        (
            "PUT",
            "/probe/things/x",
            {"place": 4, "plain": {"a": [1]}},
            {"id": "x", "place": 4, "plain": {"a": [1]}},
        ),
        ("PUT", "/probe/things/x", None, {"id": "x"}),
        (
            "PATCH",
            "/probe/things/x?place=5",
            {"name": "m"},
            {"id": "x", "place": 5, "inner": {"name": "m", "n": 0, "tags": []}},
        ),
        (
            "POST",
            "/probe/inner/n",
            {"inner": {"n": 1}, "id": "y"},
            {"id": "y", "inner": {"name": "n", "n": 1, "tags": []}},
        ),
        ("POST", "/probe/things/x/numbers", [3, 4], [3, 4]),
        ("DELETE", "/probe/things/x?note=gone", None, {"id": "x", "note": "gone"}),
    ],
)
async def test_what_fills_a_request(
    method: str, path: str, body: Any, expected: Any, probe_contract: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with probe(monkeypatch) as rig:
        reply = await ask(rig, method, path, body)
        assert reply.status == 200, reply.json
        answered = reply.json
        if isinstance(expected, list):
            assert answered == expected
            return
        shown = answered if method == "PUT" else answered["probe"]  # as its response_body says
        assert {name: shown.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("GET", "/probe/things/x/places/far", None, ["place"]),
        ("GET", "/probe/things/x/places/99999999999", None, ["place"]),
        ("GET", "/probe/colours/green/true", None, ["colour"]),
        ("GET", "/probe/colours/red/1", None, ["flag"]),
        ("GET", "/probe/things/x?weight=nan&numbers=1&numbers=-1", None, ["weight"]),
        ("GET", "/probe/things/x?weight=1e999", None, ["weight"]),
        ("GET", "/probe/things/x?numbers=1&numbers=-1", None, ["numbers[1]"]),
        ("GET", "/probe/things/x?labels=a&inners=b&plain=c&inner=d&note.x=e", None,
         ["labels", "inners", "plain", "inner", "note.x"]),
        ("GET", "/probe/things/x?left=a&right=b", None, ["right"]),
        ("GET", "/probe/things/x?at=yesterday&wait_s=long", None, ["wait_s"]),
        ("GET", "/probe/things/x?at=yesterday", None, ["at"]),
        ("PATCH", "/probe/things/x?note=fail", {"name": "m"}, ["name"]),
        ("PATCH", "/probe/things/x", {"tags": [1]}, ["tags[0]"]),
        ("POST", "/probe/inner/n", {"inner": {"name": "m"}}, ["inner.name"]),
        ("POST", "/probe/inner/n", {"inner": 3}, ["inner.name"]),
        ("POST", "/probe/things/x/numbers", [1, "2"], ["[1]"]),
    ],
)  # fmt: skip
async def test_what_does_not_fit_a_request_is_named(
    method: str,
    path: str,
    body: Any,
    fields: list[str],
    probe_contract: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with probe(monkeypatch) as rig:
        reply = await ask(rig, method, path, body)
        assert reply.status == 400
        assert [each["field"] for each in reply.json["details"]] == fields
        assert all(each["description"] for each in reply.json["details"])


async def test_contracts_that_cannot_be_told_apart_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [*binding.load(), *binding.load()]
    monkeypatch.setattr(binding, "load", lambda: twice)
    with pytest.raises(ValueError, match="cannot be told apart"):
        async with gateway():
            pass
