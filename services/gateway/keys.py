"""API keys: what is kept of them, and which ones this process knows.

A key has 192 random bits, so its plain SHA-256 gives nothing away and costs a microsecond; a slow hash is for
passwords that people choose. Who sets FASTAPI_API_KEY to a word that can be guessed has a key that can be.
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from services.gateway.limits import Rate, TokenBucket
from services.mesh.principal import DEFAULT_TENANT, Principal, is_tenant

_log = logging.getLogger(__name__)

_PREFIX: Final = "wm_"
_SECRET_BYTES: Final = 24
FIRST_KEY_NAME: Final = "FASTAPI_API_KEY"


def new_key() -> str:
    """A key to hand out, once."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. `rate` None: the gateway's default. Who holds it acts for `tenant`."""

    digest: bytes
    name: str
    rate: Rate | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    tenant: str = DEFAULT_TENANT

    @property
    def key_id(self) -> str:
        """Twelve digits of the digest: enough to tell keys apart, too few to find one."""
        return self.digest.hex()[:12]


@dataclass(frozen=True, slots=True)
class Client:
    """Who holds a valid key, for whom it acts, and how often it may still call."""

    key: ApiKey
    bucket: TokenBucket
    principal: Principal


class KeyRing:
    """The keys this process knows. Replaced as a whole, while requests go on."""

    def __init__(self, default: Rate, clock: Callable[[], float]) -> None:
        self._default = default
        self._clock = clock
        self._clients: dict[bytes, Client] = {}
        self._revoked: frozenset[bytes] = frozenset()
        self._given: ApiKey | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, key: bytes) -> Client | None:
        """Who holds this key; None if it is not known or was revoked."""
        return self._clients.get(digest_of(key))

    def give(self, key: ApiKey) -> None:
        """A key that is valid although no store has said so yet, unless one says that it was revoked."""
        self._given = key
        self.replace([*(client.key for client in self._clients.values())])

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """These keys, as a store tells them, and the given one. A key that stays keeps its bucket's fill."""
        keys = list(keys)
        revoked = {key.digest for key in keys if key.revoked_at is not None} or self._revoked
        clients: dict[bytes, Client] = {}
        for key in (self._given, *keys):
            if key is None or key.revoked_at is not None or key.digest in revoked:
                continue
            rate = key.rate or self._default
            old = self._clients.get(key.digest)
            bucket = (
                old.bucket if old is not None and old.bucket.rate == rate else TokenBucket(rate, self._clock)
            )
            clients[key.digest] = Client(key, bucket, Principal(key.tenant, key.key_id, key.name))
        self._revoked = frozenset(revoked)
        self._clients = clients


class Snapshot:
    """The keys as last seen in the store, as a file, for a start while PostgreSQL is away. Digests only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[ApiKey]:
        """What was saved last; nothing if there is none or it cannot be read."""
        try:
            saved = json.loads(self._path.read_text("utf-8"))
            return [_from_json(entry) for entry in saved]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the saved API keys cannot be read: %s", type(error).__name__)
            return []

    def save(self, keys: Iterable[ApiKey]) -> None:
        """Replaces the file as a whole, readable for its owner alone. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump([_to_json(key) for key in keys], file)
        fresh.replace(self._path)


def _to_json(key: ApiKey) -> dict[str, object]:
    return {
        "digest": key.digest.hex(),
        "name": key.name,
        "rate": None if key.rate is None else [key.rate.per_s, key.rate.burst],
        "tenant": key.tenant,
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }


def _from_json(entry: dict[str, object]) -> ApiKey:
    rate, revoked_at = entry["rate"], entry["revoked_at"]
    tenant = entry.get("tenant", DEFAULT_TENANT)  # files of before keys had one
    if not is_tenant(tenant):
        raise ValueError
    return ApiKey(
        bytes.fromhex(str(entry["digest"])),
        str(entry["name"]),
        Rate(float(rate[0]), int(rate[1])) if isinstance(rate, list) else None,
        None,
        datetime.fromisoformat(revoked_at) if isinstance(revoked_at, str) else None,
        str(tenant),
    )
