"""A mesh that is watched by Prometheus, and the ways to hurt it; each ends with its block."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.route.v1.route_service_pb2 import GetOrderRequest
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.mesh.events.bus import Message
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.postgres import PostgresBus
from services.mesh.events.topics import TOPICS
from services.mesh.settings import MeshSettings, load
from tests.certificates import Authority
from tests.observability.live_prometheus import Prometheus, prometheus
from tests.running_mesh import KEY, ROOT, RunningMesh, running_mesh
from tests.tcp_postgres import TcpPostgres, tcp_postgres
from tools.kafka.cluster import KafkaCluster
from tools.ports import free_ports

# A word that stands nowhere but in what callers send.
CANARY: Final = "canary-of-a-caller"
# More than 1,000 events and 60 s at any pace are a lag; so many couriers that all partitions have some.
_FIXES: Final = 1_500
_STUCK_CALLERS: Final = 24
_LATER: Final = timedelta(days=300)


@dataclass
class LiveMesh:
    """All services on one PostgreSQL, and a second feedback on Kafka with certificates."""

    mesh: RunningMesh
    postgres: TcpPostgres
    cluster: KafkaCluster
    prometheus: Prometheus
    on_kafka_dsn: str
    renew: Callable[[], None]
    """Gives the second feedback a certificate that holds for months."""

    async def execute(self, task: str, parameters: str = "{}", timeout_ms: int = 10_000) -> int:
        """Status of a task's answer."""
        return await asyncio.to_thread(self._execute, task, parameters, timeout_ms)

    def _execute(self, task: str, parameters: str, timeout_ms: int) -> int:
        body = f'{{"task":"{task}","parameters":{parameters},"timeout_ms":{timeout_ms}}}'
        request = urllib.request.Request(
            f"{self.mesh.address}/execute",
            body.encode(),
            {"content-type": "application/json", "x-api-key": KEY},
        )
        try:
            with urllib.request.urlopen(request, timeout=70) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    async def one_order(self) -> None:
        """On its way, so that there is something to predict."""
        order = (
            '{"orders":[{"order_id":"order_1","revision":1,"status":"assigned","driver_id":"driver_123",'
            '"placed_at":"2026-01-01T10:00:00Z","pickup":{"lat":-23.5537,"lon":-46.6401},'
            '"dropoff":{"lat":-23.5614,"lon":-46.6559}}]}'
        )
        fix = (
            '{"driver_id":"driver_123","order_id":"order_1","location":{"lat":-23.55,"lon":-46.63},'
            '"speed_kph":25,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"mixed",'
            '"timestamp":"2026-01-01T10:10:00Z"}'
        )
        assert await self.execute("upsert_orders", order) == 200
        assert await self.execute("report_gps", fix) == 200

    async def strange_requests(self) -> None:
        """For things, and by names, that nobody has heard of; what comes of them does not matter."""
        strange = f'"{CANARY}"'
        await asyncio.gather(
            self.execute(CANARY),
            self.execute("get_order", f'{{"order_id":{strange}}}'),
            self.execute("predict_eta", f'{{"query":{{"order_id":{strange}}}}}'),
            self.execute("ask", f'{{"agent":{strange},"question":{strange}}}'),
            self.execute(
                "record_outcome",
                f'{{"event_id":{strange},"run_id":{strange},"agent_name":{strange},"action_type":{strange},'
                f'"agent_type":{strange},"timestamp":"2026-01-01T10:00:00Z","status":"success"}}',
            ),
            asyncio.to_thread(_get, f"{self.mesh.address}/{CANARY}"),
            asyncio.to_thread(_get, f"{self.mesh.address}/api/agents/{CANARY}"),
        )
        async with grpc.aio.insecure_channel(self.mesh.targets["eta"]) as channel:
            for method in (f"/waymesh.eta.v1.EtaService/{CANARY}", f"/{CANARY}.v1.Service/Call"):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    call: Any = channel.unary_unary(method)
                    await call(b"", metadata=(("x-waymesh-tenant", CANARY),))

    async def metrics(self) -> dict[str, str]:
        """As Prometheus is given them, by service."""
        ports = {"gateway": self.mesh.gateway, **self.mesh.admins}
        return {
            name: await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
            for name, port in ports.items()
            if self.mesh.processes[name].poll() is None
        }

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Requests to the gateway, one after the other, whatever comes of them."""

        async def call() -> None:
            while True:
                await self.execute("get_gps_stats")
                await asyncio.sleep(0.1)

        async with _together([call]):
            yield

    @contextlib.asynccontextmanager
    async def orders_asked_for(self) -> AsyncIterator[None]:
        """By many, straight at route: no breaker spares it."""
        async with grpc.aio.insecure_channel(self.mesh.targets["route"]) as channel:
            route = RouteServiceStub(channel)

            async def call() -> None:
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await route.GetOrder(GetOrderRequest(order_id="order_1"), timeout=4)
                    await asyncio.sleep(0.1)

            async with _together([call] * _STUCK_CALLERS):
                yield

    @contextlib.asynccontextmanager
    async def feedback_dead(self) -> AsyncIterator[None]:
        """What services did is still to be recorded, so traffic goes on."""
        self.mesh.kill("feedback")
        yield
        self.mesh.begin("feedback")

    @contextlib.asynccontextmanager
    async def agents_dead(self) -> AsyncIterator[None]:
        self.mesh.kill("agents")
        yield
        self.mesh.begin("agents")

    @contextlib.asynccontextmanager
    async def brokers_silent(self) -> AsyncIterator[None]:
        """Connections stay open and nobody answers; there is something to be sent."""
        self.cluster.pause()
        try:
            await self._publish(self.on_kafka_dsn, [_message("agent-metrics", "somebody", b"{}")])
            yield
        finally:
            self.cluster.resume()

    @contextlib.asynccontextmanager
    async def model_silent(self) -> AsyncIterator[None]:
        """As from the start; somebody asks, again and again."""

        async def ask(after_s: float) -> None:
            await asyncio.sleep(after_s)
            await self.execute("ask", '{"question":"What can you do?"}', timeout_ms=28_000)

        async with _together([partial(ask, float(second)) for second in range(0, 12, 2)]):
            yield

    @contextlib.asynccontextmanager
    async def tables_locked(self) -> AsyncIterator[None]:
        """Somebody holds the tables of orders and of couriers' states, while both are asked for."""
        connection = await asyncpg.connect(self.mesh.dsn)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE route.orders, eta.couriers IN ACCESS EXCLUSIVE MODE")
                fixes = [_message("gps-events", f"driver_{n}", _fix(n)) for n in range(_FIXES)]
                await self._publish(self.mesh.dsn, fixes)
                async with self.orders_asked_for():
                    yield
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def eta_frozen(self) -> AsyncIterator[None]:
        """For two seconds, as by a blocking call."""
        pid = self.mesh.processes["eta"].pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(2)
        os.kill(pid, signal.SIGCONT)
        yield

    @contextlib.asynccontextmanager
    async def predictions_wrong(self) -> AsyncIterator[None]:
        """Many deliveries are scored that came forty minutes late."""
        outcomes = [_late_delivery(number) for number in range(300)]
        connection = await asyncpg.connect(self.mesh.dsn)
        try:
            await connection.executemany(
                "INSERT INTO eta.outcome_outbox (outcome_id, outcome) VALUES ($1, $2)",
                [(one.outcome_id, one.SerializeToString()) for one in outcomes],
            )
        finally:
            await connection.close()
        yield

    @contextlib.asynccontextmanager
    async def spool_damaged(self) -> AsyncIterator[None]:
        """An earlier process of route has left a file that the disk has damaged."""
        spool = self.mesh.folder / "spool" / "route"
        spool.mkdir(parents=True, exist_ok=True)
        (spool / f"{1:020d}-abcdef01.spool").write_bytes(b"\0" * 4096)
        yield

    @contextlib.asynccontextmanager
    async def fix_broken(self) -> AsyncIterator[None]:
        """Nobody can read it."""
        await self._publish(self.mesh.dsn, [_message("gps-events", "driver_1", b"{")])
        yield

    @contextlib.asynccontextmanager
    async def postgres_away(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.postgres.stop)
        yield
        await asyncio.to_thread(self.postgres.start)

    @contextlib.asynccontextmanager
    async def certificate_old(self) -> AsyncIterator[None]:
        """As it is from the start, until there is a new one."""
        yield
        self.renew()

    async def _publish(self, dsn: str, messages: list[Message]) -> None:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
            bus = PostgresBus(pool, service="tests")
            await bus.start()
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(connection, messages)
            await bus.close()


