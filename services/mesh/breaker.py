"""Circuit breaker of one target and method.

pybreaker holds the state, the counter and the listeners; this gate drives it, because pybreaker's own calls
do not know coroutines, count a cancelled call, let any number of probes through and read the wall clock.

Rules: opens on exactly the 5th consecutive failure; half-open after 60 s or as soon as the target's health
says SERVING again; then one probe. An outcome is a success (resets the count), a failure, or neutral (says
nothing about the target, changes nothing). What a call that began before the last change of state has to
say comes too late and changes nothing either.
"""

import asyncio
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pybreaker
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_AGENT_LIMIT,
    ERROR_REASON_BREAKER_OPEN,
    ERROR_REASON_BUDGET_EXHAUSTED,
    ERROR_REASON_INTERNAL_FAULT,
    ERROR_REASON_MESSAGE_TOO_LARGE,
    ERROR_REASON_NOT_READ_YET,
    ERROR_REASON_OVERLOADED,
)

from services.mesh import errors
from services.mesh.deadline import Clock
from services.mesh.retry import refused_unread


class State(enum.IntEnum):
    """The value is what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Outcome(enum.Enum):
    """What the end of a call says about its target."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`failures` in a row open it for `open_s`; `usual_s`: a usual budget before any answer came."""

    failures: int = 5
    open_s: float = 60.0
    usual_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; hand it back with `settle`."""

    generation: int
    probe: bool


Listener = Callable[["Breaker", State, State], None]

_STATE_OF: Final = {
    pybreaker.STATE_CLOSED: State.CLOSED,
    pybreaker.STATE_HALF_OPEN: State.HALF_OPEN,
    pybreaker.STATE_OPEN: State.OPEN,
}
# Codes that say that the target is not well; all others are the caller's doing.
_FAILURES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# Whatever their code, these are about what the caller named or sent: others are answered meanwhile.
_OF_THIS_CALL: Final = frozenset({ERROR_REASON_MESSAGE_TOO_LARGE, ERROR_REASON_NOT_READ_YET})
# Limits of a key, an agent or a tenant, and a turn that did not come while the caller would wait: nobody
# closes a method to the others by these. A handler says so; a server that is full refuses before any.
_OF_THIS_CALLER: Final = frozenset(
    {ERROR_REASON_AGENT_LIMIT, ERROR_REASON_BUDGET_EXHAUSTED, ERROR_REASON_OVERLOADED}
)
# Least allowance for the scatter of a method's time, in seconds.
_GRANULARITY_S: Final = 0.010


def outcome_of(error: BaseException | None, budget_s: float | None, usual_s: float) -> Outcome:
    """Judges a call by its error and by the budget it was granted: None without a limit, 0 if never sent."""
    if error is None:
        return Outcome.SUCCESS
    if isinstance(error, asyncio.CancelledError) or not isinstance(error, errors.MeshError):
        return Outcome.NEUTRAL
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        # Callers who grant less than a method needs must not close it to everyone.
        return Outcome.FAILURE if budget_s is None or budget_s >= usual_s else Outcome.NEUTRAL
    if error.reason in _OF_THIS_CALL or refused_unread(error):
        return Outcome.NEUTRAL
    if error.from_peer and error.reason in _OF_THIS_CALLER:
        return Outcome.NEUTRAL
    if error.reason == ERROR_REASON_INTERNAL_FAULT and not error.from_peer:  # our own: nothing was sent
        return Outcome.NEUTRAL
    return Outcome.FAILURE if error.code in _FAILURES else Outcome.NEUTRAL


class UsualBudget:
    """What a method is usually given, learned from calls that succeeded.

    The lesser of two figures. One is the time within which nearly all calls answer: smoothed time plus four
    smoothed deviations, as TCP estimates its timeout (RFC 6298: gains 1/8 and 1/4, and a granularity for
    what the event loop adds). The other is the
    smoothed budget of those calls; it matters when a target has slowed down until the first exceeds what
    anybody grants. Calls that ran out of time teach nothing, so impatient callers cannot lower either.
    """

    __slots__ = ("_budget_s", "_deviation_s", "_initial_s", "_time_s")

    def __init__(self, initial_s: float) -> None:
        self._initial_s = initial_s
        self._time_s: float | None = None
        self._deviation_s = 0.0
        self._budget_s: float | None = None

    def observe(self, time_s: float, budget_s: float | None) -> None:
        """A call that succeeded after `time_s` of its `budget_s`."""
        if self._time_s is None:
            self._time_s = time_s
            self._deviation_s = time_s / 2
        else:
            self._deviation_s += (abs(time_s - self._time_s) - self._deviation_s) / 4
            self._time_s += (time_s - self._time_s) / 8
        if budget_s is not None:
            before = budget_s if self._budget_s is None else self._budget_s
            self._budget_s = before + (budget_s - before) / 8

    @property
    def seconds(self) -> float:
        """The usual budget."""
        if self._time_s is None:
            return self._initial_s
        needed_s = self._time_s + max(_GRANULARITY_S, 4 * self._deviation_s)
        return needed_s if self._budget_s is None else min(needed_s, self._budget_s)


class Breaker:
    """One breaker; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        target: str,
        method: str,
        policy: BreakerPolicy | None = None,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self.target = target
        self.method = method
        self.policy = policy or BreakerPolicy()
        self.usual = UsualBudget(self.policy.usual_s)
        # Whether the failure that opened it came from the transport: then nobody has seen the target alive.
        self.unreachable = False
        self._clock = clock
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=self.policy.failures,
            reset_timeout=self.policy.open_s,
            state_storage=self._storage,
            name=f"{target} {method}",
        )
        self._circuit.add_listener(_Forward(self))
        self._listeners: list[Listener] = []
        self._opened_at = 0.0
        self._probing = False
        # Counts changes of state, so that late outcomes are known.
        self._generation = 0
        # All calls of a closed breaker share one permit; None while it is not closed.
        self._open_door: Permit | None = Permit(0, False)

    @property
    def state(self) -> State:
        """The state as of the last call or report; an open breaker becomes half-open when somebody asks."""
        return _STATE_OF[self._circuit.current_state]

    @property
    def failures(self) -> int:
        """Consecutive failures so far."""
        return int(self._circuit.fail_counter)

    def on_change(self, listener: Listener) -> None:
        """`listener(breaker, old, new)` after every change of state."""
        self._listeners.append(listener)

    def admit(self) -> Permit:
        """Leave for one call. Raises Unavailable (BREAKER_OPEN) with the time until the next chance."""
        if self._open_door is not None:
            return self._open_door
        if self.state is State.OPEN:
            # In this order, so that rounding never tells more than open_s.
            left_s = self.policy.open_s - (self._clock() - self._opened_at)
            if left_s > 0:
                raise self._refusal(left_s)
            self._circuit.half_open()
        if self._probing:
            raise self._refusal(errors.DEFAULT_RETRY_AFTER_S)
        self._probing = True
        return Permit(self._generation, True)

    def settle(
        self,
        permit: Permit,
        error: BaseException | None,
        budget_s: float | None = None,
        took_s: float = 0.0,
    ) -> Outcome:
        """Takes in how a call ended that was granted `budget_s`; returns how that was judged."""
        if error is None:
            self.usual.observe(took_s, budget_s)
            if permit is self._open_door and not self._storage.counter:
                return Outcome.SUCCESS
        outcome = outcome_of(error, budget_s, self.usual.seconds)
        if permit.generation != self._generation:
            return outcome
        if permit.probe:
            self._probing = False
            if outcome is Outcome.SUCCESS:
                self._circuit.close()
            elif outcome is Outcome.FAILURE:
                self._open(error)
        elif outcome is Outcome.SUCCESS:
            self._storage.reset_counter()
        elif outcome is Outcome.FAILURE:
            self._storage.increment_counter()
            if self._storage.counter >= self.policy.failures:
                self._open(error)
        return outcome

    def serving_again(self) -> None:
        """The target's health says SERVING after it did not: an open breaker lets a probe through now."""
        if self.state is State.OPEN:
            self._circuit.half_open()

    def _open(self, error: BaseException | None) -> None:
        self._opened_at = self._clock()
        self.unreachable = (
            isinstance(error, errors.MeshError)
            and error.code is grpc.StatusCode.UNAVAILABLE
            and not error.from_peer
        )
        self._circuit.open()

    def _refusal(self, retry_after_s: float) -> errors.Unavailable:
        return errors.Unavailable(
            f"{self.target} has failed too often and is left alone for a while",
            reason=ERROR_REASON_BREAKER_OPEN,
            metadata={"target": self.target, "method": self.method},
            retry_after_s=retry_after_s,
        )

    def _changed(self, old: State, new: State) -> None:
        self._generation += 1
        self._probing = False
        self._open_door = Permit(self._generation, False) if new is State.CLOSED else None
        for listener in self._listeners:
            listener(self, old, new)


class _Forward(pybreaker.CircuitBreakerListener):
    """Hands pybreaker's changes of state on to the gate."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        if old_state is not None and old_state.name != new_state.name:
            self._breaker._changed(_STATE_OF[old_state.name], _STATE_OF[new_state.name])
