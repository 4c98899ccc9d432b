"""Runs as values: what is accepted, how it ended, and what is kept of both."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_CONFLICTING_CONTENT,
    ERROR_REASON_RUN_CANCELLED,
    ERROR_REASON_RUN_INTERRUPTED,
    ERROR_REASON_RUN_UNKNOWN,
)

from services.agents.budgets.account import Booking
from services.mesh.errors import Aborted, AlreadyExists, Cancelled, NotFound, from_status, to_status

M = TypeVar("M", bound=Message)

RUNNING: Final = pb.RUN_STATUS_RUNNING


@lru_cache(maxsize=1024)
def key_of(tenant: str, run_id: str) -> UUID:
    """What a run is stored by. Who knows it cannot tell the tenant's other runs from it."""
    digest = hashlib.blake2b(digest_size=16, person=b"waymesh.run")
    digest.update(f"{len(tenant)}:{tenant}{run_id}".encode())
    return UUID(bytes=digest.digest())


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is about to begin. `input` is a redacted Struct; `request_hash` tells other content apart.

    `own_id`: the run_id was made for this run and nobody else can have used it.
    """

    run_id: str
    tenant: str
    key: str
    agent_id: str
    agent_name: str
    agent_version: int
    task: str
    input: bytes
    request_hash: bytes
    workflow_id: str
    created_at: datetime
    own_id: bool = False

    @property
    def id(self) -> UUID:
        """What it is stored by."""
        return key_of(self.tenant, self.run_id)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended and what it did. Messages are serialized; `told` is the order of its tools' events."""

    run_id: str
    tenant: str
    process_id: UUID
    status: pb.RunStatus.ValueType
    ended_at: datetime
    answer: str = ""
    output: bytes | None = None
    response: bytes | None = None
    error: bytes | None = None
    degradation: bytes | None = None
    usage: bytes = b""
    steps: Sequence[pb.RunStep] = ()
    told: bytes = b""
    bookings: Sequence[Booking] = ()

    @property
    def id(self) -> UUID:
        """What it is stored by."""
        return key_of(self.tenant, self.run_id)


@dataclass(frozen=True, slots=True)
class Accepted:
    """`fresh`: the run is new and its process's. Else it was there with the same request: `status` says how
    far it is.
    """

    fresh: bool
    status: pb.RunStatus.ValueType = RUNNING


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, as whoever waits for it is told."""

    status: pb.RunStatus.ValueType
    response: bytes | None
    error: bytes | None

    def answer(self, cls: type[M]) -> M:
        """The answer, the same each time. Raises the error with which the run ended, if it has none."""
        if self.response is None:
            raise from_status(status_pb2.Status.FromString(self.error or b""))
        return cls.FromString(self.response)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it is kept. `run` has its steps if they were asked for."""

    id: UUID
    tenant: str
    run: pb.Run
    response: bytes | None
    told: bytes

    @property
    def end(self) -> RunEnd | None:
        """How it ended; None while it is under way."""
        if self.run.status == RUNNING:
            return None
        error = self.run.error.SerializeToString() if self.run.HasField("error") else None
        return RunEnd(self.run.status, self.response, error)


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a page of runs, newest first."""

    at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are wanted; empty: all of the tenant's. `agent`: an identity, or a name at that time."""

    agent: str = ""
    statuses: Sequence[pb.RunStatus.ValueType] = ()
    start: datetime | None = None
    end: datetime | None = None


def unknown(run_id: str) -> NotFound:
    """The error for a run that is not there, or is another tenant's."""
    asked = run_id[:128]
    return NotFound(f"run {asked} is not known", reason=ERROR_REASON_RUN_UNKNOWN, metadata={"run_id": asked})


def unknown_cursor() -> NotFound:
    """The same for the run of a cursor, which holds no run's identity."""
    return NotFound("the run of this cursor is not known", reason=ERROR_REASON_RUN_UNKNOWN)


def conflict(run_id: str) -> AlreadyExists:
    """The error for a run_id that came before with other content."""
    return AlreadyExists(
        "a run with this run_id was asked for something else",
        reason=ERROR_REASON_CONFLICTING_CONTENT,
        metadata={"id": run_id},
    )


def cancelled(run_id: str) -> Cancelled:
    """The error of a run that its caller ended."""
    return Cancelled("the run was cancelled", reason=ERROR_REASON_RUN_CANCELLED, metadata={"run_id": run_id})


def interrupted(run_id: str) -> Aborted:
    """The error of a run whose process ended, or was away for so long that it counts as ended."""
    return Aborted(
        "the process that had the run ended before the run did; ask again under another run_id",
        reason=ERROR_REASON_RUN_INTERRUPTED,
        metadata={"run_id": run_id},
    )


def error_bytes(error: BaseException) -> bytes:
    """An error as it is kept with a run; nothing of the text of a foreign exception."""
    return bytes(to_status(error).SerializeToString())
