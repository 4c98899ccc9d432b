"""Whatever is heard in whatever order, an alert is open exactly while a plain model says so."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from waymesh.feedback.v1.outcome_pb2 import Severity

from services.feedback import alerts
from services.feedback.alert_rules import MetricRule, SignalRule
from services.feedback.alerts import Change, Condition, Heard, Step
from tests.examples import examples

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
WAITS = st.sampled_from([0, 3, 10])


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class Model:
    """An alert as one would keep it by hand: is it on, since when, and is it open."""

    for_s: int
    resolve_for_s: int
    on: bool | None = False
    changed: int = 0
    open: bool = False
    told: list[Change] = field(default_factory=list)

    def says(self, on: bool | None, now: int) -> None:
        # In between it neither begins nor ends, and whatever was waited for starts anew.
        held = self.open if on is None else on
        if held is not self.on:
            self.on, self.changed = held, now
        waited = now - self.changed
        if self.on and not self.open and waited >= self.for_s:
            self.open = True
            self.told.append(Change.RAISED)
        elif not self.on and self.open and waited >= self.resolve_for_s:
            self.open = False
            self.told.append(Change.RESOLVED)


class Machine(RuleBasedStateMachine):
    """What all kinds of alerts have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.told: list[Change] = []
        self.condition = Condition("rule", "", "subject")
        self.model: Model

    def take(self, step: Step) -> None:
        self.condition, change = step
        self.told += [change] if change else []

    @invariant()
    def is_open_while_the_model_says_so(self) -> None:
        if hasattr(self, "model"):
            assert self.condition.raised is self.model.open
            assert self.told == self.model.told

    @invariant()
    def is_raised_and_resolved_in_turn(self) -> None:
        assert self.told[::2] == [Change.RAISED] * len(self.told[::2])
        assert self.told[1::2] == [Change.RESOLVED] * len(self.told[1::2])


class Signals(Machine):
    """Signals of two processes, late, repeated and out of order."""

    @initialize(for_s=WAITS, resolve_for_s=WAITS, quiet_s=st.sampled_from([0, 5, 20]))
    def begin(self, for_s: int, resolve_for_s: int, quiet_s: int) -> None:
        self.rule = SignalRule(
            name="gps_anomaly",
            signal="gps_anomaly",
            severity="info",
            quiet_s=quiet_s,
            for_s=for_s,
            resolve_for_s=resolve_for_s,
        )
        self.model = Model(for_s, resolve_for_s)
        # By process: the time of what it said last, whether it goes on, and when that was heard.
        self.said: dict[str, tuple[int, bool, int]] = {}
        self.counted: list[Severity.ValueType] = []

    @rule(
        process=st.sampled_from(["", "7"]),
        age=st.integers(-3, 8),
        active=st.booleans(),
        severity=st.sampled_from(Severity.values()[1:]),
    )
    def hears(self, process: str, age: int, active: bool, severity: Severity.ValueType) -> None:
        heard = Heard(process, at(self.now - age), active, severity, "told", {})
        self.take(alerts.hear(self.rule, self.condition, heard, at(self.now)))
        when = self.now - age
        if age < 0:
            # From ahead: only the order in which signals came says anything.
            when = self.said[process][0] if process in self.said else -(10**6)
        if process in self.said and when < self.said[process][0]:
            return
        idle = not self.model.open and not self.model.on
        self.said[process] = (when, active, self.now)
        if active:
            self.counted = [severity] if idle else [*self.counted, severity]
        self.model.says(self.goes_on(), self.now)

    @rule(seconds=st.integers(1, 7))
    def passes(self, seconds: int) -> None:
        # As the leader does: to each time at which something is due, and no further at once.
        end = self.now + seconds
        while (due := alerts.next_due(self.rule, self.condition)) is not None and due <= at(end):
            self.now = max(self.now, int((due - START).total_seconds()))
            self.pass_time()
        self.now = end
        self.pass_time()

    def pass_time(self) -> None:
        before = self.condition
        self.take(alerts.pass_time(self.rule, before, at(self.now)))
        quiet = self.rule.quiet_s
        for process, (when, active, heard) in self.said.items():
            if active and quiet and self.now - heard >= quiet:
                self.said[process] = (when, False, heard)
        self.model.says(self.goes_on(), self.now)
        due = alerts.next_due(self.rule, self.condition)
        assert due is None or due > at(self.now), "what was due has happened"

    def goes_on(self) -> bool:
        return any(active for _, active, _ in self.said.values())

    @invariant()
    def counts_what_told_of_it_and_keeps_the_worst(self) -> None:
        if self.condition.raised:
            assert self.condition.facts.occurrences == len(self.counted)
            assert self.condition.facts.severity == max(self.counted)


class Figures(Machine):
    """Figures of an agent, with two thresholds and windows of few outcomes."""

    @initialize(for_s=WAITS, resolve_for_s=WAITS)
    def begin(self, for_s: int, resolve_for_s: int) -> None:
        self.rule = MetricRule(
            name="error_rate",
            metric="error_rate",
            severity="error",
            threshold=0.5,
            resolve_threshold=0.25,
            for_s=for_s,
            resolve_for_s=resolve_for_s,
        )
        self.model = Model(for_s, resolve_for_s)

    @rule(
        seconds=st.integers(0, 7),
        value=st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.6]),
        outcomes=st.integers(1, 40),
    )
    def measures(self, seconds: int, value: float, outcomes: int) -> None:
        self.now += seconds
        self.take(alerts.measure(self.rule, self.condition, value, outcomes, at(self.now)))
        high = value > 0.5 and (outcomes >= 20 or self.model.open)
        self.model.says(True if high else False if value <= 0.25 else None, self.now)

    @invariant()
    def tells_what_was_measured_when_it_was_raised(self) -> None:
        if self.condition.raised:
            assert (self.condition.facts.value, self.condition.facts.occurrences) == (0.6, 1)


TestSignals = Signals.TestCase
TestSignals.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
TestFigures = Figures.TestCase
TestFigures.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
