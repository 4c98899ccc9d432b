"""Ways to be somebody else at the edge: each is refused, or reaches the service as whoever sent it."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio
from waymesh.agent.v1.agent_registry_service_pb2 import GetAgentResponse
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub

from services.mesh import principal
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.edge.test_edge_services import BY_KEY, FIX, PATH
from tests.integration.gateway_rig import GPS, KEY, gateway, took_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
IDENTITY = "x-waymesh-"
TASK = json.dumps({"task": "report_gps", "parameters": GPS}).encode()
MESSAGE = FIX.SerializeToString()
FRAME = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
WITH_KEY = f"X-API-Key: {KEY}"
# What a caller would be if his word counted.
CLAIMS = {
    principal.TENANT_KEY: "other",
    principal.CALLER_KEY: "somebody",
    principal.API_KEY_KEY: "0123456789ab",
    principal.SCOPES_KEY: principal.ADMIN,
}

# Who it is: the id of the key, and its name.
BY_TASK = {
    principal.API_KEY_KEY: hashlib.sha256(KEY.encode()).hexdigest()[:12],
    principal.CALLER_KEY: "FASTAPI_API_KEY",
}
BY_RPC = {**BY_TASK, principal.TENANT_KEY: principal.DEFAULT_TENANT, principal.SCOPES_KEY: "none"}


@dataclass
class Shared:
    """One edge before a gateway and services, and the calls that came to these in a test."""

    edge: RunningEdge
    calls: list[dict[str, str | bytes]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)

    @property
    def within(self) -> int:
        """The port for gRPC and gRPC-Web."""
        return self.edge.ports["internal"]

    def callers(self) -> list[dict[str, str | bytes]]:
        """Who each call was made for."""
        return [{k: v for k, v in call.items() if k.startswith(IDENTITY)} for call in self.calls]

    async def by_http(
        self, *headers: str, path: str = "/execute", body: bytes = TASK, method: str = "POST"
    ) -> bytes:
        """A request to the public listener, on a connection of its own."""
        named = ("Host: edge", "Content-Type: application/json", *headers)
        return await raw(self.edge.public, path, named, body, method)

    async def from_a_page(self, *headers: str, path: str = PATH) -> bytes:
        """The same by gRPC-Web."""
        named = ("Host: edge", "Content-Type: application/grpc-web+proto", *headers)
        return await raw(self.within, path, named, FRAME)


async def raw(port: int, path: str, headers: tuple[str, ...], body: bytes, method: str = "POST") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if not any(header.startswith("Connection:") for header in headers):
        headers = (*headers, "Connection: close")
    lines = [f"{method} {path} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    rest = reader.readuntil(b"\r\n0\r\n\r\n") if length is None else reader.readexactly(int(length[1]))
    try:
        return head + await rest
    finally:
        writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    made = Shared(None)  # type: ignore[arg-type]

    async def report(request: Any, context: Any) -> Any:
        made.calls.append(dict(context.invocation_metadata()))
        return await took_in(request, context)

    async def get_agent(request: Any, context: Any) -> Any:
        made.calls.append(dict(context.invocation_metadata()))
        made.agents.append(request.agent_id)
        return GetAgentResponse()

    folder: Path = tmp_path_factory.mktemp("identity")
    limits = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    async with gateway({"ReportGps": report}, agents={"GetAgent": get_agent}, **limits) as rig:
        ports = {"gateway": rig.gateway.public.port, "eta": rig.eta.port}
        addresses = {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
        async with running_edge(folder, addresses) as made.edge:
            for name, port in ports.items():
                await made.edge.until_hosts(name, **{f"p{port}": "healthy"})
            yield made


@pytest_asyncio.fixture(loop_scope="module")
async def shared(module_edge: Shared) -> AsyncIterator[Shared]:
    module_edge.calls.clear()
    module_edge.agents.clear()
    async with asyncio.timeout(GUARD_S):
        yield module_edge


CLAIMED = tuple(f"{name}: {value}" for name, value in CLAIMS.items())


@pytest.mark.parametrize("named", ["X-API-Key", "x-api-key, x-waymesh-tenant"])
async def test_a_key_that_is_named_as_of_one_hop_is_no_key(shared: Shared, named: str) -> None:
    for ask in (shared.by_http, shared.from_a_page):
        answer = await ask(WITH_KEY, f"Connection: close, {named}")
        assert answer.startswith(b"HTTP/1.1 401"), answer
    assert shared.calls == []


async def test_a_request_id_that_is_named_as_of_one_hop_is_replaced(shared: Shared) -> None:
    for ask in (shared.by_http, shared.from_a_page):
        answer = await ask(WITH_KEY, "X-Request-Id: mine", "Connection: close, x-request-id")
        assert answer.startswith(b"HTTP/1.1 200"), answer
    ids = [call["x-request-id"] for call in shared.calls]
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f-]{36}", str(each)) for each in ids)


@pytest.mark.parametrize("named", ["Host", "x-forwarded-for", ":path"])
async def test_who_names_what_no_hop_may_lose_is_refused(shared: Shared, named: str) -> None:
    for ask in (shared.by_http, shared.from_a_page):
        answer = await ask(WITH_KEY, f"Connection: close, {named}")
        assert answer.startswith(b"HTTP/1.1 400"), answer
    assert shared.calls == []


@pytest.mark.parametrize("named", [*CLAIMS, "transfer-encoding", "content-length", "te"])
async def test_whatever_else_is_named_as_of_one_hop_changes_nothing(shared: Shared, named: str) -> None:
    """Neither does what the edge says of a caller get lost on its way."""
    for ask in (shared.by_http, shared.from_a_page):
        answer = await ask(WITH_KEY, *CLAIMED, f"Connection: close, {named}")
        assert answer.startswith(b"HTTP/1.1 200"), answer
    assert shared.callers() == [BY_TASK, BY_RPC]


@pytest.mark.parametrize("change", [str.upper, str.title, str.swapcase])
async def test_however_a_claim_is_written_it_is_left_behind(
    shared: Shared, change: Callable[[str], str]
) -> None:
    claimed = [f"{change(name)}: {value}" for name, value in CLAIMS.items()]
    for ask in (shared.by_http, shared.from_a_page):
        answer = await ask(WITH_KEY, *claimed)
        assert answer.startswith(b"HTTP/1.1 200"), answer
    assert shared.callers() == [BY_TASK, BY_RPC]


async def test_binary_metadata_says_no_more_of_a_caller_than_text(shared: Shared) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shared.within}") as channel:
        claimed = tuple((f"{name}-bin", value.encode()) for name, value in CLAIMS.items())
        await EtaServiceStub(channel).ReportGps(FIX, timeout=10, metadata=(*BY_KEY, *claimed))
    claimed_by_page = [
        f"{name}-bin: {base64.b64encode(value.encode()).decode()}" for name, value in CLAIMS.items()
    ]
    answer = await shared.from_a_page(WITH_KEY, *claimed_by_page)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert shared.callers() == [BY_RPC, BY_RPC]


async def test_a_key_in_binary_metadata_is_no_key(shared: Shared) -> None:
    answer = await shared.from_a_page(f"x-api-key-bin: {base64.b64encode(KEY.encode()).decode()}")
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert shared.calls == []


# Errors of HTTP/2 itself: capitals, what no name holds, and the word for a hop.
NO_HEADERS = (
    *((name.title().encode(), value.encode()) for name, value in CLAIMS.items()),
    (b"X-API-Key", KEY.encode()),
    (b"connection", b"x-api-key"),
    (b"x-waymesh-tenant ", b"other"),
    (b"x-waymesh-tenant:", b"other"),
    (b":x-waymesh-tenant", b"other"),
)


@pytest.mark.parametrize(
    ("listener", "typed", "path", "body"),
    [
        ("public", b"application/json", b"/execute", TASK),
        ("internal", b"application/grpc", PATH.encode(), FRAME),
    ],
    ids=["public", "internal"],
)
async def test_http_2_takes_no_header_that_is_against_its_rules(
    shared: Shared, listener: str, typed: bytes, path: bytes, body: bytes
) -> None:
    port = shared.edge.ports[listener]
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"edge"),
        (b"content-type", typed),
        (b"te", b"trailers"),
        (b"x-api-key", KEY.encode()),
    ]
    answers = await asyncio.gather(*(by_http_2(port, [*headers, each], body) for each in NO_HEADERS))
    assert [pair for pair in zip(NO_HEADERS, answers, strict=True) if pair[1] not in (None, b"400")] == []
    assert shared.calls == []
    assert await by_http_2(port, headers, body) == b"200"


async def by_http_2(port: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes | None:
    """The status; None for a stream or connection that was ended instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    careless = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(careless)
    connection.initiate_connection()
    connection.send_headers(1, headers)
    connection.send_data(1, body, end_stream=True)
    writer.write(connection.data_to_send())
    try:
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return None
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers)[b":status"]
        return None
    except ConnectionResetError:
        return None
    finally:
        writer.close()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/metrics;x",
            "/metrics%3bx",
            "/;/metrics",
            "/x/..;/metrics",
            "/./metrics",
            "/metrics/.",
            "/metrics/",
        ),
        *(
            "/metrics%2f",
            "/.%2fmetrics",
            "/%2e/metrics",
            "/METRICS",
            "/metrics#x",
            "/metrics%00",
            "/metrics\\",
        ),
        *(f"/authorize;x{PATH}", f"/authorize%3b{PATH}", f"/%61uthorize;{PATH}", f"/authorize%2f{PATH[1:]}"),
        *("/execute;x", "/execute%3bx", "/execute/", "/execute%2f", "/execute%00"),
    ],
)
async def test_no_way_to_write_a_path_leads_where_it_is_not_served(shared: Shared, path: str) -> None:
    answer = await shared.by_http(WITH_KEY, path=path)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404"), answer
    assert b"waymesh_" not in answer
    assert shared.calls == []


