"""The account: what was acknowledged against what is stored and what readers were given. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.faults.chaos.ledger import DELIVERY, ORDER, OUTCOME, Entry

AGENT_OUTCOMES: Final = "agent-outcomes"
ORDERS: Final = "orders"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    what: str
    id: str
    fault: int | None = None
    """During or after which fault it was acknowledged, if it was."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the readers of one group were given: topic and event id to how often."""

    group: str
    times: Mapping[tuple[str, str], int]


@dataclass
class Account:
    """What came out."""

    lost: list[Finding] = field(default_factory=list)
    duplicates: list[Finding] = field(default_factory=list)
    out_of_order: list[Finding] = field(default_factory=list)
    stored: int = 0
    published: int = 0
    stored_only: int = 0
    """Acknowledged deliveries: there is no topic for them."""

    @property
    def clean(self) -> bool:
        """Whether nothing is lost, nothing is twice, and nothing came after what is newer."""
        return not self.lost and not self.duplicates and not self.out_of_order


def settle(
    acknowledged: Mapping[str, Mapping[str, Entry]],
    *,
    outcomes: Iterable[str],
    deliveries: Iterable[str],
    orders: Iterable[tuple[str, int]],
    readers: Iterable[Seen],
) -> Account:
    """`acknowledged` by kind and id; `outcomes`, `deliveries`, `orders` are the rows of the stores."""
    account = Account()
    _once(account, OUTCOME, acknowledged[OUTCOME], outcomes)
    _once(account, DELIVERY, acknowledged[DELIVERY], deliveries)
    account.stored_only = len(acknowledged[DELIVERY])
    _newest(account, acknowledged[ORDER], orders)
    everybody = list(readers)
    for seen in everybody:
        _given(account, seen, acknowledged)
    account.published = min((_published(seen, acknowledged) for seen in everybody), default=0)
    return account


def told_twice(alerts: Iterable[tuple[str, str, bool]]) -> list[Finding]:
    """`alerts` are (key, id, firing) as told: one of a key fires until it is resolved, each is told once."""
    found: list[Finding] = []
    firing: dict[str, str] = {}
    before: set[tuple[str, bool]] = set()
    for key, id_, fires in alerts:
        word = "raised" if fires else "resolved"
        if (id_, fires) in before:
            found.append(Finding(f"alert {word} again", id_))
        elif fires and key in firing:
            found.append(Finding(f"alert raised while {firing[key]} of the same key is", id_))
        elif not fires and firing.get(key) != id_:
            found.append(Finding("alert resolved that was never raised", id_))
        before.add((id_, fires))
        if fires:
            firing[key] = id_
        else:
            firing.pop(key, None)
    return found


def older_after_newer(where: str, event_ids: Iterable[str]) -> list[Finding]:
    """Revisions that came behind a newer one of the same subject, by events' ids in the order they came.

    A repeat of the newest is not older. What names no revision is passed over.
    """
    found: list[Finding] = []
    newest: dict[str, int] = {}
    for event_id in event_ids:
        subject, _, revision = event_id.rpartition("@")
        if not subject or not revision.isdecimal():
            continue
        known = newest.setdefault(subject, int(revision))
        if int(revision) < known:
            found.append(Finding(f"came after revision {known} on {where}", event_id))
        newest[subject] = max(known, int(revision))
    return found


def never_broadcast(where: str, orders: Mapping[str, Entry], event_ids: Iterable[str]) -> list[Finding]:
    """Acknowledged orders that a reader of everything does not know, or only as they were."""
    newest = newest_given(Seen(where, {(ORDERS, event_id): 1 for event_id in event_ids}))
    return list(_older(where, orders, newest))


def _once(account: Account, kind: str, entries: Mapping[str, Entry], rows: Iterable[str]) -> None:
    times = Counter(rows)
    for id_, entry in entries.items():
        if not times[id_]:
            account.lost.append(Finding(f"{kind} not stored", id_, entry.fault))
        else:
            account.stored += 1
    account.duplicates += [
        Finding(f"{kind} stored {n} times", id_, _fault(entries, id_)) for id_, n in times.items() if n > 1
    ]


def _newest(account: Account, entries: Mapping[str, Entry], rows: Iterable[tuple[str, int]]) -> None:
    revisions: dict[str, list[int]] = {}
    for id_, revision in rows:
        revisions.setdefault(id_, []).append(revision)
    for id_, entry in entries.items():
        found = revisions.get(id_)
        if found is None:
            account.lost.append(Finding("order not stored", id_, entry.fault))
        elif max(found) < entry.revision:
            what = f"order stored at revision {max(found)} of {entry.revision}"
            account.lost.append(Finding(what, id_, entry.fault))
        else:
            account.stored += 1
    account.duplicates += [
        Finding(f"order stored {len(found)} times", id_, _fault(entries, id_))
        for id_, found in revisions.items()
        if len(found) > 1
    ]


def _given(account: Account, seen: Seen, acknowledged: Mapping[str, Mapping[str, Entry]]) -> None:
    for id_, entry in acknowledged[OUTCOME].items():
        if (AGENT_OUTCOMES, id_) not in seen.times:
            account.lost.append(Finding(f"outcome never given to {seen.group}", id_, entry.fault))
    newest = newest_given(seen)
    account.lost += _older(seen.group, acknowledged[ORDER], newest)
    for (topic, id_), times in seen.times.items():
        if times > 1:
            fault = _fault(acknowledged[OUTCOME], id_)
            account.duplicates.append(Finding(f"{topic} given {times} times to {seen.group}", id_, fault))


def _older(to: str, orders: Mapping[str, Entry], newest: Mapping[str, int]) -> Iterator[Finding]:
    for id_, entry in orders.items():
        if newest.get(id_, 0) < entry.revision:
            what = f"order given to {to} at revision {newest.get(id_, 0)} of {entry.revision}"
            yield Finding(what, id_, entry.fault)


def newest_given(seen: Seen) -> dict[str, int]:
    """Of each order the newest revision that the group was given."""
    newest: dict[str, int] = {}
    for topic, event_id in seen.times:
        if topic == ORDERS and event_id.startswith("order:"):
            id_, _, revision = event_id.removeprefix("order:").rpartition("@")
            newest[id_] = max(newest.get(id_, 0), int(revision))
    return newest


def _published(seen: Seen, acknowledged: Mapping[str, Mapping[str, Entry]]) -> int:
    newest = newest_given(seen)
    outcomes = sum((AGENT_OUTCOMES, id_) in seen.times for id_ in acknowledged[OUTCOME])
    orders = sum(newest.get(id_, 0) >= entry.revision for id_, entry in acknowledged[ORDER].items())
    return outcomes + orders


def _fault(entries: Mapping[str, Entry], id_: str) -> int | None:
    entry = entries.get(id_)
    return None if entry is None else entry.fault
