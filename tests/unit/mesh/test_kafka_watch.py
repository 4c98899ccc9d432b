"""The watch over a Kafka cluster: each trouble is told once, again rarely, and its end once."""

import logging
from collections.abc import Iterable

import pytest

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_probe import Cluster, ClusterUnusableError
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.topics import Topic

TOPICS = {name: Topic(name, 6) for name in ("gps-events", "orders")}
WELL = Cluster(3, {"gps-events": 6, "orders": 6}, [])
AWAY = ClusterUnusableError("b:1 refuses connections", refused=False)
BARRED = ClusterUnusableError("b:1 refuses the login of 'x'", refused=True)
IS = "the Kafka cluster at b:1"


class Rig:
    """A watch whose cluster and clock are the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.state: Cluster | Exception = WELL
        self.watch = KafkaWatch(KafkaOptions("b:1"), TOPICS, look=self.look, clock=lambda: self.now)

    async def look(self, options: KafkaOptions, topics: Iterable[str]) -> Cluster:
        assert sorted(topics) == sorted(TOPICS)
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    async def check(self, state: Cluster | Exception, *, after_s: float = 1.0) -> bool:
        self.now += after_s
        self.state = state
        return await self.watch.check()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All lines so far."""
    caplog.set_level(logging.INFO, "services.mesh.events.kafka_watch")

    class Lines(list[str]):
        def __eq__(self, other: object) -> bool:
            return [record.getMessage() for record in caplog.records] == other

        __hash__ = None  # type: ignore[assignment]

        def __repr__(self) -> str:
            return repr([record.getMessage() for record in caplog.records])

    return Lines()


WAITS = "events wait in the store, and it is tried again until they can be sent"


async def test_an_outage_is_told_at_its_begin_and_at_its_end(told: list[str]) -> None:
    rig = Rig()
    assert await rig.check(WELL)
    assert not await rig.check(AWAY)
    for _ in range(50):
        assert not await rig.check(AWAY)
    assert told == [f"{IS} cannot be used: b:1 refuses connections; {WAITS}"]
    assert await rig.check(WELL)
    assert await rig.check(WELL)
    assert told == [
        f"{IS} cannot be used: b:1 refuses connections; {WAITS}",
        f"{IS} can be used again after 51 s; the events that waited are sent",
    ]


async def test_an_outage_that_lasts_is_told_again_more_and_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    for _ in range(24 * 60):
        await rig.check(AWAY, after_s=60.0)
    # At 0, 1, 3, 7, 15, 31 and 63 minutes, and every hour from then on.
    assert len(caplog.records) == 7 + 22


async def test_another_kind_of_outage_is_told_too_but_not_as_a_new_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig()
    await rig.check(AWAY)
    await rig.check(BARRED, after_s=10.0)
    await rig.check(BARRED, after_s=10.0)
    await rig.check(WELL, after_s=10.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{IS} cannot be used: b:1 refuses connections; {WAITS}",
        f"{IS} cannot be used: b:1 refuses the login of 'x'; {WAITS}",
        f"{IS} can be used again after 30 s; the events that waited are sent",
    ]


async def test_missing_topics_are_named_with_the_command_that_makes_them(told: list[str]) -> None:
    rig = Rig()
    assert not await rig.check(Cluster(3, {"orders": 6}, []))
    assert not await rig.check(Cluster(3, {"orders": 6}, []))
    assert await rig.check(WELL)
    assert told == [
        f"{IS} lacks topic gps-events: create what is missing with `waymesh topics create`; "
        "until then its events wait in the store, and then they go on by themselves",
        f"{IS} has all topics now",
    ]


async def test_topics_with_fewer_partitions_are_told_once_and_those_with_more_are_fine(
    told: list[str],
) -> None:
    rig = Rig()
    for _ in range(100):
        assert await rig.check(Cluster(3, {"gps-events": 1, "orders": 60}, []), after_s=3600.0)
    assert told == [
        f"{IS} has fewer partitions than intended (gps-events has 1 instead of 6): nothing is lost and each "
        "key keeps its order, but no more readers than partitions share the work"
    ]


async def test_partitions_without_a_leader_are_told(told: list[str]) -> None:
    rig = Rig()
    assert not await rig.check(Cluster(2, WELL.partitions, ["orders"]))
    assert await rig.check(WELL)
    assert told == [
        f"{IS} has no leader for partitions of topic orders: their brokers are away; "
        "until they are back the events of these partitions wait in the store",
        f"{IS} has leaders for all partitions now",
    ]


async def test_what_fails_for_want_of_the_cluster_says_nothing_besides(told: list[str]) -> None:
    rig = Rig()
    rig.watch.failed("orders wait", TimeoutError())
    await rig.check(AWAY)
    for _ in range(10):
        rig.watch.failed("orders wait", TimeoutError())
    assert told == [f"{IS} cannot be used: b:1 refuses connections; {WAITS}"]


async def test_what_goes_on_failing_while_the_cluster_looks_well_is_told(told: list[str]) -> None:
    rig = Rig()
    rig.watch.failed("orders wait", TimeoutError())
    await rig.check(WELL)
    for _ in range(10):
        rig.watch.failed("orders wait", TimeoutError())
    rig.watch.worked("orders wait")
    rig.watch.worked("orders wait")
    assert told == ["orders wait: TimeoutError; it is tried again until it succeeds", "orders wait no longer"]


async def test_a_failure_that_passes_before_the_next_look_is_not_told(told: list[str]) -> None:
    rig = Rig()
    rig.watch.failed("orders wait", TimeoutError())
    rig.watch.worked("orders wait")
    await rig.check(WELL)
    rig.watch.failed("orders wait", TimeoutError())
    assert told == []
