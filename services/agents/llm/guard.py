"""Whether a model may be asked, and who is kept from it when calls fail.

How a server fails everybody is one thing, and counts for everybody: refused connections, errors of its own,
rate limits. That an answer takes too long or is none may as well be what it was asked: a tenant's own prompts
must not close a model to others, so with them that counts against the tenant alone.
"""

from dataclasses import dataclass
from typing import Final

from services.agents.llm.kinds import CallError, ErrorKind
from services.mesh import errors
from services.mesh.breaker import Breaker, Permit, State

# What a prompt can bring about by itself.
_BY_PROMPTS: Final = frozenset({ErrorKind.TIMEOUT, ErrorKind.MALFORMED})
_NEUTRAL: Final = errors.FailedPrecondition("counts for its tenant")
_NOT_ASKED: Final = errors.Cancelled("was not asked")


@dataclass(frozen=True, slots=True)
class Leave:
    """To make one call; hand it back with `settle`."""

    shared: Permit
    own: Permit | None


@dataclass(frozen=True, slots=True)
class Guard:
    """Of one model, for one tenant. `own`: the tenant's; None for the operator's, who is trusted."""

    shared: Breaker
    own: Breaker | None = None

    @property
    def is_open(self) -> bool:
        """Whether the model is left alone."""
        return self.shared.state is State.OPEN or (self.own is not None and self.own.state is State.OPEN)

    def admit(self) -> Leave:
        """Leave for one call. Raises Unavailable (BREAKER_OPEN)."""
        own = None if self.own is None else self.own.admit()
        try:
            return Leave(self.shared.admit(), own)
        except errors.Unavailable:
            if self.own is not None and own is not None:
                self.own.settle(own, _NOT_ASKED)
            raise

    def settle(
        self, leave: Leave, error: BaseException | None, budget_s: float | None = None, took_s: float = 0.0
    ) -> None:
        """Takes in how a call ended that was granted `budget_s`."""
        judged = error.for_breaker() if isinstance(error, CallError) else error
        if self.own is not None and leave.own is not None:
            self.own.settle(leave.own, judged, budget_s, took_s)
            if isinstance(error, CallError) and error.kind in _BY_PROMPTS:
                judged = _NEUTRAL
        self.shared.settle(leave.shared, judged, budget_s, took_s)
