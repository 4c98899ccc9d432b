"""A cluster of KRaft nodes on loopback, to be started, killed, held and looked at."""

import asyncio
import base64
import contextlib
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tools.kafka.jars import classpath
from tools.kafka.look import Look
from tools.kafka.node import Node, ended
from tools.kafka.security import Certificates, Security
from tools.ports import free_ports

_HOST: Final = "127.0.0.1"
# Seconds on an idle machine, minutes on one that is short of everything.
_READY_S: Final = 180.0
_LOOK_AGAIN_S: Final = 0.1
_ASK_S: Final = 10.0

# Small, and quick to see that a node is gone: by default that takes 9 s, and joining a group 3 s more.
_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "inter.broker.listener.name": "INTERNAL",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.num.partitions": "3",
    "group.initial.rebalance.delay.ms": "0",
    # Two records a second that say nothing are half of what idle nodes do.
    "metadata.max.idle.interval.ms": "5000",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "4000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.index.size.max.bytes": "1048576",
}


class KafkaCluster:
    """Nodes numbered from 1. Start it from a thread that lives as long as the cluster: it dies with that.

    `settings` are lines of every node's configuration, over those made here. `advertised` are ports on this
    machine, one for each node, that clients are sent to instead of the node's own: of proxies before it.
    `background` runs the nodes at a low priority.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        security: Security | None = None,
        settings: Mapping[str, str] | None = None,
        heap_mib: int = 256,
        advertised: Sequence[int] = (),
        background: bool = False,
    ) -> None:
        self.security = security or Security()
        self._advertised = list(advertised)
        self.certificates: Certificates | None = None
        self._count = nodes
        self._settings = dict(settings or {})
        self._heap_mib = heap_mib
        self._background = background
        self._folder: Path | None = None
        self._nodes: dict[int, Node] = {}
        self._clients: list[int] = []
        self._internals: list[int] = []

    @property
    def bootstrap_servers(self) -> str:
        """The addresses for clients; they stay the same while nodes come and go."""
        return ",".join(f"{_HOST}:{port}" for port in self._advertised or self._clients)

    @property
    def plain_servers(self) -> str:
        """Addresses where nobody has to log in or to encrypt."""
        return ",".join(f"{_HOST}:{port}" for port in self._internals)

    @property
    def numbers(self) -> list[int]:
        """All nodes, running or not."""
        return list(self._nodes)

    @property
    def running(self) -> list[int]:
        """Those whose process lives, held ones as well."""
        return [number for number, node in self._nodes.items() if node.pid is not None]

    @property
    def look(self) -> Look:
        """What lies in the cluster."""
        return Look(bootstrap_servers=self.plain_servers)

    def port(self, number: int) -> int:
        """Where a node listens for clients."""
        return self._clients[number - 1]

    def pid(self, number: int) -> int | None:
        """Process id of a node, None while it does not run."""
        return self._nodes[number].pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, *numbers: int) -> None:
        """Starts these nodes, all by default, and waits until each serves.

        KafkaUnavailableError if there is no Kafka to be had; RuntimeError if a node ends instead.
        """
        if self._folder is None:
            await self._make()
        for number in numbers or self.numbers:
            self._nodes[number].begin()
        await self.ready()

    async def stop(self, *numbers: int) -> None:
        """Stops these nodes, all by default, in good order."""
        await asyncio.gather(*(self._nodes[number].stop() for number in numbers or self.numbers))

    async def kill(self, *numbers: int) -> None:
        """Kills these nodes, all by default: -9."""
        await asyncio.gather(*(self._nodes[number].kill() for number in numbers or self.numbers))

    def pause(self, *numbers: int) -> None:
        """Holds these nodes, all by default: their connections stay open and nobody answers."""
        for number in numbers or self.numbers:
            self._nodes[number].send(signal.SIGSTOP)

    def resume(self, *numbers: int) -> None:
        """Lets them go on."""
        for number in numbers or self.numbers:
            self._nodes[number].send(signal.SIGCONT)

    async def close(self) -> None:
        """Ends all of it, data included."""
        await self.kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    async def ready(self) -> None:
        """Waits until every running node serves as broker. RuntimeError if one of them ends."""
        expected = self.running

        async def look() -> bool:
            for number in expected:
                if self._nodes[number].pid is None:
                    raise RuntimeError(f"node {number} ended:\n{self._nodes[number].last_words()}")
                # Before a client asks, whose log is full of what it could not reach.
                _, writer = await asyncio.open_connection(_HOST, self._internals[number - 1])
                writer.close()
            async with self.admin() as admin:
                brokers = (await admin.describe_cluster())["brokers"]
            return set(expected) <= {broker["node_id"] for broker in brokers}

        await _until(look, f"nodes {expected} serve")

    async def in_sync(self, *topics: str) -> None:
        """Waits until each partition, of all topics by default, has a leader and all its replicas."""

        async def look() -> bool:
            async with self.admin() as admin:
                found = await admin.describe_topics(list(topics) or None)
            partitions = [one for topic in found for one in topic["partitions"]]
            return all(one["leader"] >= 0 and len(one["isr"]) == len(one["replicas"]) for one in partitions)

        await _until(look, "all replicas are in sync")

    async def leader_of(self, topic: str, partition: int) -> int:
        """The node that leads a partition; waits until there is one."""
        leader = -1

        async def look() -> bool:
            nonlocal leader
            async with self.admin() as admin:
                [found] = await admin.describe_topics([topic])
            for one in found["partitions"]:
                if one["partition"] == partition:
                    leader = one["leader"]
            return leader in self.running

        await _until(look, f"{topic}/{partition} has a leader")
        return leader

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A client for administration, where nobody has to log in."""
        alive = [f"{_HOST}:{self._internals[number - 1]}" for number in self.running]
        admin = AIOKafkaAdminClient(bootstrap_servers=alive, request_timeout_ms=int(_ASK_S * 1000))
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def _make(self) -> None:
        jars = await asyncio.to_thread(classpath)
        self._folder = Path(tempfile.mkdtemp(prefix="waymesh-kafka-"))
        numbers = range(1, self._count + 1)
        ports = free_ports(3 * self._count)
        self._clients, self._internals, controllers = (
            ports[part * self._count :][: self._count] for part in range(3)
        )
        if self.security.encrypted:
            self.certificates = await asyncio.to_thread(Certificates, self._folder)
        replicas, in_sync = min(3, self._count), min(2, self._count)
        shared = {
            **_SETTINGS,
            "controller.quorum.voters": ",".join(
                f"{number}@{_HOST}:{port}" for number, port in zip(numbers, controllers, strict=True)
            ),
            "listener.security.protocol.map": (
                f"CLIENT:{self.security.protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(in_sync),
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(in_sync),
            **self.security.settings(self.certificates),
        }
        for number in numbers:
            told = (self._advertised or self._clients)[number - 1]
            internal = f"INTERNAL://{_HOST}:{self._internals[number - 1]}"
            controller = f"CONTROLLER://{_HOST}:{controllers[number - 1]}"
            own = {
                "listeners": f"CLIENT://{_HOST}:{self.port(number)},{internal},{controller}",
                "advertised.listeners": f"CLIENT://{_HOST}:{told},{internal}",
            }
            settings = {**shared, **own, **self._settings}
            self._nodes[number] = Node(
                number, self._folder, jars, settings, self._heap_mib, background=self._background
            )
        await self._format()

    async def _format(self) -> None:
        # An id that begins with a hyphen would be taken for an option; one of sixty-four would.
        first, *rest = uuid.uuid4().bytes
        cluster_id = base64.urlsafe_b64encode(bytes((first & 0x7F, *rest))).decode().rstrip("=")
        arguments = self.security.format_arguments()
        formats = {number: node.begin_format(cluster_id, *arguments) for number, node in self._nodes.items()}
        for number, process in formats.items():
            if await ended(process):
                raise RuntimeError(f"node {number} was not formatted:\n{self._nodes[number].last_words()}")


async def _until(holds: Any, what: str) -> None:
    """Looks again and again; TimeoutError after minutes."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(_READY_S):
            while True:
                try:
                    async with asyncio.timeout(_ASK_S):
                        if await holds():
                            return
                except (KafkaError, TimeoutError, OSError) as error:
                    last = error
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise TimeoutError(f"not within {_READY_S:.0f} s: {what} (last: {last!r})") from None
