"""How a batch meets its handler on both adapters: one transaction, poison put aside, patience."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple, Protocol, TypeAlias

import asyncpg

from services.mesh.events.bus import Handler, Message, PoisonMessage, Record
from services.mesh.events.causes import serving
from services.mesh.events.dead_letters import dead_letter, handling, meant_for
from services.mesh.events.metering import Meter
from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

_PAUSE_S: Final = (0.05, 5.0)
# A handler that fails on a single record this often, with everything it needs in place, will not succeed.
_ATTEMPTS: Final = 3

# Moves the group's position on in the given transaction; False if another member has done so.
Advance: TypeAlias = Callable[[asyncpg.Connection], Awaitable[bool]]


class Admitted(NamedTuple):
    """What becomes of records; of those in neither list nothing, since they were handled before."""

    fresh: list[Record]
    refused: list[tuple[Record, str]]
    """With the reason."""


# Looks which records were handled before, and remembers the others in the given transaction.
Admit: TypeAlias = Callable[[asyncpg.Connection, list[Record]], Awaitable[Admitted]]


class FencedError(Exception):
    """Another member has this partition now; whatever was done here is rolled back."""


@dataclass(slots=True)
class Patience:
    """What a partition's failures have taught: how much to try at once, and when to try again."""

    most: int
    limit: int = 0
    """How many records the next batch may have."""
    failures: int = 0
    faults: int = 0
    """How many of the failures were not of the passing kind."""
    retry_at: float = 0.0
    """On the monotonic clock."""

    def __post_init__(self) -> None:
        self.limit = self.limit or self.most

    def succeeded(self) -> None:
        """Batches grow again."""
        self.failures = self.faults = 0
        self.limit = min(self.limit * 2, self.most)

    def failed(self, error: Exception, records: int) -> float:
        """Puts the partition off, longer each time; the pause in seconds.

        Unless the failure passes by itself, the next batch is half as long, so that a record that cannot be
        handled ends up alone.
        """
        pause_s: float = min(_PAUSE_S[0] * 2 ** min(self.failures, 20), _PAUSE_S[1])
        self.failures += 1
        self.retry_at = time.monotonic() + pause_s
        if not is_transient(error):
            self.faults += 1
            self.limit = max(1, min(self.limit, records) // 2)
        return pause_s

    def hopeless(self, error: Exception, records: int) -> bool:
        """Whether the batch is one record on which the handler will never succeed."""
        return records == 1 and self.faults >= _ATTEMPTS and not is_transient(error)


class BatchHandling(Protocol):
    """What is done with the batches of a group's member."""

    async def handle(self, records: list[Record], patience: Patience, advance: Advance) -> bool:
        """Handles a batch of one partition; False if it failed and is to be tried again later.

        FencedError if the partition is another member's.
        """
        ...


class Handling:
    """Runs a group's handler."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        group: str,
        handler: Handler,
        publish: Callable[[asyncpg.Connection, Sequence[Message]], Awaitable[None]],
        meter: Meter,
        admit: Admit | None = None,
    ) -> None:
        self._pool = pool
        self._group = group
        self._handler = handler
        self._publish = publish
        self._meter = meter
        self._admit = admit

    async def handle(self, records: list[Record], patience: Patience, advance: Advance) -> bool:
        """See BatchHandling."""
        with serving(records), handling(self._group):
            return await self._try(records, patience, advance)

    async def _try(self, records: list[Record], patience: Patience, advance: Advance) -> bool:
        first = records[0]
        place = f"{first.topic}/{first.partition}@{first.position}"
        try:
            await self._apply(records, [], advance)
        except FencedError:
            raise
        except Exception as error:
            pause_s = patience.failed(error, len(records))
            self._meter.count(first.topic, "failed", len(records))
            if is_transient(error):
                _log.warning(
                    "group %s waits at %s: %s; again in %.2f s",
                    self._group, place, type(error).__name__, pause_s,
                )  # fmt: skip
                return False
            _log.error(
                "group %s failed at %s with %d records; again in %.2f s",
                self._group, place, len(records), pause_s, exc_info=error,
            )  # fmt: skip
            if not patience.hopeless(error, len(records)):
                return False
            reason = f"the handler failed {patience.faults} times: {type(error).__name__}"
            await self._apply([], [(first, reason)], advance)
        patience.succeeded()
        self._meter.count(first.topic, "consumed", len(records))
        self._meter.age(first.topic, max(time.time() - first.time.timestamp(), 0.0))
        return True

    async def _apply(self, records: list[Record], dead: list[tuple[Record, str]], advance: Advance) -> None:
        """Handler, dead letters and position in one transaction; again without whatever is poison."""
        records = meant_for(self._group, records)
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    fresh, refused = records, list[tuple[Record, str]]()
                    if self._admit is not None:
                        fresh, refused = await self._admit(connection, records)
                    if fresh:
                        with serving(fresh):
                            await self._handler(connection, fresh)
                    if dead or refused:
                        letters = [
                            dead_letter(record, reason, self._group)
                            for record, reason in chain(dead, refused)
                        ]
                        await self._publish(connection, letters)
                    if not await advance(connection):
                        raise FencedError
            except PoisonMessage as poison:
                rest = [record for record in records if record is not poison.record]
                if len(rest) == len(records):
                    raise RuntimeError("the handler named a record that it was not given") from poison
                _log.warning("group %s: %s", self._group, poison)
                records, dead = rest, [*dead, (poison.record, poison.reason)]
                continue
            return
