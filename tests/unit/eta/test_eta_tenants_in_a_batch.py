"""Fixes of several tenants in one batch: read, told apart and counted as if each had come alone."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.eta.counting import counted, counts_of
from services.eta.decoding import decode
from services.eta.fixes import bit
from services.eta.identity import event_id_of, hash_ids
from services.eta.seen import SeenFixes, repeats
from services.eta.store import Counts, sum_of
from services.mesh.events import Record
from services.mesh.tenancy import qualify

TENANTS = ("default", "acme", "bolt")
owners = st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(0, 5)), max_size=20)


def record(tenant: str, event: GpsEvent, position: int = 0) -> Record:
    headers = {} if tenant == "default" else {"x-waymesh-tenant": tenant}
    return Record(
        "gps-events", event.driver_id, event.SerializeToString(), "1", "waymesh.gps.v1.GpsEvent",
        "application/protobuf", headers, partition=0, position=position, time=datetime.now(UTC),
    )  # fmt: skip


def fix(number: int, driver: str = "c") -> GpsEvent:
    event = GpsEvent(
        driver_id=driver, order_id="o", speed_kph=number, trip_stage=2, traffic_density=1, zone_type=1
    )
    event.location.lat, event.location.lon = 1.0, 2.0
    event.timestamp.seconds = 1_724_841_000 + number
    return event


def counts(records: Sequence[Record]) -> dict[str, Counts]:
    """Of a batch in which every even fix has the first flag, and each order one prediction."""
    batch = decode(records)
    duplicate, conflict = repeats(SeenFixes(), batch.ids, batch.contents)
    new = np.flatnonzero(~duplicate & ~conflict)
    flags = np.where(batch.fixes.speed_kph[new] % 2 == 0, bit(1), 0)
    orders = sorted({batch.fixes.order_id[row] for row in new.tolist()})
    return dict(counted(batch, flags, duplicate, conflict, [EtaPrediction(order_id=one) for one in orders]))


@settings(deadline=None)
@given(owners)
def test_a_mixed_batch_counts_for_each_tenant_as_one_of_its_own(sent: list[tuple[str, int]]):
    together = counts([record(tenant, fix(number)) for tenant, number in sent])
    for tenant in TENANTS:
        alone = counts([record(tenant, fix(number)) for owner, number in sent if owner == tenant])
        assert together.get(tenant, Counts()) == alone.get(tenant, Counts())
    assert sum_of(list(together.values())).fixes == len(set(sent))


def test_ids_are_qualified_and_derived_from_what_was_sent():
    derived = event_id_of(fix(1))
    batch = decode([record(tenant, fix(1)) for tenant in TENANTS])
    assert batch.fixes.driver_id == [qualify(tenant, "c") for tenant in TENANTS]
    assert batch.fixes.order_id == [qualify(tenant, "o") for tenant in TENANTS]
    assert batch.ids.tolist() == hash_ids([qualify(tenant, derived) for tenant in TENANTS]).tolist()
    assert len(set(batch.contents.tolist())) == 1


def test_a_batch_of_the_default_tenant_is_what_it_always_was():
    batch = decode([record("default", fix(1))])
    assert batch.tenants is None
    assert (batch.fixes.driver_id, batch.fixes.order_id) == (["c"], ["o"])
    assert batch.ids.tolist() == hash_ids([event_id_of(fix(1))]).tolist()


def test_a_slash_in_a_name_makes_nobody_elses_courier_of_it():
    batch = decode([record("default", fix(1, "acme/c")), record("acme", fix(1))])
    assert batch.fixes.driver_id == ["default/acme/c", "acme/c"]


def test_predictions_count_for_whose_order_it_is():
    made = counts_of([EtaPrediction(order_id=one) for one in ("o", "acme/o", "acme/p")])
    assert made == {"default": Counts(predictions=1), "acme": Counts(predictions=2)}
