"""Tenants in a cluster: fixes with the same names and the same ids are each tenant's own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from eta_rig import way
from test_services_on_kafka import calling, comes, prepare, serving, unique
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, StreamGpsRequest

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.mesh.principal import Principal, acting
from services.mesh.settings import load
from tests.kafka_brokers import Brokers, Kafka
from tests.mock_cluster import MockCluster


@pytest.fixture
def cluster(kafka_brokers: Brokers) -> Kafka | MockCluster:
    """A real one, where there is one."""
    return kafka_brokers.shared() or (kafka_brokers.absent() if kafka_brokers.required else MockCluster())


async def test_what_two_tenants_report_under_the_same_names_is_counted_for_each(
    database: str, tmp_path: Path, cluster: Kafka | MockCluster
) -> None:
    settings = load(
        EtaSettings,
        data_dir=tmp_path,
        port=0,
        admin=0,
        drain_s=0.0,
        enable_outcome_logging=False,
        feedback_target="127.0.0.1:1",
        kafka_bootstrap_servers=cluster.bootstrap_servers,
        kafka_group_id=unique("group"),
    )
    await prepare(cluster, settings)
    mine, theirs = unique("acme"), unique("bolt")
    fixes = way(1, fixes=7)
    async with serving(Eta(settings, database)) as eta, calling(EtaServiceStub, eta) as stub:

        async def batch() -> AsyncIterator[StreamGpsRequest]:
            yield StreamGpsRequest(events=fixes[:5])

        for tenant in (mine, theirs):
            with acting(Principal(tenant)):
                async for response in stub.StreamGps(batch()):
                    assert not response.rejected
        # A producer of their own may name its events as another tenant's does.
        async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap_servers) as producer:
            for tenant, own in ((mine, fixes[5]), (theirs, fixes[6])):
                headers: list[Any] = [
                    ("ce_id", b"1"), ("ce_source", b"/app"), ("ce_specversion", b"1.0"),
                    ("ce_type", b"waymesh.gps.v1.GpsEvent"), ("content-type", b"application/protobuf"),
                    ("x-waymesh-tenant", tenant.encode()),
                ]  # fmt: skip
                # In one partition, so that both meet the same memory of what has come.
                await producer.send_and_wait("gps-events", own.SerializeToString(), b"k", 0, headers=headers)

        async def counted() -> list[tuple[int, int, int]]:
            found = []
            for tenant in (mine, theirs):
                with acting(Principal(tenant)):
                    stats = await stub.GetGpsStats(GetGpsStatsRequest())
                found.append((stats.fixes, stats.duplicates, stats.conflicts))
            return found

        await comes(counted, [(6, 0, 0)] * 2, "fixes of each tenant")
        told = await cluster.look.keys("gps-events")
        assert {f"{tenant}/driver_1" for tenant in (mine, theirs)} <= set(told)
