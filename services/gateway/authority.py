"""Whether who asks may do it. What operators alone may do is kept in the audit log before it is done."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.message import Message

from services.gateway import audit, faults
from services.gateway.audit import Entry
from services.gateway.keys import Client
from services.gateway.store import KeyStore
from services.mesh.errors import MeshError
from services.mesh.principal import ADMIN, Principal, current, set_current

_log = logging.getLogger(__name__)

# Who is refused the same again within this time is told of in one entry, in seconds.
_AGAIN_S: Final = 60.0
_SUBJECT_ENDS: Final = ("_id", "_key", "_ids", "_keys")


@dataclass(slots=True)
class _Refusals:
    """What was refused since the last entry that told of it."""

    entry: Entry
    times: int = 0


class Authority:
    """Raises PermissionDenied for what a key has no scope for.

    `store` gives where the log is kept, None while it is not there; `needed` says whether it has to be.
    """

    def __init__(self, store: Callable[[], KeyStore | None], *, needed: bool) -> None:
        self._store = store
        self._needed = needed
        self._refusals: dict[tuple[str, str], _Refusals] = {}

    async def permit(self, client: Client | None, name: str, *, admin: bool, request_id: str) -> None:
        """For whoever holds a key, or for a runtime, which may do what `*` means."""
        if (client.scopes.allows(name, admin=admin)) if client is not None else not admin:
            return
        if admin:
            await self._refused(_entry(client, name, audit.REFUSED, request_id))
        raise faults.scope_missing(name, ADMIN if admin else name)

    async def begin(self, client: Client, name: str, subject: str, request_id: str) -> None:
        """A permitted call for operators is about to be made: from now on it is made with that right.

        Raises Unavailable if that cannot be kept: what nobody could be asked about later is not done.
        """
        entry = replace(_entry(client, name, audit.ALLOWED, request_id), subject=subject)
        audit.tell(entry)
        store = self._store()
        if store is not None:
            await store.note(entry)
        elif self._needed:
            raise faults.unrecorded()
        set_current(client.operator)

    async def run(self) -> None:
        """Background task: keeps how often the same was refused."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            await self.flush()

    async def flush(self) -> None:
        """Keeps what was refused and is not kept yet."""
        refusals, self._refusals = self._refusals, {}
        for (key, name), each in refusals.items():
            if each.times and not await self._kept(replace(each.entry, times=each.times)):
                self._refusals.setdefault((key, name), _Refusals(each.entry)).times += each.times

    async def _refused(self, entry: Entry) -> None:
        known = self._refusals.get((entry.key_id, entry.action))
        if known is not None:
            known.times += 1
            return
        self._refusals[entry.key_id, entry.action] = refusals = _Refusals(entry)
        audit.tell(entry)
        if not await self._kept(entry):
            refusals.times += 1

    async def _kept(self, entry: Entry) -> bool:
        store = self._store()
        if store is None:
            return not self._needed
        try:
            await store.note(entry)
        except MeshError as error:
            _log.warning("the audit log is away: %s", error)
            return False
        return True


def subject_of(request: Message) -> str:
    """What a request is about, by the ids that it names."""
    found = []
    for field in request.DESCRIPTOR.fields:
        if field.name.endswith(_SUBJECT_ENDS):
            value: Any = getattr(request, field.name)
            found += [str(each) for each in value] if field.is_repeated else [str(value)]
    return ", ".join(each for each in found if each)


def _entry(client: Client | None, name: str, outcome: str, request_id: str) -> Entry:
    whom: Principal = current() if client is None else client.principal
    return Entry(
        action=name,
        caller=whom.name or "runtime",
        outcome=outcome,
        tenant=whom.tenant,
        key_id=whom.key,
        request_id=request_id,
    )
