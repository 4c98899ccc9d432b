"""The rules of the breaker, one by one and as a state machine against a plain model."""

import asyncio
from dataclasses import dataclass

import grpc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_AGENT_LIMIT,
    ERROR_REASON_BREAKER_OPEN,
    ERROR_REASON_BUDGET_EXHAUSTED,
    ERROR_REASON_MESSAGE_TOO_LARGE,
    ERROR_REASON_NOT_READ_YET,
    ERROR_REASON_OVERLOADED,
)

from services.mesh import errors
from services.mesh.breaker import Breaker, BreakerPolicy, Outcome, Permit, State, UsualBudget, outcome_of
from tests.examples import examples

UNAVAILABLE = errors.Unavailable("down")
INVALID = errors.InvalidArgument("bad")


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None) -> Breaker:
    return Breaker("eta", "/waymesh.eta.v1.EtaService/PredictEta", clock=clock or Clock())


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.settle(breaker.admit(), UNAVAILABLE)


def test_opens_on_exactly_the_fifth_failure_in_a_row():
    breaker = make()
    fail(breaker, 4)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN


def test_a_success_resets_the_count():
    breaker = make()
    fail(breaker, 4)
    breaker.settle(breaker.admit(), None)
    fail(breaker, 4)
    assert breaker.state is State.CLOSED


def test_a_neutral_outcome_neither_counts_nor_resets():
    breaker = make()
    fail(breaker, 4)
    breaker.settle(breaker.admit(), INVALID)
    breaker.settle(breaker.admit(), asyncio.CancelledError())
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN


def test_a_fault_of_our_own_is_none_of_the_target():
    assert outcome_of(errors.internal(), None, 1.0) is Outcome.NEUTRAL
    told = errors.from_status(errors.to_status(errors.internal()))
    assert outcome_of(told, None, 1.0) is Outcome.FAILURE


def test_an_open_breaker_refuses_with_the_time_that_is_left():
    clock = Clock()
    breaker = make(clock)
    fail(breaker, 5)
    clock.now += 45
    with pytest.raises(errors.Unavailable) as refused:
        breaker.admit()
    assert refused.value.reason == ERROR_REASON_BREAKER_OPEN
    assert refused.value.retry_after_s == pytest.approx(15)
    assert refused.value.metadata == {"target": "eta", "method": "/waymesh.eta.v1.EtaService/PredictEta"}


def test_lets_one_probe_through_after_a_minute():
    clock = Clock()
    breaker = make(clock)
    fail(breaker, 5)
    clock.now += 60
    probe = breaker.admit()
    assert probe.probe
    for _ in range(20):
        with pytest.raises(errors.Unavailable):
            breaker.admit()
    breaker.settle(probe, None)
    assert breaker.state is State.CLOSED
    assert not breaker.admit().probe


def test_a_failed_probe_opens_it_for_another_minute():
    clock = Clock()
    breaker = make(clock)
    fail(breaker, 5)
    clock.now += 60
    breaker.settle(breaker.admit(), UNAVAILABLE)
    assert breaker.state is State.OPEN
    clock.now += 59.9
    with pytest.raises(errors.Unavailable):
        breaker.admit()
    clock.now += 0.1
    assert breaker.admit().probe


def test_a_neutral_probe_makes_room_for_the_next():
    clock = Clock()
    breaker = make(clock)
    fail(breaker, 5)
    clock.now += 60
    breaker.settle(breaker.admit(), asyncio.CancelledError())
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit().probe


def test_a_target_that_serves_again_is_probed_at_once():
    breaker = make()
    fail(breaker, 5)
    breaker.serving_again()
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit().probe


def test_serving_again_says_nothing_to_a_breaker_that_is_not_open():
    breaker = make()
    breaker.serving_again()
    assert breaker.state is State.CLOSED


