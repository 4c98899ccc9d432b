"""Which faults come, in which order, how long each lasts: decided by the seed alone."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What goes wrong."""

    KILL = "kill"
    KILL_DATABASE = "kill-database"
    KILL_BACKEND = "kill-backend"
    KILL_MESH = "kill-mesh"
    SLOW = "slow"
    STALL = "stall"
    HALF_OPEN = "half-open"
    CUT = "cut"
    REFUSE = "refuse"
    DISK_FULL = "disk-full"
    CLOCK = "clock"
    BROKER_KILL = "broker-kill"
    BROKER_STOP = "broker-stop"
    BROKER_PAUSE = "broker-pause"


KAFKA_KINDS: Final = frozenset({Kind.BROKER_KILL, Kind.BROKER_STOP, Kind.BROKER_PAUSE})
SERVICES: Final = ("feedback", "route", "eta", "gateway")
PROCESSES: Final = (*SERVICES, "recorder", "reader", "other-reader")
BROKERS: Final = (1, 2, 3)
DATABASE: Final = "database"
BROKER_LINK: Final = "broker-"

# How often each kind comes up in one round of all kinds.
_ROUND: Final = {
    Kind.KILL: 8,
    Kind.KILL_DATABASE: 2,
    Kind.KILL_BACKEND: 1,
    Kind.KILL_MESH: 1,
    Kind.SLOW: 2,
    Kind.STALL: 2,
    Kind.HALF_OPEN: 2,
    Kind.CUT: 3,
    Kind.REFUSE: 2,
    Kind.DISK_FULL: 2,
    Kind.CLOCK: 2,
    Kind.BROKER_KILL: 3,
    Kind.BROKER_STOP: 2,
    Kind.BROKER_PAUSE: 2,
}
# Seconds that most faults last, and of the one in so many that lasts longer.
_SHORT_S: Final = (0.5, 3.0)
_LONG_S: Final = (5.0, 15.0)
_ONE_LONG_IN: Final = 25
# Once in a run of at least so many faults everything that carries events is away for a minute.
_OUTAGE_FROM: Final = 100
_OUTAGE_S: Final = 60.0
_OVERLAP: Final = 0.2
_CLOCK_S: Final = (-86_400.0, -7200.0, -90.0, -2.0, 2.0, 90.0, 7200.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them. `degree` is by kind: latency in s, offset of the clock in s, bytes of a file."""

    number: int
    kind: Kind
    targets: tuple[str, ...]
    lasts_s: float
    degree: float = 0.0
    overlaps: bool = False
    """Whether it comes while the one before still lasts."""

    def told(self) -> str:
        """In a few words."""
        where = "+".join(self.targets)
        degree = f" by {self.degree:g} s" if self.kind is Kind.CLOCK else ""
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind} {where}{degree}{lasts}".replace("  ", " ")


def plan(
    seed: int, count: int, *, kafka: bool, each_once: bool = False, only: Collection[Kind] = ()
) -> list[Fault]:
    """So many faults, of `only` these kinds if any are named.

    With `each_once` no kind comes again before all have been there. ValueError if none is left.
    """
    rng = random.Random(seed)
    kinds = [kind for kind in Kind if (kafka or kind not in KAFKA_KINDS) and kind in (only or Kind)]
    if not kinds:
        raise ValueError("none of these kinds of faults can happen on this bus")
    deck = _deck(rng, {kind: 1 if each_once else _ROUND[kind] for kind in kinds})
    faults = [_fault(rng, number, next(deck), kafka) for number in range(1, count + 1)]
    if count >= _OUTAGE_FROM and not only:
        place = rng.randrange(count // 4, 3 * count // 4)
        faults[place] = _outage(place + 1, kafka)
    return faults


def _deck(rng: random.Random, often: dict[Kind, int]) -> Iterator[Kind]:
    while True:
        cards = [kind for kind, times in often.items() for _ in range(times)]
        rng.shuffle(cards)
        yield from cards


def _outage(number: int, kafka: bool) -> Fault:
    if kafka:
        return Fault(number, Kind.BROKER_STOP, tuple(map(str, BROKERS)), _OUTAGE_S)
    return Fault(number, Kind.REFUSE, (DATABASE,), _OUTAGE_S)


def _fault(rng: random.Random, number: int, kind: Kind, kafka: bool) -> Fault:
    span = _LONG_S if rng.random() < 1 / _ONE_LONG_IN else _SHORT_S
    lasts_s = round(rng.uniform(*span), 1)
    overlaps = number > 1 and rng.random() < _OVERLAP
    degree = 0.0
    targets: tuple[str, ...] = ()
    match kind:
        case Kind.KILL:
            targets, lasts_s = (rng.choice(PROCESSES),), 0.0
        case Kind.KILL_DATABASE | Kind.KILL_BACKEND:
            targets, lasts_s = (DATABASE,), 0.0
        case Kind.KILL_MESH:
            targets, lasts_s = ("up",), 0.0
        case Kind.SLOW | Kind.STALL | Kind.HALF_OPEN | Kind.REFUSE:
            targets, degree = _links(rng, kafka), round(rng.uniform(0.02, 0.3), 3)
        case Kind.CUT:
            targets, lasts_s = _links(rng, kafka), 0.0
        case Kind.DISK_FULL:
            targets, degree = ("recorder",), rng.choice((0.0, 0.0, 4096.0))
        case Kind.CLOCK:
            targets = (
                (rng.choice((*SERVICES, "recorder")),) if rng.random() < 0.5 else (*SERVICES, "recorder")
            )
            degree = rng.choice(_CLOCK_S)
        case Kind.BROKER_KILL:
            targets = (str(rng.choice(BROKERS)),)
        case Kind.BROKER_STOP | Kind.BROKER_PAUSE:
            how_many = rng.choice((1, 1, 2, 3))
            targets = tuple(sorted(map(str, rng.sample(BROKERS, how_many))))
    return Fault(number, kind, targets, lasts_s, degree, overlaps)


def _links(rng: random.Random, kafka: bool) -> tuple[str, ...]:
    """Of one service, of the database, of one broker or of all."""
    choices: list[tuple[str, ...]] = [
        (DATABASE,),
        (DATABASE,),
        ("feedback",),
        ("feedback",),
        ("route",),
        ("eta",),
    ]
    if kafka:
        every = tuple(f"{BROKER_LINK}{number}" for number in BROKERS)
        choices += [every, *((one,) for one in every)]
    return rng.choice(choices)
