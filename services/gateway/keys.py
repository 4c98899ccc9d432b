"""API keys: what is kept of them, and which ones this process knows.

A key has 192 random bits, so its plain SHA-256 gives nothing away and costs a microsecond; a slow hash is for
passwords that people choose. Who sets FASTAPI_API_KEY to a word that can be guessed has a key that can be.
"""

import hashlib
import hmac
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from services.gateway import scopes
from services.gateway.limits import Rate, TokenBucket
from services.gateway.scopes import Scopes
from services.mesh.principal import DEFAULT_TENANT, Principal, is_tenant

_log = logging.getLogger(__name__)

_PREFIX: Final = "wm_"
_SECRET_BYTES: Final = 24
_SALT_BYTES: Final = 32
_PLACE_BYTES: Final = 16
FIRST_KEY_NAME: Final = "FASTAPI_API_KEY"


def new_key() -> str:
    """A key to hand out, once."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. `rate` None: the gateway's default. Who holds it acts for `tenant`, for good."""

    digest: bytes
    name: str
    rate: Rate | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    tenant: str = DEFAULT_TENANT
    scopes: tuple[str, ...] = scopes.DEFAULT
    # From then on it is refused.
    expires_at: datetime | None = None
    # Requests at a time; None: any number.
    under_way: int | None = None

    @property
    def key_id(self) -> str:
        """Twelve digits of the digest: enough to tell keys apart, too few to find one."""
        return self.digest.hex()[:12]


@dataclass(slots=True)
class Usage:
    """What a key has under way in this process."""

    under_way: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """Who holds a valid key, for whom and for what it acts, and how often it may still call.

    `operator` is who it acts as in a task for operators; everything else is done without that right.
    """

    key: ApiKey
    bucket: TokenBucket
    principal: Principal
    scopes: Scopes = field(default_factory=Scopes)
    usage: Usage = field(default_factory=Usage)
    expires_at: float = math.inf

    @property
    def operator(self) -> Principal:
        return replace(self.principal, admin=True)


class KeyRing:
    """The keys this process knows. Replaced as a whole, while requests go on.

    No comparison takes longer the more of a key is right. What is looked up is a hash under a secret of this
    process, so nobody can work towards a place in the table; what was found, or a stand-in, is compared in
    constant time.
    """

    def __init__(
        self, default: Rate, clock: Callable[[], float], now: Callable[[], float] = time.time
    ) -> None:
        self._default = default
        self._clock = clock
        self._now = now
        self._salt = secrets.token_bytes(_SALT_BYTES)
        self._stranger = secrets.token_bytes(len(digest_of(b"")))
        self._clients: dict[bytes, Client] = {}
        # The same by what they are looked up by.
        self._places: dict[bytes, Client] = {}
        self._revoked: frozenset[bytes] = frozenset()
        self._given: ApiKey | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, key: bytes) -> Client | None:
        """Who holds this key; None if it is not known, was revoked, or has expired."""
        digest = digest_of(key)
        client = self._places.get(self._place(digest))
        if not hmac.compare_digest(self._stranger if client is None else client.key.digest, digest):
            return None
        return client if client is not None and self._now() < client.expires_at else None

    def all(self) -> list[ApiKey]:
        """Those that were not revoked."""
        return [client.key for client in self._clients.values()]

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, digest_size=_PLACE_BYTES, key=self._salt).digest()

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
            clients[key.digest] = Client(
                key,
                bucket,
                Principal(key.tenant, key.key_id, key.name),
                Scopes(key.scopes),
                Usage() if old is None else old.usage,
                math.inf if key.expires_at is None else key.expires_at.timestamp(),
            )
        self._revoked = frozenset(revoked)
        self._clients = clients
        self._places = {self._place(digest): client for digest, client in clients.items()}


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
        "scopes": [*key.scopes],
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        "under_way": key.under_way,
    }


def _from_json(entry: dict[str, object]) -> ApiKey:
    rate, revoked_at = entry["rate"], entry["revoked_at"]
    tenant = entry.get("tenant", DEFAULT_TENANT)  # files of before keys had one
    if not is_tenant(tenant):
        raise ValueError
    # Files of before keys had these: such keys could do all that is not for operators.
    patterns, expires_at, under_way = (
        entry.get("scopes", scopes.DEFAULT),
        entry.get("expires_at"),
        entry.get("under_way"),
    )
    if not isinstance(patterns, list | tuple) or not all(scopes.is_pattern(str(each)) for each in patterns):
        raise ValueError
    return ApiKey(
        bytes.fromhex(str(entry["digest"])),
        str(entry["name"]),
        Rate(float(rate[0]), int(rate[1])) if isinstance(rate, list) else None,
        None,
        datetime.fromisoformat(revoked_at) if isinstance(revoked_at, str) else None,
        str(tenant),
        tuple(str(each) for each in patterns),
        datetime.fromisoformat(expires_at) if isinstance(expires_at, str) else None,
        int(str(under_way)) if under_way is not None else None,
    )