def test_outcomes_of_calls_from_before_the_change_come_too_late():
    clock = Clock()
    breaker = make(clock)
    slow_failure, slow_success = breaker.admit(), breaker.admit()
    fail(breaker, 5)
    breaker.settle(slow_success, None)
    assert breaker.state is State.OPEN
    clock.now += 60
    probe = breaker.admit()
    breaker.settle(slow_failure, UNAVAILABLE)
    assert breaker.state is State.HALF_OPEN
    breaker.settle(probe, None)
    assert breaker.failures == 0


def test_listeners_hear_every_change_once():
    clock = Clock()
    breaker = make(clock)
    heard: list[tuple[State, State]] = []
    breaker.on_change(lambda _, old, new: heard.append((old, new)))
    fail(breaker, 5)
    clock.now += 60
    breaker.settle(breaker.admit(), None)
    assert heard == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_which_codes_count(code: grpc.StatusCode):
    if code is grpc.StatusCode.OK:
        assert outcome_of(None, 1.0, 1.0) is Outcome.SUCCESS
        return
    counted = {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    expected = Outcome.FAILURE if code in counted else Outcome.NEUTRAL
    assert outcome_of(errors.error_class(code)("x"), 1.0, 1.0) is expected


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceExhausted("x", reason=ERROR_REASON_MESSAGE_TOO_LARGE),
        errors.Unavailable("x", reason=ERROR_REASON_NOT_READ_YET),
    ],
    ids=repr,
)
def test_what_one_call_asks_or_sends_says_nothing_about_the_target(error: errors.MeshError):
    assert outcome_of(error, 1.0, 1.0) is Outcome.NEUTRAL


@pytest.mark.parametrize(
    "told",
    [
        errors.ResourceExhausted("x", reason=ERROR_REASON_BUDGET_EXHAUSTED),
        errors.ResourceExhausted("x", reason=ERROR_REASON_AGENT_LIMIT),
        errors.ResourceExhausted("x", reason=ERROR_REASON_OVERLOADED, retry_after_s=1.0),
        errors.Unavailable("x", reason=ERROR_REASON_OVERLOADED, retry_after_s=1.0),
    ],
    ids=repr,
)
def test_whoever_reaches_a_limit_of_his_own_does_not_close_a_method_to_everyone(told: errors.MeshError):
    assert outcome_of(errors.from_status(errors.to_status(told)), 1.0, 1.0) is Outcome.NEUTRAL


def test_a_server_that_is_full_counts():
    full = errors.ResourceExhausted("x", reason=ERROR_REASON_OVERLOADED, retry_after_s=1.0)
    assert outcome_of(full, 1.0, 1.0) is Outcome.FAILURE


def test_five_impatient_callers_do_not_close_a_method_to_everyone():
    breaker = make()
    for _ in range(20):  # the method usually takes 20 ms of the 300 ms it is given
        breaker.settle(breaker.admit(), None, 0.300, took_s=0.020)
    for _ in range(5):
        breaker.settle(breaker.admit(), errors.DeadlineExceeded("x"), 0.001)
    assert breaker.state is State.CLOSED
    for _ in range(5):
        breaker.settle(breaker.admit(), errors.DeadlineExceeded("x"), 0.300)
    assert breaker.state is State.OPEN


def test_before_any_answer_only_a_generous_budget_counts():
    breaker = make()
    for _ in range(5):
        breaker.settle(breaker.admit(), errors.DeadlineExceeded("x"), 0.300)
    assert breaker.state is State.CLOSED
    for _ in range(5):
        breaker.settle(breaker.admit(), errors.DeadlineExceeded("x"), 10.0)
    assert breaker.state is State.OPEN


def test_a_method_that_slows_down_until_nobody_waits_long_enough_still_opens():
    usual = UsualBudget(1.0)
    for i in range(200):
        usual.observe(0.020 + i * 0.0014, 0.300)
    assert usual.seconds <= 0.300


