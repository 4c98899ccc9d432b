"""Keeps the keys a process knows in step with the store, whether PostgreSQL is there or not."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from services.gateway import audit, faults, scopes
from services.gateway.audit import Entry
from services.gateway.keys import FIRST_KEY_NAME, ApiKey, Client, KeyRing, Snapshot, digest_of
from services.gateway.store import KeyStore
from services.mesh.errors import MeshError

_log = logging.getLogger(__name__)

# A revoked key is refused at most this much later, in seconds.
_POLL_S: Final = 0.25
# Looks at the store because of unknown keys come no closer than this, however many are tried, in seconds.
_LOOK_PAUSE_S: Final = 0.05


class KeySync:
    """Fills a KeyRing: from the environment and the snapshot at once, from the store once it is there.

    `open_store` waits for PostgreSQL; None if there is no database: only the environment's key counts then.
    """

    def __init__(
        self, ring: KeyRing, snapshot: Snapshot, open_store: Callable[[], Awaitable[KeyStore]] | None
    ) -> None:
        self._ring = ring
        self._snapshot = snapshot
        self._open_store = open_store
        self._store: KeyStore | None = None
        self._first: ApiKey | None = None
        self._version: int | None = None
        # As the store told of them last, by id.
        self._known: dict[str, ApiKey] | None = None
        self._look: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self.loaded = asyncio.Event()
        self.failure: str | None = None

    def begin(self, first_key: str | None) -> None:
        """What is known without a store."""
        self._ring.replace(self._snapshot.load())
        if first_key is not None:
            self._first = ApiKey(digest_of(first_key.encode()), FIRST_KEY_NAME, scopes=scopes.FIRST)
            self._ring.give(self._first)
        if self._open_store is None or len(self._ring):
            self.loaded.set()

    async def run(self) -> None:
        """Background task: opens the store, then follows its changes."""
        if self._open_store is None:
            return
        if self._store is None:  # else this begins anew after a failure
            store = await self._open_store()
            if self._first is not None:
                await store.add(
                    self._first,
                    Entry("keys add", "gateway", _subject(self._first), detail="from the environment"),
                )
            self._store = store
        while True:
            try:
                await self._refresh()
            except MeshError as error:
                self._failed(error)
            await asyncio.sleep(_POLL_S)

    @property
    def store(self) -> KeyStore | None:
        """Where keys are kept and what was done is; None while it is not open."""
        return self._store

    async def find(self, key: bytes) -> Client | None:
        """Who holds the key. One that is not known is looked up before it is refused, so that a key that has
        just been added works at once.
        """
        client = self._ring.find(key)
        if client is not None or self._open_store is None:
            return client
        if self._store is None:
            if not self.loaded.is_set():  # nobody can be told from a stranger yet
                raise faults.starting()
            return None
        await self._look_again()
        return self._ring.find(key)

    async def _look_again(self) -> None:
        """A look at the store that begins after this call; all who wait share it."""
        asked_at = time.monotonic()
        while self._looked_at < asked_at:
            if self._look is None:
                self._look = asyncio.create_task(self._paced_look())
            await asyncio.shield(self._look)

    async def _paced_look(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._looked_at + _LOOK_PAUSE_S - time.monotonic()))
            self._looked_at = time.monotonic()
            await self._refresh()
        except MeshError as error:
            self._failed(error)
        finally:
            self._look = None

    async def _refresh(self) -> None:
        assert self._store is not None
        version = await self._store.version()
        if version != self._version:
            keys = await self._store.all()
            self._ring.replace(keys)
            self._tell(keys)
            self._version = version
            try:
                await asyncio.to_thread(self._snapshot.save, keys)
            except OSError as error:
                _log.warning("the API keys cannot be saved for a start without a store: %s", error.strerror)
        if self.failure is not None:
            self.failure = None
            _log.info("the store of API keys answers again")
        self.loaded.set()

    def _tell(self, keys: list[ApiKey]) -> None:
        """One line for each change that counts here from now on. What was there at the start is none."""
        known, self._known = self._known, {key.key_id: key for key in keys}
        if known is None:
            return
        for key in keys:
            old = known.get(key.key_id)
            if old == key:
                continue
            done = "revoked" if key.revoked_at is not None else "added" if old is None else "changed"
            detail = f"scopes {', '.join(key.scopes)}"
            if key.expires_at is not None:
                detail += f"; ends {key.expires_at.isoformat()}"
            audit.tell(Entry(f"key {done}", "gateway", _subject(key), detail=detail, tenant=key.tenant))

    def _failed(self, error: MeshError) -> None:
        if self.failure is None:
            _log.warning("the store of API keys is away; known keys stay valid: %s", error)
        self.failure = type(error).__name__


def _subject(key: ApiKey) -> str:
    return f"{key.key_id} ({key.name})"