@pytest.mark.parametrize("path", ["/./execute", "//execute", "/x/../execute", "/%65xecute"])
async def test_a_path_that_is_written_oddly_is_the_one_it_means(shared: Shared, path: str) -> None:
    answer = await shared.by_http(WITH_KEY, *CLAIMED, path=path)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert shared.callers() == [BY_TASK]


@pytest.mark.parametrize(
    ("path", "agent"),
    [("a;b=c", "a;b=c"), ("a%3bb", "a;b"), ("./a", "a"), ("/a", "a"), ("x/../a", "a"), ("a;/../b", "b")],
)
async def test_parameters_in_a_path_are_part_of_its_id(shared: Shared, path: str, agent: str) -> None:
    answer = await shared.by_http(WITH_KEY, *CLAIMED, path=f"/api/agents/{path}", body=b"", method="GET")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert shared.agents == [agent]
    assert shared.callers() == [BY_TASK]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{PATH}", f"/.{PATH}", f"/x/..{PATH}", f"/waymesh.route.v1.RouteService/..{PATH}"),
        *(PATH.replace("/Rep", "//Rep"), PATH.replace("/Rep", "/./Rep"), PATH.replace("Rep", "%52ep")),
    ],
)
async def test_an_rpc_that_is_written_oddly_needs_the_key_for_what_it_means(
    shared: Shared, path: str
) -> None:
    assert (await shared.from_a_page(*CLAIMED, path=path)).startswith(b"HTTP/1.1 401")
    assert shared.calls == []
    assert (await shared.from_a_page(WITH_KEY, *CLAIMED, path=path)).startswith(b"HTTP/1.1 200")
    assert shared.callers() == [BY_RPC]


@pytest.mark.parametrize(
    "path",
    [
        *(f"{PATH};x", f"{PATH}%3bx", f"{PATH}/", f"{PATH}?x", PATH.lower()),
        PATH.replace("/Rep", "%2fRep"),
    ],
)
async def test_what_names_no_rpc_comes_to_no_service(shared: Shared, path: str) -> None:
    answer = await shared.from_a_page(WITH_KEY, path=path)
    assert b"grpc-status: 12" in answer or answer.startswith(b"HTTP/1.1 400"), answer
    assert shared.calls == []
