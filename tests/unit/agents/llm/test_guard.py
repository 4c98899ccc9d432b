"""Who is kept from a model when calls to it fail."""

import pytest

from services.agents.llm.guard import Guard
from services.agents.llm.kinds import CallError, ErrorKind
from services.mesh.breaker import Breaker, BreakerPolicy, State
from services.mesh.errors import Unavailable

POLICY = BreakerPolicy(usual_s=1.0)


def breaker() -> Breaker:
    return Breaker("model", "chat", POLICY, clock=lambda: 0.0)


def fail(guard: Guard, kind: ErrorKind, times: int = 5) -> None:
    for _ in range(times):
        guard.settle(guard.admit(), CallError(kind), 10.0, 10.0)


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.MALFORMED])
def test_what_prompts_can_bring_about_keeps_their_tenant_alone_away(kind: ErrorKind) -> None:
    shared = breaker()
    theirs, others = Guard(shared, breaker()), Guard(shared, breaker())

    fail(theirs, kind)

    assert theirs.is_open
    assert not others.is_open
    others.admit()
    with pytest.raises(Unavailable):
        theirs.admit()


@pytest.mark.parametrize("kind", [ErrorKind.CONNECTION, ErrorKind.SERVER_ERROR, ErrorKind.RATE_LIMITED])
def test_what_a_server_does_to_everybody_keeps_everybody_away(kind: ErrorKind) -> None:
    shared = breaker()
    fail(Guard(shared, breaker()), kind)

    assert Guard(shared, breaker()).is_open
    assert Guard(shared).is_open


def test_the_operators_own_prompts_count_for_all() -> None:
    shared = breaker()
    fail(Guard(shared), ErrorKind.TIMEOUT)

    assert shared.state is State.OPEN


def test_a_refusal_takes_no_probe_away() -> None:
    now = [0.0]
    shared, own = breaker(), Breaker("model", "chat", POLICY, clock=lambda: now[0])
    fail(Guard(breaker(), own), ErrorKind.TIMEOUT)
    fail(Guard(shared), ErrorKind.CONNECTION)
    now[0] = 100.0  # the tenant's may be tried again, the shared one not yet
    both = Guard(shared, own)

    for _ in range(2):
        with pytest.raises(Unavailable):
            both.admit()
    Guard(breaker(), own).admit()
