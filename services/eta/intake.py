"""The door for fixes: checked, given their ids, and durable on gps-events before they are answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import uuid4

import asyncpg
import numpy as np
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CONFLICTING_CONTENT, ERROR_REASON_INVALID_FIELD

from services.eta import rules
from services.eta.fixes import columns_of
from services.eta.identity import hash_contents, hash_ids, identify
from services.eta.partition import Partition
from services.eta.rules import Fault
from services.eta.store import INTAKE, Counts, EtaStore
from services.mesh import principal
from services.mesh.errors import AlreadyExists, FieldViolation, InvalidArgument, PermissionDenied
from services.mesh.events import PROTOBUF, EventBus, Message, tenants
from services.mesh.store import GroupCommit
from services.mesh.tenancy import qualify, tenant_of

FIXES: Final = "gps-events"
_FIX_TYPE: Final = GpsEvent.DESCRIPTOR.full_name
# Reports of one commit.
_GROUP: Final = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a reported fix; its id is qualified."""

    event_id: str
    duplicate: bool


class _Verdict(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class _Reported:
    """A fix on its way: complete, so that whoever commits it need know nothing of its caller."""

    event_id: str
    content: bytes
    """8 bytes."""
    message: Message


class Intake:
    """Takes in fixes, one at a time or in batches."""

    def __init__(
        self, *, bus: EventBus, store: EtaStore, partitions: Callable[[], Sequence[Partition]]
    ) -> None:
        self._bus = bus
        self._store = store
        self._partitions = partitions
        self._reports = GroupCommit(store.transaction, self._write, max_items=_GROUP)

    async def close(self) -> None:
        """Waits for the writes under way."""
        await self._reports.close()

    async def report(self, event: GpsEvent) -> Report:
        """Take in one fix, with plain ids, of the tenant at hand.

        Raises InvalidArgument if it breaks a rule and AlreadyExists if its id came before with other content.
        """
        fault = rules.fault_of(event)
        if fault is not None:
            raise InvalidArgument(
                "the fix breaks a rule",
                reason=ERROR_REASON_INVALID_FIELD,
                violations=[FieldViolation(f"event.{fault[0]}", fault[1])],
            )
        tenant = _tenant()
        event_id = qualify(tenant, *identify([event]))
        content = hash_contents([event]).astype("<u8").tobytes()
        [message] = _messages([event], tenant)
        [verdict] = await self._reports.add([_Reported(event_id, content, message)])
        if verdict is _Verdict.CONFLICT:
            raise AlreadyExists(
                f"the fix {event_id} came before with other content",
                reason=ERROR_REASON_CONFLICTING_CONTENT,
                metadata={"id": event_id},
            )
        return Report(event_id, duplicate=verdict is _Verdict.DUPLICATE)

    async def take(self, events: Sequence[GpsEvent]) -> list[Fault]:
        """Take in a batch as `report` does; gives those that were refused. The others are durable then."""
        tenant = _tenant()
        faults = rules.faults(columns_of(events), events)
        if faults:
            refused = {fault.row for fault in faults}
            events = [event for row, event in enumerate(events) if row not in refused]
        if events:
            identify(events)
            async with self._store.transaction() as conn:
                await self._bus.publish(conn, _messages(events, tenant))
        return faults

    async def _write(self, conn: asyncpg.Connection, group: Sequence[_Reported]) -> list[_Verdict]:
        contents = self._processed([one.event_id for one in group])
        fresh = {one.event_id: one.content for one in reversed(group) if one.event_id not in contents}
        if fresh:
            contents |= await self._store.save_reports(conn, list(fresh), list(fresh.values()))
        verdicts, new = [], []
        for one in group:
            before = contents.setdefault(one.event_id, one.content)
            if before is one.content and fresh.pop(one.event_id, None) is not None:
                verdicts.append(_Verdict.NEW)
                new.append(one.message)
            else:
                verdicts.append(_Verdict.DUPLICATE if before == one.content else _Verdict.CONFLICT)
        await self._count(conn, group, verdicts)
        if new:
            await self._bus.publish(conn, new)
        return verdicts

    async def _count(
        self, conn: asyncpg.Connection, group: Sequence[_Reported], verdicts: Sequence[_Verdict]
    ) -> None:
        by_tenant: dict[str, list[_Verdict]] = {}
        for one, verdict in zip(group, verdicts, strict=True):
            if verdict is not _Verdict.NEW:
                by_tenant.setdefault(tenant_of(one.event_id), []).append(verdict)
        if by_tenant:
            await self._store.lock_partition(conn, INTAKE)
            counts = {
                tenant: Counts(
                    duplicates=found.count(_Verdict.DUPLICATE), conflicts=found.count(_Verdict.CONFLICT)
                )
                for tenant, found in by_tenant.items()
            }
            await self._store.count(conn, INTAKE, uuid4(), counts)

    def _processed(self, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Contents of those that came through another door and were processed by this process."""
        ids = hash_ids(event_ids)
        found: dict[str, bytes] = {}
        for partition in self._partitions():
            known, contents = partition.seen.find(ids)
            for row in np.flatnonzero(known).tolist():
                found[event_ids[row]] = contents[row : row + 1].astype("<u8").tobytes()
        return found


def _tenant() -> str:
    """Whose fixes these are. Raises PermissionDenied if that is nobody in particular."""
    tenant = principal.current().tenant
    if tenant == principal.MESH_TENANT:
        raise PermissionDenied("a fix is reported for its tenant, not for all")
    return tenant


def _messages(events: Sequence[GpsEvent], tenant: str) -> list[Message]:
    # A fix that comes twice is two events, with names of their own: a bus that drops repeated names must not
    # hide from the consumer what it is to count. The fix's own id is in its value.
    batch = uuid4().hex
    headers = tenants.headers(tenant)
    return [
        Message(
            topic=FIXES,
            key=qualify(tenant, event.driver_id),
            value=event.SerializeToString(deterministic=True),
            event_id=f"{batch}-{row}",
            type=_FIX_TYPE,
            content_type=PROTOBUF,
            headers=headers,
        )
        for row, event in enumerate(events)
    ]
