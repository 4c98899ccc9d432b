"""What waits in outboxes is told with its age, which goes on growing while nobody can be asked."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.mesh.outboxes import Outboxes, Waiting

NAME = "waymesh_outbox_"


@dataclass
class Box:
    """An outbox as a test wants it; None: its store is away."""

    holds: Waiting | None

    async def ask(self) -> Waiting:
        if self.holds is None:
            raise ConnectionRefusedError
        return self.holds


class Rig:
    """Outboxes on a clock that the test moves, as a registry shows them."""

    def __init__(self, **boxes: Box) -> None:
        self.now = 1000.0
        self.outboxes = Outboxes(lambda: self.now)
        self._registry = CollectorRegistry()
        self._registry.register(self.outboxes)
        for name, box in boxes.items():
            self.outboxes.watch(name, box.ask)

    def told(self, what: str, outbox: str) -> float | None:
        return self._registry.get_sample_value(NAME + what, {"outbox": outbox})


async def test_what_waits_is_told_with_the_age_of_the_oldest() -> None:
    rig = Rig(events=Box(Waiting(3, 40.0)))
    await rig.outboxes.ask()
    assert rig.told("events", "events") == 3
    assert rig.told("oldest_age_seconds", "events") == 40.0


async def test_what_waits_grows_older_while_the_store_is_away() -> None:
    box = Box(Waiting(3, 40.0))
    rig = Rig(events=box)
    await rig.outboxes.ask()
    box.holds = None
    rig.now += 25
    await rig.outboxes.ask()
    assert rig.told("oldest_age_seconds", "events") == 65.0


async def test_an_empty_outbox_has_no_age() -> None:
    box = Box(Waiting(3, 40.0))
    rig = Rig(events=box)
    await rig.outboxes.ask()
    box.holds = Waiting(0)
    await rig.outboxes.ask()
    rig.now += 25
    assert rig.told("oldest_age_seconds", "events") == 0


async def test_what_lies_on_disk_has_an_age_although_its_events_are_not_counted() -> None:
    rig = Rig(outcomes=Box(Waiting(0, 7.0, 4096)))
    await rig.outboxes.ask()
    assert rig.told("bytes", "outcomes") == 4096
    assert rig.told("oldest_age_seconds", "outcomes") == 7.0


async def test_one_that_does_not_answer_keeps_no_other_from_being_told() -> None:
    rig = Rig(deliveries=Box(None), events=Box(Waiting(1, 2.0)))
    await rig.outboxes.ask()
    assert rig.told("events", "deliveries") is None
    assert rig.told("events", "events") == 1
