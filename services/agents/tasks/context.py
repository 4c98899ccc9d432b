"""What a task has at hand while it runs."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.message import Message
from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.journal import Journal
from services.agents.ladder import Ladder, Words
from services.agents.loop import Brief, Setting
from services.agents.tools import Scope, Toolbox
from services.mesh import deadline
from services.mesh.errors import MeshError
from services.mesh.feedback.dispatcher import Dispatcher

if TYPE_CHECKING:  # known to the types alone
    from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceAsyncStub
    from waymesh.route.v1.route_service_pb2_grpc import RouteServiceAsyncStub

Reply = TypeVar("Reply", bound=Message)

# What the caller did wrong is the caller's to hear; all else is an engine that is not there for us.
_CALLERS_FAULT: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
# Kept back from an engine for an answer without it. In seconds.
_TELLING_S: Final = 0.5
NO_ENGINE: Final = "agents.no_engine"


@dataclass(frozen=True, slots=True)
class Peers:
    """The engines."""

    eta: "EtaServiceAsyncStub"
    route: "RouteServiceAsyncStub"


class EngineAway(Exception):  # noqa: N818 - it says what is the matter
    """An engine did not answer, by no fault of the caller's."""

    def __init__(self, degradation: Degradation) -> None:
        super().__init__(degradation.reason)
        self.degradation = degradation


@dataclass(frozen=True, slots=True)
class Context:
    """Of one run."""

    run_id: str
    workflow_id: str
    setting: Setting
    ladder: Ladder
    slot: Callable[[], AbstractContextManager[None]]
    peers: Peers
    toolbox: Toolbox
    dispatcher: Dispatcher

    @property
    def journal(self) -> Journal:
        """What the run does."""
        return self.setting.journal

    @property
    def scope(self) -> Scope:
        """What its tools may look at."""
        return self.setting.scope

    async def engine(self, name: str, call: Callable[[], Awaitable[Reply]]) -> Reply:
        """An engine's answer, written down. Raises the caller's own faults, and EngineAway for all others.

        It gets so much of the time that one that hangs can still be told of.
        """
        began = time.monotonic()
        try:
            with deadline.budget(_share()):
                reply = await call()
        except MeshError as error:
            self.journal.engine_failed(name, _ms(began), error)
            if error.code in _CALLERS_FAULT:
                raise
            owner = name.partition(".")[0]
            reason = f"{owner}: {error.reason_name or error.code.name}"
            raise EngineAway(Degradation(source=NO_ENGINE, reason=reason)) from error
        self.journal.engine_answered(name, _ms(began), reply)
        return reply

    async def words(self, brief: Brief, engine: Callable[[], Awaitable[str]], *, engine_s: float) -> Words:
        """An answer in words: see Ladder."""
        return await self.ladder.climb(brief, self.setting, engine, engine_s=engine_s, slot=self.slot)


def _share() -> float | None:
    """Seconds that an engine gets."""
    left_s = deadline.remaining()
    return None if left_s is None else max(left_s / 2, left_s - _TELLING_S)


def _ms(began: float) -> float:
    return (time.monotonic() - began) * 1000
