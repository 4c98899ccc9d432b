"""RPCs under paths of their own, as their annotations say: path, query and body in, the response out."""

import asyncio
from typing import Any

import pytest
from gateway_rig import KEY, WITH_KEY, ask, gateway
from waymesh.agent.v1 import agent_registry_service_pb2 as registry
from waymesh.agent.v1.definition_pb2 import AgentDefinition, AgentSpec
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_AGENT_LIMIT, ERROR_REASON_STALE_VERSION

from services.gateway.keys import digest_of
from services.mesh import principal
from services.mesh.errors import Aborted, FieldViolation, InvalidArgument, NotFound, ResourceExhausted
from tests.processes import until

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
    ("method", "path", "body", "told"),
    [
        ("POST", "/api/agents", {"name": "a"}, ["", "name", "capabilities[1].config", "agent_id", "special"]),
        (
            "PUT",
            "/api/agents/a7",
            {"expected_version": 1, "spec": {"name": "a"}},
            ["spec", "spec.name", "spec.capabilities[1].config", "agent_id", "special"],
        ),
        (
            "POST",
            "/execute",
            {"task": "create_agent", "parameters": {"spec": {"name": "a"}}},
            [
                "parameters.spec",
                "parameters.spec.name",
                "parameters.spec.capabilities[1].config",
                "parameters.agent_id",
                "parameters.special",
            ],
        ),
    ],
)
async def test_what_an_owner_refuses_is_told_from_the_bodys_root(
    method: str, path: str, body: object, told: list[str]
) -> None:
    async def refuse(_request: Any, _context: Any) -> Any:
        fields = ("spec", "spec.name", "spec.capabilities[1].config", "agent_id", "special")
        raise InvalidArgument("bad", violations=[FieldViolation(field, "is bad") for field in fields])

    async with gateway(agents={"CreateAgent": refuse, "UpdateAgent": refuse}) as rig:
        reply = await ask(rig, method, path, body)
        assert reply.status == 400
        assert [each["field"] for each in reply.json["details"]] == told
        assert reply.json["error"] == f"5 fields are wrong; {told[0] or 'the body'} is bad"


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


async def test_who_has_as_many_as_he_may_is_not_told_to_try_again_at_once() -> None:
    async def refuse(_request: Any, _context: Any) -> Any:
        limit = {"limit": "1000"}
        raise ResourceExhausted("there are 1000", reason=ERROR_REASON_AGENT_LIMIT, metadata=limit)

    async with gateway(agents={"CreateAgent": refuse}) as rig:
        reply = await ask(rig, "POST", "/api/agents", {"name": "a"})
        assert (reply.status, reply.json["reason"]) == (429, "AGENT_LIMIT")
        assert reply.headers["retry-after"] == "60"


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
        async with asyncio.timeout(120):
            await gone.wait()
