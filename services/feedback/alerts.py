"""The life of an alert, as values: a condition and what is heard of it give the next one, and what changed.

Nothing here knows a clock, a store or a bus. `now` is the time of whoever decides, the same for all that is
told; the times that signals carry only say which of two is the newer.

A subject may have several holders: processes of one source that notice each for themselves. It goes on as
long as one of them says so. There may be so many of them; whoever makes up more loses the oldest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import Final

from waymesh.feedback.v1.outcome_pb2 import Severity

from services.feedback.alert_rules import MetricRule, SignalRule
from services.mesh.tenancy import plain

# What was heard of a subject is kept for this long after it is over, so that an older signal that comes late
# does not raise it again.
REMEMBERED: Final = timedelta(hours=1)
# Processes of one subject that are told apart.
HOLDERS: Final = 64
# A window without any outcome of an agent may be one that is not put together yet: after another process has
# taken over, or where one window follows the other.
_EMPTY_S: Final = 5.0
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LEVELS: Final[Mapping[str, Severity.ValueType]] = {
    name.removeprefix("SEVERITY_").lower(): value for name, value in Severity.items()
}


class Phase(IntEnum):
    """How far a condition has come. The values are stored."""

    IDLE = 0
    PENDING = 1
    """It goes on, but not yet for long enough."""
    FIRING = 2
    CALMING = 3
    """It is raised and over, but not yet for long enough."""


class Change(Enum):
    """What became of the alert of a condition."""

    RAISED = "raised"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Holder:
    """What one process last said: `at` by its own clock, `heard` by ours."""

    at: datetime
    active: bool
    heard: datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What an alert tells besides its life."""

    severity: Severity.ValueType = Severity.SEVERITY_UNSPECIFIED
    message: str = ""
    value: float | None = None
    threshold: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    occurrences: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """One subject, by its qualified id, of one rule. `since` is when a phase began that ends by time: PENDING
    or CALMING.
    """

    rule: str
    source: str
    subject: str
    phase: Phase = Phase.IDLE
    since: datetime | None = None
    holders: Mapping[str, Holder] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    @property
    def raised(self) -> bool:
        """Whether its alert is open."""
        return self.phase in (Phase.FIRING, Phase.CALMING)

    @property
    def active(self) -> bool:
        """Whether any process says that it goes on."""
        return any(holder.active for holder in self.holders.values())


@dataclass(frozen=True, slots=True)
class Heard:
    """What a signal says, as far as an alert goes; `holder` is the process, empty if it does not say."""

    holder: str
    at: datetime
    active: bool
    severity: Severity.ValueType
    message: str
    labels: Mapping[str, str]


Step = tuple[Condition, Change | None]


def hear(rule: SignalRule, before: Condition, signal: Heard, now: datetime) -> Step:
    """A signal came. One that is older than the newest of its process changes nothing."""
    known = before.holders.get(signal.holder)
    at = signal.at
    if at > now:
        # A clock that runs ahead says nothing: whatever comes later from there is the newer. To take such a
        # time for now would make old what was told between its arrival and now.
        at = _LONG_AGO if known is None else known.at
    # Our own clock may have been set back; then only the order in which signals came says anything.
    if known is not None and at < known.at <= now:
        return before, None
    # Processes come and go; those that said that it is over need not be remembered for ever.
    recent = {name: one for name, one in before.holders.items() if one.active or now - one.heard < REMEMBERED}
    # In the order in which they were heard.
    recent.pop(signal.holder, None)
    holders = _as_many_as_may_be({**recent, signal.holder: Holder(at, signal.active, now)})
    goes_on = _goes_on(holders)
    facts = Facts() if before.phase is Phase.IDLE else before.facts
    if signal.active:
        facts = Facts(
            severity=max(facts.severity, signal.severity, _LEVELS[rule.severity]),
            message=signal.message,
            labels=dict(signal.labels),
            occurrences=facts.occurrences + 1,
        )
    elif not goes_on:
        facts = replace(facts, message=signal.message)
    return _judge(rule, replace(before, holders=holders, facts=facts), goes_on, now)


def measure(rule: MetricRule, before: Condition, value: float, outcomes: int, now: datetime) -> Step:
    """A figure of the current window, of so many outcomes.

    Too few outcomes raise nothing, but they do not clear anybody either: what is raised is over when the
    figure is low again, or when the window has had no outcome for a while.
    """
    goes_on: bool | None
    if outcomes == 0 or rule.calm(value):
        goes_on = False
    elif value > rule.threshold and (outcomes >= rule.min_outcomes or before.raised):
        goes_on = True
    else:
        goes_on = None
    over_for_s = max(rule.resolve_for_s, _EMPTY_S) if outcomes == 0 else rule.resolve_for_s
    after, change = _judge(rule, before, goes_on, now, over_for_s)
    if change is Change.RAISED:
        after = replace(after, facts=_measured(rule, before.subject, value, outcomes))
    elif change is Change.RESOLVED:
        message = _calm(rule, before.subject, value, outcomes)
        after = replace(after, facts=replace(after.facts, message=message))
    return after, change


