"""Secrets that a whole mesh is given, each of them another text, and a look for them wherever it writes."""

import asyncio
import contextlib
import json
import secrets
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_rig import JSON, Client, Reply
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_collector import Collector, collector

from services.mesh.events.topics import TOPICS
from services.mesh.store import connect
from tests.kafka_brokers import Kafka
from tests.mock_openai import MockOpenAI
from tests.running_mesh import RunningMesh, running_mesh
from tools.kafka.look import Look

_GUARD_S = 60.0
# A task of each service.
_LAST: dict[str, tuple[str, dict[str, Any]]] = {
    "eta": ("get_gps_stats", {}),
    "route": ("get_order", {"order_id": "nobody"}),
    "feedback": ("list_alerts", {}),
    "agents": ("list_runs", {}),
}


class Birds:
    """Makes the secrets and remembers what each was for."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def plain(self, place: str) -> str:
        """A secret that only the name it stands under tells to be one."""
        return self._kept(place, f"canary{secrets.token_hex(8)}")

    def key(self, place: str) -> str:
        """A secret that can be told by its form: as an API key of a mesh is made."""
        return self._kept(place, f"wm_{secrets.token_urlsafe(24)}")

    def _kept(self, place: str, text: str) -> str:
        # What stands for it alone in whatever holds it, also where a part of it was cut off.
        self._known[text[:20]] = place
        return text

    def found_in(self, data: bytes) -> set[str]:
        """The places whose secrets are in it: as they are, in hexadecimal digits, or as an URL has them."""
        return {
            place
            for text, place in self._known.items()
            if text.encode() in data or text.encode().hex().encode() in data
        }

    def __len__(self) -> int:
        return len(self._known)

    def everything(self, place: str) -> dict[str, Any]:
        """JSON of any form with secrets under names that say so, and in texts that tell them."""
        at = f"{place}, "
        return {
            "password": self.plain(at + "password"),
            "apiKey": self.plain(at + "apiKey"),
            "deep": {"list": [{"client_secret": self.plain(at + "deep client_secret")}]},
            "headers": {"Authorization": f"Bearer {self.plain(at + 'Authorization')}"},
            "pairs": [{"name": "db_password", "value": self.plain(at + "pairs")}],
            "said": self.said(at + "said"),
            "free": f"it is {self.key(at + 'a key in a text')}",
            "fine": "nothing to see",
        }

    def said(self, place: str) -> str:
        """A text that tells secrets as people and programs do."""
        return (
            f"login with password={self.plain(place + ', password=')} failed at "
            f"postgresql://app:{self.plain(place + ', DSN')}@db/app, "
            f"Authorization: Bearer {self.plain(place + ', bearer')}, "
            f"X-API-Key: {self.key(place + ', X-API-Key')}"
        )


class Spans(Collector):
    """Keeps all that was exported as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[ExportTraceServiceRequest] = []

    async def _take(self, request: ExportTraceServiceRequest) -> None:
        self.received.append(request)
        await super()._take(request)


class Trap:
    """A server that nobody has a reason to call: its address is in texts alone."""

    def __init__(self) -> None:
        self.visitors = 0
        self.url = ""

    async def _visited(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors += 1
        writer.close()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._visited, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()


@dataclass
class Aviary:
    """A running mesh and all that it was asked and answered."""

    mesh: RunningMesh
    birds: Birds
    # No secrets, in the same form: what finds these would find the others.
    songs: Birds
    spans: Spans
    trap: Trap
    key: str
    # What lies in the cluster, where events go through one.
    look: Look | None = None
    replies: list[tuple[str, bytes]] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: object = b"", *, what: str = "", **headers: str
    ) -> Reply:
        """A request, whose answer is kept for the search. `what`: words for a finding."""
        client = Client(self.mesh.gateway)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"X-API-Key": self.key, "Content-Type": JSON}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with asyncio.timeout(60):
                reply = await client.ask(method, path, raw, sent)
        finally:
            await client.close()
        told = json.dumps(reply.headers).encode() + reply.body
        self.replies.append((f"answer to {what or path}: {reply.status}", told))
        return reply

    async def task(self, task: str, parameters: object, **headers: str) -> Reply:
        """One task."""
        body = {"task": task, "parameters": parameters}
        return await self.ask("POST", "/execute", body, what=task, **headers)

    async def settled(self) -> None:
        """Returns once every service has told and recorded what it did until now."""
        last = "the-last-request"
        for task, parameters in _LAST.values():
            await self.task(task, parameters, X_Request_Id=last)
        async with asyncio.timeout(_GUARD_S):
            while not self._told(last) or not await _recorded(self.mesh.dsn, last):
                await asyncio.sleep(0.1)

    def _told(self, request_id: str) -> bool:
        wanted = {"gateway", *_LAST}
        for request in self.spans.received:
            for resource in request.resource_spans:
                if request_id in str(resource):
                    wanted -= {each.value.string_value for each in resource.resource.attributes}
        return not wanted

    async def findings(self) -> tuple[list[str], list[str]]:
        """Where secrets turned up, and where plain text did: `place of the text → where it was found`."""
        found, seen = set(), set()
        async for where, data in self._written():
            found |= {f"{place} → {where}" for place in self.birds.found_in(data)}
            seen |= {f"{place} → {where}" for place in self.songs.found_in(data)}
        return sorted(found), sorted(seen)

    async def _written(self) -> AsyncIterator[tuple[str, bytes]]:
        for what, data in self.replies:
            yield what, data
        for service, line in self.mesh.logs():
            yield f"log of {service}: {line[:300]}", line.encode()
        for request in self.spans.received:
            for name, span in _spans(request):
                yield f"span of {name}", span
        for port, name in [(self.mesh.gateway, "gateway"), *self.mesh.admin_ports()]:
            page = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
            yield f"metrics of {name}", page
        async for where, data in _rows(self.mesh.dsn):
            yield where, data
        async for where, data in self._topics():
            yield where, data
        for path in sorted(self.mesh.folder.rglob("*")):
            # Logs were looked at line by line.
            if path.is_file() and path.suffix != ".log":
                yield f"file {path.relative_to(self.mesh.folder)}", path.read_bytes()

    async def _topics(self) -> AsyncIterator[tuple[str, bytes]]:
        """Every record of the cluster, with its key and its headers."""
        if self.look is None:
            return
        for topic in TOPICS:
            for one in await self.look.records(topic):
                parts = [one.key or b"", one.value or b"", *one.headers.values()]
                parts += [name.encode() for name in one.headers]
                yield f"topic {topic}", b"\0".join(parts)


