"""Deadline budgets: how much time the work at hand still has, carried along in a context variable.

gRPC gives a server the caller's deadline but does not pass it on to the calls that server makes. Here the
server's chain opens a budget around each handler and the client's chain grants every call at most what is
left of it, less a reserve in which the caller can still answer from a fallback.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_DEADLINE_PASSED

from services.mesh import errors

Clock = Callable[[], float]

# What a caller keeps back for its own answer, in seconds: a tenth of what is left, but at least what it takes
# to make a fallback and send it, and no more than a busy loop may be late.
RESERVE_S = 0.010
_MOST_RESERVE_S = 0.100

# When the budget at hand ends, and how long it was, in seconds.
Budget = tuple[float, float]
_deadline: ContextVar[Budget | None] = ContextVar("waymesh_deadline", default=None)


def remaining(clock: Clock = time.monotonic) -> float | None:
    """Seconds left of the budget at hand, negative once it has passed; None if there is no budget."""
    held = _deadline.get()
    return None if held is None else held[0] - clock()


def enter(seconds: float | None, clock: Clock = time.monotonic) -> Token[Budget | None]:
    """Opens a budget of `seconds` that never outlives the one around it; give the token to `leave`."""
    outer = _deadline.get()
    if seconds is None:
        return _deadline.set(outer)
    at = clock() + seconds
    return _deadline.set((at, seconds) if outer is None or at < outer[0] else outer)


def leave(token: Token[Budget | None]) -> None:
    """Closes the budget that `enter` opened."""
    _deadline.reset(token)


@contextmanager
def budget(seconds: float | None, clock: Clock = time.monotonic) -> Iterator[None]:
    """All calls within get at most `seconds` together; None leaves the budget as it is."""
    token = enter(seconds, clock)
    try:
        yield
    finally:
        leave(token)


def grant(own_s: float | None, *, of_s: float | None = None, clock: Clock = time.monotonic) -> float | None:
    """Seconds a call may take: min(own, remaining − reserve); None means without a limit.

    `of_s` is how long the caller's own limit was, of which `own_s` is left. Raises DeadlineExceeded, before
    anything is sent, if nothing is left.
    """
    held = _deadline.get()
    granted = own_s
    if held is not None:
        left_s = held[0] - clock()
        left_s -= min(_MOST_RESERVE_S, max(RESERVE_S, left_s / 10))
        if granted is None or left_s < granted:
            granted, of_s = left_s, held[1]
    if granted is None:
        return None
    granted = _as_sent(granted)
    if granted <= 0:
        raise passed(own_s if of_s is None else of_s)
    return granted


def _as_sent(seconds: float) -> float:
    """The longest time up to `seconds` that grpc does not make longer on the way.

    On the wire a timeout has three digits and is rounded up (10 s arrive as 10.1 s): a budget would grow
    from hop to hop. Two milliseconds, or one step of the third digit, are taken off besides, for the clock
    that core reads once per batch of work.
    """
    ms = seconds * 1000 - 2
    if ms < 1000:
        return ms // 1 / 1000
    step = 10
    while ms >= step * 1000:
        step *= 10
    return (ms // step - 1) * step / 1000


def passed(budget_s: float | None = None) -> errors.DeadlineExceeded:
    """The error of a budget that is used up: that of the work at hand, unless another is named."""
    if budget_s is None:
        held = _deadline.get()
        budget_s = None if held is None else held[1]
    metadata = {} if budget_s is None else {"budget_ms": errors.budget_ms(budget_s)}
    return errors.DeadlineExceeded(
        "the time for this call is used up", reason=ERROR_REASON_DEADLINE_PASSED, metadata=metadata
    )


def begin(at: float | None, seconds: float | None = None) -> None:
    """Sets the budget of a new piece of work to end at `at` (time.monotonic), whatever was around it.

    `seconds` is how long it is; without, that is what is left now.
    """
    if at is None:
        _deadline.set(None)
    else:
        _deadline.set((at, at - time.monotonic() if seconds is None else seconds))