def pass_time(rule: SignalRule, before: Condition, now: datetime) -> Step:
    """Time went by: what was due by now happens."""
    quiet = timedelta(seconds=rule.quiet_s)
    holders = {
        name: replace(one, active=False) if one.active and quiet and now - one.heard >= quiet else one
        for name, one in before.holders.items()
    }
    if holders != before.holders:
        facts = before.facts
        if not _goes_on(holders):
            facts = replace(facts, message=f"nothing more was heard of it for {rule.quiet_s / 60:g} minutes")
        before = replace(before, holders=holders, facts=facts)
    return _judge(rule, before, before.active, now)


def not_ahead(before: Condition, now: datetime) -> Condition:
    """The same by a clock that was set back: what it says came after now began now, so that it has an end."""
    holders = before.holders
    if any(one.heard > now for one in holders.values()):
        holders = {name: replace(one, heard=min(one.heard, now)) for name, one in holders.items()}
    since = before.since
    if since is not None and since > now:
        since = now
    if since is before.since and holders is before.holders:
        return before
    return replace(before, since=since, holders=holders)


def drop(before: Condition) -> Step:
    """Its rule is no more."""
    facts = replace(before.facts, message="its rule has been taken away")
    after = Condition(before.rule, before.source, before.subject, facts=facts)
    return after, Change.RESOLVED if before.raised else None


def next_due(rule: MetricRule | SignalRule, condition: Condition) -> datetime | None:
    """When time alone will change the condition; None if never."""
    times: list[datetime] = []
    if condition.since is not None:
        wait_s = rule.for_s if condition.phase is Phase.PENDING else rule.resolve_for_s
        times.append(condition.since + timedelta(seconds=wait_s))
    if isinstance(rule, SignalRule):
        if rule.quiet_s:
            quiet = timedelta(seconds=rule.quiet_s)
            times += [one.heard + quiet for one in condition.holders.values() if one.active]
        if condition.phase is Phase.IDLE and condition.holders and not condition.active:
            times += [forgotten_at(condition)]
    return min(times, default=None)


def forgotten_at(condition: Condition) -> datetime:
    """From when on a condition that is over need not be remembered. It must have a holder."""
    return max(one.heard for one in condition.holders.values()) + REMEMBERED


def forgettable(condition: Condition, now: datetime) -> bool:
    """Whether nothing is lost with the condition."""
    if condition.phase is not Phase.IDLE or condition.active:
        return False
    return not condition.holders or forgotten_at(condition) <= now


def key_of(rule: str, source: str, subject: str) -> str:
    """The alert_key: `rule/agent` for what outcomes tell (no source), else `rule/source/subject`.

    With a qualified subject it is the key that alerts are kept by, with a plain one that which its tenant
    knows. A slash within the source is written %2F, so that no two subjects share a key.
    """
    if not source:
        return f"{rule}/{subject}"
    return f"{rule}/{source.replace('%', '%25').replace('/', '%2F')}/{subject}"


def _as_many_as_may_be(holders: Mapping[str, Holder]) -> Mapping[str, Holder]:
    """The newest; those that said that it is over go first."""
    if len(holders) <= HOLDERS:
        return holders
    # Of equals, those heard last come last.
    kept = set(sorted(holders, key=lambda name: holders[name].active)[-HOLDERS:])
    return {name: one for name, one in holders.items() if name in kept}


def _goes_on(holders: Mapping[str, Holder]) -> bool:
    return any(holder.active for holder in holders.values())


def _judge(
    rule: MetricRule | SignalRule,
    before: Condition,
    goes_on: bool | None,
    now: datetime,
    over_for_s: float | None = None,
) -> Step:
    """The next phase. None: neither above what raises nor below what resolves."""
    wait_s = rule.resolve_for_s if over_for_s is None else over_for_s
    phase, since = before.phase, before.since
    change: Change | None = None
    if goes_on and phase is Phase.IDLE:
        phase, since = Phase.PENDING, now
    elif not goes_on and phase is Phase.PENDING:
        phase, since = Phase.IDLE, None
    elif goes_on is False and phase is Phase.FIRING:
        phase, since = Phase.CALMING, now
    elif goes_on is not False and phase is Phase.CALMING:
        phase, since = Phase.FIRING, None
    if phase is Phase.PENDING and _long_enough(since, rule.for_s, now):
        phase, since = Phase.FIRING, None
        change = Change.RAISED
    elif phase is Phase.CALMING and _long_enough(since, wait_s, now):
        phase, since = Phase.IDLE, None
        change = Change.RESOLVED
    after = (
        before
        if (phase, since) == (before.phase, before.since)
        else replace(before, phase=phase, since=since)
    )
    return after, change


def _long_enough(since: datetime | None, seconds: float, now: datetime) -> bool:
    return since is not None and now - since >= timedelta(seconds=seconds)


def _measured(rule: MetricRule, subject: str, value: float, outcomes: int) -> Facts:
    agent = plain(subject)
    return Facts(
        severity=_LEVELS[rule.severity],
        message=(
            f"{rule.metric} of {agent} is {rule.shown(value, rule.threshold)} over {outcomes} outcomes"
            f" in {rule.window}; more than {rule.shown(rule.threshold)} is too much"
        ),
        value=value,
        threshold=rule.threshold,
        occurrences=1,
    )


def _calm(rule: MetricRule, subject: str, value: float, outcomes: int) -> str:
    agent = plain(subject)
    if outcomes == 0:
        return f"{agent} has no outcomes in {rule.window} any more"
    return f"{rule.metric} of {agent} is back at {rule.shown(value)} in {rule.window}"