async def _recorded(dsn: str, request_id: str) -> bool:
    """Whether outcomes of all services that record them for this request are stored."""
    connection = await connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT agent_name FROM feedback.outcomes o WHERE position(convert_to($1, 'UTF8') IN o.body) > 0",
            request_id,
        )
    finally:
        await connection.close()
    return {"eta", "route"} <= {row["agent_name"].rpartition("/")[2] for row in rows}


def _spans(request: ExportTraceServiceRequest) -> Iterator[tuple[str, bytes]]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield span.name, str(span).encode()
        yield "a resource", str(resource.resource).encode()


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


async def _rows(dsn: str) -> AsyncIterator[tuple[str, bytes]]:
    """Every row of every table of every schema of ours, the topics and dead letters among them."""
    connection = await connect(dsn)
    try:
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        for schema, table in tables:
            for (row,) in await connection.fetch(f'SELECT t::text FROM "{schema}"."{table}" t'):
                yield f"table {schema}.{table}: {row[:200]}", row.encode()
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def aviary(dsn: str, folder: Path, kafka: Kafka | None = None) -> AsyncIterator[Aviary]:
    """A mesh that has a secret for everything it can be given one for, and a model that answers.

    With `kafka` its events go through a cluster.
    """
    birds = Birds()
    spans = Spans()
    first = birds.key("FASTAPI_API_KEY")
    trap = Trap()
    async with collector(spans) as told, trap.open():
        model = MockOpenAI(record=0)
        await model.start()
        secret = {
            "FASTAPI_API_KEY": first,
            "DATABASE_URL": dsn.replace("waymesh@", f"waymesh:{birds.plain('DATABASE_URL')}@", 1),
            "OPENAI_API_KEY": birds.plain("OPENAI_API_KEY"),
            "WEATHER_API_KEY": birds.plain("WEATHER_API_KEY"),
            "LANGFUSE_SECRET_KEY": birds.plain("LANGFUSE_SECRET_KEY"),
        }
        plain = {
            "OPENAI_BASE_URL": model.base_url,
            # Nobody listens there: what fails tells of its address.
            "WAYMESH_WEATHER_BASE_URL": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_ENDPOINT": told.endpoint,
            "LANGFUSE_PUBLIC_KEY": "pk-lf-public",
            "LANGFUSE_HOST": "http://127.0.0.1:9",
            "LOG_LEVEL": "DEBUG",
            "WAYMESH_CAPTURE_PROMPTS": "true",
        }
        if kafka is not None:
            # A group of its own: the cluster outlives the test.
            group = f"canary-{secrets.token_hex(4)}"
            plain |= {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_GROUP_ID": group}
        else:  # the cluster knows no passwords, and no service starts that has one for nothing
            for name in ("KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD"):
                secret[name] = birds.plain(name)
        with contextlib.ExitStack() as stack:
            try:
                # Its start is waited for without the loop, which serves the collector.
                mesh = await asyncio.to_thread(
                    stack.enter_context, running_mesh(dsn, folder, **{**secret, **plain})
                )
                look = None if kafka is None else kafka.look
                yield Aviary(mesh, birds, Birds(), spans, trap, first, look)
            finally:
                await asyncio.to_thread(stack.close)
                await model.close()
