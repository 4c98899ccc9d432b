"""The rig of three brokers itself: what is acknowledged outlives the leader and a stop of all of them."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import psutil
from aiokafka import AIOKafkaProducer

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.topics import Topic
from tests.contract.events_rig import own_topics
from tests.processes import until
from tools.kafka.cluster import KafkaCluster

ONE = {"one": Topic("one", 1)}
GUARD_S = 120.0


async def produce(options: KafkaOptions, values: range, halfway: asyncio.Event | None = None) -> None:
    """Each on its own, until all are acknowledged by all replicas."""
    producer = AIOKafkaProducer(**options.producer())
    try:
        async with asyncio.timeout(GUARD_S):
            await producer.start()
            for value in values:
                await producer.send_and_wait(options.name_in_cluster("one"), str(value).encode())
                if halfway is not None and value == values[len(values) // 2]:
                    halfway.set()
    finally:
        await producer.stop()


async def lying(cluster: KafkaCluster, options: KafkaOptions) -> list[int]:
    """All values in the topic."""
    return [int(one.value or b"") for one in await cluster.look.records(options.name_in_cluster("one"))]


async def test_nothing_acknowledged_is_lost_or_doubled_when_the_leader_is_killed(
    kafka_cluster: KafkaCluster,
) -> None:
    async with own_topics(kafka_cluster.bootstrap_servers, ONE) as options:
        topic = options.name_in_cluster("one")
        first = await kafka_cluster.leader_of(topic, 0)
        halfway = asyncio.Event()
        producing = asyncio.create_task(produce(options, range(150), halfway))
        async with asyncio.timeout(GUARD_S):
            await halfway.wait()
        await kafka_cluster.kill(first)
        assert await kafka_cluster.leader_of(topic, 0) != first
        await producing
        assert await lying(kafka_cluster, options) == list(range(150))
        await kafka_cluster.start(first)
        await kafka_cluster.in_sync(topic)


async def test_a_cluster_keeps_its_data_while_all_nodes_are_stopped(kafka_cluster: KafkaCluster) -> None:
    async with own_topics(kafka_cluster.bootstrap_servers, ONE) as options:
        await produce(options, range(50))
        await kafka_cluster.stop()
        assert kafka_cluster.running == []
        await kafka_cluster.start()
        assert await lying(kafka_cluster, options) == list(range(50))
        await produce(options, range(50, 100))
        assert await lying(kafka_cluster, options) == list(range(100))


async def test_a_held_node_is_passed_over_and_comes_back(kafka_cluster: KafkaCluster) -> None:
    async with own_topics(kafka_cluster.bootstrap_servers, ONE) as options:
        topic = options.name_in_cluster("one")
        first = await kafka_cluster.leader_of(topic, 0)
        kafka_cluster.pause(first)
        await produce(options, range(20))
        kafka_cluster.resume(first)
        await kafka_cluster.in_sync(topic)
        assert await lying(kafka_cluster, options) == list(range(20))


async def test_no_node_outlives_who_started_it(tmp_path: Path) -> None:
    program = tmp_path / "starts_a_node.py"
    program.write_text(
        "import asyncio\n"
        "from tools.kafka.cluster import KafkaCluster\n"
        "async def main():\n"
        "    cluster = KafkaCluster(nodes=1)\n"
        "    await cluster.start()\n"
        "    print(cluster.pid(1), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody is left who would clear its folder away
    starter = await asyncio.create_subprocess_exec(
        sys.executable, str(program), env=environ, stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    try:
        async with asyncio.timeout(GUARD_S):
            pid = int(await starter.stdout.readline())
        assert psutil.pid_exists(pid)
    finally:
        starter.kill()
        await starter.wait()
    await until(lambda: is_dead(pid), "the node has ended", guard_s=GUARD_S)


def is_dead(pid: int) -> bool:
    """Also while nobody has asked for its exit code."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
