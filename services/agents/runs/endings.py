"""How runs end: what their work comes to, and what is recorded of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_RUN_CANCELLED

from services.agents.budgets.account import Booking
from services.agents.runs import replay
from services.agents.runs.log import EventLog
from services.agents.runs.record import Ended, NewRun, RunEnd, error_bytes, interrupted
from services.mesh.errors import MeshError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run's work comes to. `response`: the answer of the task's RPC; `text`: what is shown of it.

    `streamed`: the text that was emitted is the text of this answer.
    """

    response: Message
    text: str
    output: Struct | None = None
    degradation: Degradation | None = None
    streamed: bool = False


class Account(Protocol):
    """What a run spends; its end is told here and books what has not been booked."""

    def close(self) -> Sequence[Booking]:
        """What was spent and is not in the store yet; nothing more is spent after it."""


class Done(Protocol):
    """What a run's work has done so far."""

    @property
    def new(self) -> NewRun:
        """The run."""

    process_id: UUID
    steps: list[pb.RunStep]
    usage: pb.Usage
    account: Account | None
    log: EventLog


def bookings(done: Done) -> Sequence[Booking]:
    """What was spent and is to be booked; nothing keeps a run from its end."""
    try:
        return () if done.account is None else tuple(done.account.close())
    except Exception:
        _log.exception("what run %s spent is not booked", done.new.run_id)
        return ()


def ended(
    done: Done,
    answer: Answer | None,
    failure: BaseException | None,
    now: datetime,
    booked: Sequence[Booking] = (),
) -> Ended:
    """What is recorded: the answer, or else the failure; and in each case what was done and spent."""
    error = None
    status: pb.RunStatus.ValueType = pb.RUN_STATUS_SUCCEEDED
    if answer is None:
        failure = interrupted(done.new.run_id) if failure is None else failure
        status, error = _status(failure), error_bytes(failure)
    return Ended(
        run_id=done.new.run_id,
        tenant=done.new.tenant,
        process_id=done.process_id,
        status=status,
        ended_at=now,
        answer="" if answer is None else answer.text,
        output=None if answer is None else _bytes(answer.output),
        response=None if answer is None else _bytes(answer.response),
        error=error,
        degradation=None if answer is None else _bytes(answer.degradation),
        usage=done.usage.SerializeToString(),
        steps=done.steps,
        told=replay.pack_told(done.log.told),
        bookings=booked,
    )


def without_content(done: Done, error: BaseException, now: datetime, booked: Sequence[Booking]) -> Ended:
    """The end of a run whose content cannot be kept."""
    return Ended(
        run_id=done.new.run_id,
        tenant=done.new.tenant,
        process_id=done.process_id,
        status=pb.RUN_STATUS_FAILED,
        ended_at=now,
        error=error_bytes(error),
        bookings=booked,
    )


def of_error(error: BaseException) -> RunEnd:
    """The end of a run that has no answer."""
    return RunEnd(_status(error), None, error_bytes(error))


def _status(failure: BaseException) -> pb.RunStatus.ValueType:
    if isinstance(failure, MeshError) and failure.reason == ERROR_REASON_RUN_CANCELLED:
        return pb.RUN_STATUS_CANCELLED
    return pb.RUN_STATUS_FAILED


def _bytes(message: Message | None) -> bytes | None:
    return None if message is None else message.SerializeToString()