def _get(address: str) -> str:
    request = urllib.request.Request(address, headers={"x-api-key": KEY, "x-request-id": CANARY})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def _message(topic: str, key: str, value: bytes) -> Message:
    return Message(topic, key, value, str(uuid.uuid4()), "waymesh.gps.v1.GpsEvent", "application/json")


def _fix(number: int) -> bytes:
    return (
        f'{{"driver_id":"driver_{number}","location":{{"lat":-23.55,"lon":-46.63}},"speed_kph":20,'
        '"trip_stage":"idle","traffic_density":"light","zone_type":"residential","timestamp":"2026-01-01T10:00:00Z"}'
    ).encode()


def _late_delivery(number: int) -> DeliveryOutcome:
    outcome = DeliveryOutcome(
        outcome_id=str(uuid.uuid4()),
        order_id=f"order_{number}",
        driver_id="driver_1",
        p10_minutes=15,
        p50_minutes=20,
        p90_minutes=25,
        actual_minutes=60,
        confidence=0.8,
        model_version="test",
    )
    outcome.predicted_at.FromJsonString("2026-01-01T10:00:00Z")
    outcome.delivered_at.FromJsonString("2026-01-01T11:00:00Z")
    return outcome


@contextlib.asynccontextmanager
async def _together(calls: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> AsyncIterator[None]:
    """Until the end of the block."""
    async with asyncio.TaskGroup() as tasks:
        calling = [tasks.create_task(call()) for call in calls]
        try:
            yield
        finally:
            for one in calling:
                one.cancel()


@contextlib.asynccontextmanager
async def _silent_model() -> AsyncIterator[str]:
    """Takes requests and never answers."""
    held = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        for writer in held:
            writer.close()
        server.close()


@contextlib.contextmanager
def _feedback_on_kafka(
    mesh: RunningMesh, folder: Path, dsn: str, kafka: MeshSettings
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Its admin port, and what renews its certificate, which ends tomorrow."""
    authority = Authority()
    held = authority.issue("feedback").mount(folder / "tls")
    port, admin = free_ports(2)
    environ = {
        **mesh.settings,
        **held.variables,
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_FEEDBACK_PORT": str(port),
        "WAYMESH_FEEDBACK_ADMIN_PORT": str(admin),
        "KAFKA_BOOTSTRAP_SERVERS": str(kafka.kafka_bootstrap_servers),
        "KAFKA_GROUP_ID": f"alerts-{uuid.uuid4().hex[:8]}",
        "KAFKA_METRICS_TOPIC": kafka.kafka_metrics_topic,
        "ENABLE_OUTCOME_LOGGING": "false",
    }
    with (folder / "feedback.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.feedback"], env=environ, cwd=ROOT, stderr=log, stdout=log
        )

    def renew() -> None:
        authority.issue("feedback", ends=_LATER).mount(folder / "tls")

    try:
        yield admin, renew
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def live_mesh(folder: Path, cluster: KafkaCluster) -> AsyncIterator[LiveMesh]:
    """Everything is ready, watched and well when the block begins."""
    # Who waits for a silent model holds a thread for half a minute.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    kafka = load(
        MeshSettings,
        kafka_bootstrap_servers=cluster.bootstrap_servers,
        kafka_metrics_topic=f"alerts-{uuid.uuid4().hex[:8]}",
    )
    await create_topics(KafkaOptions.from_settings(kafka), list(TOPICS.values()))
    for name in ("mesh", "on-kafka", "prometheus"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(tcp_postgres())
        connection = await asyncpg.connect(postgres.dsn())
        for database in ("mesh", "on_kafka"):
            await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        async with _silent_model() as model:
            mesh = stack.enter_context(
                running_mesh(
                    postgres.dsn("mesh"),
                    folder / "mesh",
                    OPENAI_API_KEY="sk-of-the-tests",
                    OPENAI_BASE_URL=model,
                )
            )
            admin, renew = stack.enter_context(
                _feedback_on_kafka(mesh, folder / "on-kafka", postgres.dsn("on_kafka"), kafka)
            )
            targets = {"gateway": [mesh.gateway], **{name: [port] for name, port in mesh.admins.items()}}
            targets["feedback"].append(admin)
            watching = stack.enter_context(prometheus(folder / "prometheus", targets))
            live = LiveMesh(mesh, postgres, cluster, watching, postgres.dsn("on_kafka"), renew)
            async with live.traffic():
                yield live
