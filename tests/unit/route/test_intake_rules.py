"""Which writes are new, which repeat, which are refused; and how fixes move orders along."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.order_pb2 import Order

from services.mesh.chain.server.validation import check
from services.route.fixes import Progress, Stage
from services.route.identity import Known, Status, Verdict, holder_fault, judge, may_cancel
from services.route.progress import advance, of_stage

KNOWN = Known(3, Status.ASSIGNED, {1: b"one", 3: b"three"})


@pytest.mark.parametrize(
    ("revision", "digest", "status", "verdict"),
    [
        (3, b"three", Status.ASSIGNED, Verdict.DUPLICATE),
        (1, b"one", Status.PLACED, Verdict.DUPLICATE),
        (3, b"other", Status.ASSIGNED, Verdict.CONFLICT),
        (1, b"other", Status.PLACED, Verdict.CONFLICT),
        (2, b"two", Status.PLACED, Verdict.STALE),
        (4, b"four", Status.PICKED_UP, Verdict.ACCEPT),
        (9, b"nine", Status.PLACED, Verdict.ACCEPT),
    ],
)
def test_a_write_is_known_by_its_revision_and_content(
    revision: int, digest: bytes, status: Status, verdict: Verdict
) -> None:
    assert judge(KNOWN, revision, digest, status) is verdict


def test_what_was_never_seen_is_accepted_whatever_its_revision() -> None:
    assert judge(None, 7, b"x", Status.DELIVERED) is Verdict.ACCEPT


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("over", [Status.DELIVERED, Status.CANCELLED])
def test_what_is_over_stays_as_it_is(over: Status, status: Status) -> None:
    assert judge(Known(1, over, {}), 2, b"x", status) is Verdict.STATUS


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (Status.PLACED, False),
        (Status.ASSIGNED, False),
        (Status.PICKED_UP, True),
        (Status.DELIVERED, True),
        (Status.CANCELLED, False),
    ],
)
def test_what_is_picked_up_can_only_be_delivered(status: Status, allowed: bool) -> None:
    verdict = judge(Known(1, Status.PICKED_UP, {}), 2, b"x", status)
    assert (verdict is Verdict.ACCEPT) is allowed


def test_only_what_nobody_carries_can_be_cancelled() -> None:
    assert [status for status in Status if may_cancel(status)] == [Status.PLACED, Status.ASSIGNED]


@pytest.mark.parametrize(
    ("status", "driver_id", "wrong"),
    [
        (Status.PLACED, "", False),
        (Status.PLACED, "d", True),
        (Status.ASSIGNED, "", True),
        (Status.ASSIGNED, "d", False),
        (Status.PICKED_UP, "", True),
        (Status.DELIVERED, "", False),
        (Status.CANCELLED, "d", False),
    ],
)
def test_an_order_names_its_courier_when_it_has_one(status: Status, driver_id: str, wrong: bool) -> None:
    assert bool(holder_fault(status, driver_id)) is wrong


def order(status: Status, driver_id: str = "d") -> Order:
    return Order(
        order_id="o",
        revision=5,
        status=status.value,  # type: ignore[arg-type]
        driver_id=driver_id,
        pickup=Location(lat=1, lon=1),
        dropoff=Location(lat=1, lon=2),
        placed_at=Timestamp(seconds=1),
    )


@pytest.mark.parametrize(
    ("status", "stage", "then"),
    [
        (Status.ASSIGNED, Stage.TO_PICKUP, None),
        (Status.ASSIGNED, Stage.AT_PICKUP, None),
        (Status.ASSIGNED, Stage.TO_DESTINATION, Status.PICKED_UP),
        (Status.ASSIGNED, Stage.AT_DESTINATION, Status.PICKED_UP),
        (Status.ASSIGNED, Stage.DELIVERED, Status.DELIVERED),
        (Status.PICKED_UP, Stage.TO_DESTINATION, None),
        (Status.PICKED_UP, Stage.TO_PICKUP, None),
        (Status.PICKED_UP, Stage.DELIVERED, Status.DELIVERED),
        (Status.DELIVERED, Stage.TO_DESTINATION, None),
        (Status.CANCELLED, Stage.DELIVERED, None),
        (Status.ASSIGNED, Stage.IDLE, None),
    ],
)
def test_the_stage_of_its_courier_moves_an_order(status: Status, stage: Stage, then: Status | None) -> None:
    moved = advance(order(status), "d", of_stage(stage, 2_000_000), courier_known=True)
    assert (None if moved is None else Status(moved.status)) == then
    if moved is not None:
        assert moved.revision == 6


def test_a_strange_courier_moves_nothing() -> None:
    assert advance(order(Status.ASSIGNED), "other", Progress(delivered_us=1), courier_known=True) is None


@pytest.mark.parametrize(("known", "then"), [(True, Status.ASSIGNED), (False, None)])
def test_a_known_courier_under_way_to_an_order_without_one_has_it(known: bool, then: Status | None) -> None:
    moved = advance(order(Status.PLACED, ""), "d", of_stage(Stage.TO_PICKUP, 1), courier_known=known)
    assert (None if moved is None else Status(moved.status)) == then
    if moved is not None:
        assert moved.driver_id == "d"


def test_steps_seen_together_keep_their_times() -> None:
    step = Progress(picked_up_us=2_000_000, delivered_us=9_500_000)
    moved = advance(order(Status.ASSIGNED), "d", step, courier_known=True)
    assert moved is not None
    assert moved.picked_up_at == Timestamp(seconds=2)
    assert moved.delivered_at == Timestamp(seconds=9, nanos=500_000_000)


def test_a_pickup_that_was_told_keeps_its_time() -> None:
    before = order(Status.PICKED_UP)
    before.picked_up_at.seconds = 7
    moved = advance(before, "d", Progress(picked_up_us=8_000_000, delivered_us=9_000_000), courier_known=True)
    assert moved is not None
    assert moved.picked_up_at.seconds == 7


@given(
    picked_up_s=st.none() | st.integers(1, 20),
    steps=st.lists(st.tuples(st.sampled_from(Stage), st.integers(1, 20)), max_size=4),
)
def test_no_order_that_fixes_move_is_delivered_before_it_is_picked_up(
    picked_up_s: int | None, steps: list[tuple[Stage, int]]
) -> None:
    moved = order(Status.ASSIGNED if picked_up_s is None else Status.PICKED_UP)
    if picked_up_s is not None:
        moved.picked_up_at.CopyFrom(Timestamp(seconds=picked_up_s, nanos=999))
    for stage, second in steps:  # as they come, with times of clocks that differ
        moved = advance(moved, "d", of_stage(stage, second * 1_000_000), courier_known=True) or moved
        check(moved)