@dataclass
class Model:
    """The rules of the breaker, told a second time as plainly as possible."""

    state: str = "closed"
    failures: int = 0
    opened_at: float = 0.0
    probing: bool = False
    epoch: int = 0

    def move(self, state: str, now: float) -> None:
        self.state = state
        self.epoch += 1
        self.failures = 0
        self.probing = False
        if state == "open":
            self.opened_at = now

    def admit(self, now: float) -> bool:
        if self.state == "open" and now >= self.opened_at + 60:
            self.move("half-open", now)
        if self.state == "closed":
            return True
        if self.state == "half-open" and not self.probing:
            self.probing = True
            return True
        return False

    def settle(self, epoch: int, outcome: str, now: float) -> None:
        if epoch != self.epoch:
            return
        if self.state == "half-open":
            self.probing = False
            if outcome == "success":
                self.move("closed", now)
            elif outcome == "failure":
                self.move("open", now)
        elif outcome == "success":
            self.failures = 0
        elif outcome == "failure":
            self.failures += 1
            if self.failures == 5:
                self.move("open", now)


OUTCOMES = {
    "success": [(None, 1.0), (None, None)],
    "failure": [
        (UNAVAILABLE, 1.0),
        (errors.Internal("x"), None),
        (errors.ResourceExhausted("x"), 1.0),
        (errors.DeadlineExceeded("x"), 10_000.0),
        (errors.DeadlineExceeded("x"), None),
    ],
    "neutral": [
        (INVALID, 1.0),
        (errors.NotFound("x"), 1.0),
        (asyncio.CancelledError(), 1.0),
        (errors.DeadlineExceeded("x"), 0.0),
    ],
}


class BreakerAgainstModel(RuleBasedStateMachine):
    """Calls overlap in any way: each permit is settled at any later moment, or never."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = make(self.clock)
        self.model = Model()

    @rule(target=permits, calls=st.integers(1, 8))
    def call(self, calls: int):
        given: list[tuple[Permit, int]] = []
        for _ in range(calls):
            allowed = self.model.admit(self.clock.now)
            if not allowed:
                with pytest.raises(errors.Unavailable) as refused:
                    self.breaker.admit()
                assert 0 < (refused.value.retry_after_s or 0) <= 60
                continue
            permit = self.breaker.admit()
            assert permit.probe == (self.model.state == "half-open")
            given.append((permit, self.model.epoch))
        return multiple(*given)

    @rule(
        permit=consumes(permits),
        end=st.sampled_from([(kind, end) for kind, ends in OUTCOMES.items() for end in ends]),
    )
    def settle(self, permit: tuple[Permit, int], end: tuple[str, tuple[BaseException | None, float | None]]):
        kind, (error, budget_s) = end
        leave, epoch = permit
        assert self.breaker.settle(leave, error, budget_s).value == kind
        self.model.settle(epoch, kind, self.clock.now)

    @rule(failures=st.integers(1, 6))
    def fail_in_a_row(self, failures: int):
        for _ in range(failures):
            if self.model.admit(self.clock.now):
                epoch = self.model.epoch
                self.breaker.settle(self.breaker.admit(), UNAVAILABLE)
                self.model.settle(epoch, "failure", self.clock.now)

    # Fractions that add up exactly: whether 60 s have passed is a matter of the clock, not of rounding.
    @rule(seconds=st.sampled_from([0.0625, 1.0, 30.0, 59.9375, 60.0, 200.0]))
    def wait(self, seconds: float):
        self.clock.now += seconds

    @rule()
    def health_says_serving_again(self):
        self.breaker.serving_again()
        if self.model.state == "open":
            self.model.move("half-open", self.clock.now)

    @invariant()
    def same_state(self):
        assert self.breaker.state.name.lower().replace("_", "-") == self.model.state
        if self.model.state == "closed":
            assert self.breaker.failures == self.model.failures


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = settings(max_examples=examples(300), stateful_step_count=50, deadline=None)


def test_policy_is_that_of_the_requirements():
    assert (BreakerPolicy().failures, BreakerPolicy().open_s) == (5, 60.0)
