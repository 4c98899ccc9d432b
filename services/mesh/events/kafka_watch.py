"""Watches the Kafka cluster, says once what is wrong with it, and once that it is right again.

Nothing waits for it: the relay and the readers try on their own until they succeed, and what is published
lies in the store meanwhile. It is their voice: while the cluster cannot be used, they and the library below
say nothing themselves. What is said of something unusable carries the field `trouble`, and `over` once it is
right again, with the same name: who runs several processes tells each cause once by it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.mesh.events import kafka_noise
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_probe import Cluster, ClusterUnusableError, look
from services.mesh.events.topics import Topic

_log = logging.getLogger(__name__)

# Between two looks: while all is well, and from the first to the last while it is not.
_WELL_S: Final = 30.0
_PAUSE_S: Final = (0.5, 15.0)
# A sign of trouble brings the next look forward, but not to less than this after the last.
_HASTE_S: Final = 1.0
# What lasts is said again after a minute, then after twice as long each time, up to an hour.
_AGAIN_S: Final = (60.0, 3600.0)

Look: TypeAlias = Callable[[KafkaOptions, Iterable[str]], Awaitable[Cluster]]


@dataclass(slots=True)
class _Trouble:
    """Something that is wrong, since when, and when it is worth saying again."""

    since: float
    again_s: float = _AGAIN_S[0]
    again_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.again_at = self.since + self.again_s

    def due(self, now: float) -> bool:
        """Whether it is to be said again now."""
        if now < self.again_at:
            return False
        self.again_s = min(self.again_s * 2, _AGAIN_S[1])
        self.again_at = now + self.again_s
        return True


class KafkaWatch:
    """One per process and bus."""

    def __init__(
        self,
        options: KafkaOptions,
        topics: Mapping[str, Topic],
        *,
        look: Look = look,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._topics = topics
        self._look = look
        self._clock = clock
        self._name = f"the Kafka cluster at {options.bootstrap_servers}"
        self._troubles: dict[str, _Trouble] = {}
        self._failing: dict[str, float] = {}
        self._well_at = -math.inf
        self._sign = asyncio.Event()

    def sign(self) -> None:
        """Something went wrong with the cluster: it is looked at soon."""
        self._sign.set()

    def failed(self, what: str, error: BaseException) -> None:
        """Says that something still fails although the last look found nothing wrong; rarely, if it lasts.

        `what` is the same each time, until `worked` ends it.
        """
        self.sign()
        since = self._failing.setdefault(what, self._clock())
        if since < self._well_at:
            self._tell(what, f"{what}: {type(error).__name__}; it is tried again until it succeeds")

    def worked(self, what: str) -> None:
        """What had failed works again."""
        if self._failing.pop(what, None) is not None and self._troubles.pop(what, None) is not None:
            _log.info("%s no longer", what, extra={"over": _mark(what)})

    async def run(self) -> None:
        """Looks until cancelled."""
        pause_s = _PAUSE_S[0]
        kafka_noise.keep_back(self.sign)
        try:
            while True:
                self._sign.clear()
                if await self.check():
                    pause_s = _PAUSE_S[0]
                    await self._wait(_WELL_S)
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _PAUSE_S[1])
        finally:
            kafka_noise.let_through(self.sign)

    async def check(self) -> bool:
        """One look, and what is to be said about it; whether all of our topics can be used."""
        began = self._clock()
        names = {self._options.name_in_cluster(name): topic for name, topic in self._topics.items()}
        try:
            cluster = await self._look(self._options, names)
        except ClusterUnusableError as error:
            self._well_at = -math.inf
            self._unusable(error)
            return False
        except Exception:
            _log.exception("%s could not be looked at", self._name)
            return False
        self._usable()
        missing = [name for name in names if name not in cluster.partitions]
        self._missing(missing)
        self._leaderless(cluster.leaderless)
        self._fewer(
            [
                f"{name} has {cluster.partitions[name]} instead of {topic.partitions}"
                for name, topic in names.items()
                if cluster.partitions.get(name, topic.partitions) < topic.partitions
            ]
        )
        well = not missing and not cluster.leaderless
        self._well_at = began if well else -math.inf
        return well

    async def _wait(self, most_s: float) -> None:
        await asyncio.sleep(_HASTE_S)
        try:
            async with asyncio.timeout(most_s - _HASTE_S):
                await self._sign.wait()
        except TimeoutError:
            pass

    def _unusable(self, error: ClusterUnusableError) -> None:
        kind = "refused" if error.refused else "away"
        since = min(
            (one.since for key, one in self._troubles.items() if key in _WHOLE), default=self._clock()
        )
        for other in _WHOLE - {kind}:
            self._troubles.pop(other, None)
        self._tell(
            kind,
            f"{self._name} cannot be used: {error}; events wait in the store, and it is tried again until "
            "they can be sent",
            since,
        )

    def _usable(self) -> None:
        gone = [self._troubles.pop(kind) for kind in _WHOLE if kind in self._troubles]
        if gone:
            lasted_s = self._clock() - min(one.since for one in gone)
            _log.info(
                "%s can be used again after %.0f s; the events that waited are sent",
                self._name,
                lasted_s,
                extra={"over": _mark("away")},
            )

    def _missing(self, names: Sequence[str]) -> None:
        self._tell_of_topics(
            "missing",
            names,
            f"{self._name} lacks {_topics(names)}: create what is missing with `waymesh topics create`; "
            "until then its events wait in the store, and then they go on by themselves",
            f"{self._name} has all topics now",
        )

    def _leaderless(self, names: Sequence[str]) -> None:
        self._tell_of_topics(
            "leaderless",
            names,
            f"{self._name} has no leader for partitions of {_topics(names)}: their brokers are away; "
            "until they are back the events of these partitions wait in the store",
            f"{self._name} has leaders for all partitions now",
        )

    def _fewer(self, words: Sequence[str]) -> None:
        self._tell_of_topics(
            "fewer",
            words,
            f"{self._name} has fewer partitions than intended ({', '.join(words)}): nothing is lost and each "
            "key keeps its order, but no more readers than partitions share the work",
            f"{self._name} has all partitions now",
            repeat=False,
        )

    def _tell_of_topics(
        self, kind: str, names: Sequence[str], wrong: str, right: str, *, repeat: bool = True
    ) -> None:
        known = [key for key in self._troubles if key.startswith(f"{kind}:")]
        key = f"{kind}:{','.join(names)}"
        for other in known:
            if other != key:
                del self._troubles[other]
        if not names:
            if known:
                _log.info("%s", right, extra={"over": _mark(kind)})
        elif repeat or key not in known:
            self._tell(key, wrong)

    def _tell(self, key: str, line: str, since: float | None = None) -> None:
        now = self._clock()
        trouble = self._troubles.get(key)
        if trouble is None:
            self._troubles[key] = _Trouble(now if since is None else since)
        elif not trouble.due(now):
            return
        mark = _mark(key)
        _log.warning("%s", line, extra={"trouble": mark} if mark != _mark("fewer") else None)


_WHOLE: Final = frozenset({"away", "refused"})


def _mark(key: str) -> str:
    """Name of a cause for other programs: the same in every process, whichever topics it is about."""
    kind = key.partition(":")[0]
    return f"kafka.{'away' if kind in _WHOLE else kind}"


def _topics(names: Sequence[str]) -> str:
    return f"topic{'s' if len(names) > 1 else ''} {', '.join(names)}"
