"""Alerts of the one leader: signals and figures in, alerts stored and events for the topic out.

Subjects are qualified, so alerts of two tenants never meet; what is told of them is plain.

Everything happens in the leader's transaction: the signals judged, the alerts that change, the conditions
behind them and the events commit together or not at all, so each alert is raised once and resolved once,
whatever dies.
"""

import asyncio
import heapq
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import asyncpg
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback import alert_store, alerts
from services.feedback.alert_rules import MetricRule, Rules, SignalRule
from services.feedback.alert_store import Kept
from services.feedback.alerts import Change, Condition, Heard, key_of
from services.feedback.board import Figure, latency_limits
from services.mesh.events import Message as BusMessage
from services.mesh.events import tenants
from services.mesh.events.topics import AGENT_ALERTS
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import plain, tenant_of

_log = logging.getLogger(__name__)

# Conditions of signals in memory beyond which a signal of a subject that is not known makes no further one:
# subjects that somebody makes up have an end. Those that are over are forgotten after an hour. Each rule has
# an equal share for itself, and each tenant of that of a rule, whatever others take up.
CONDITIONS: Final = 20_000
# Signals judged in one transaction; the rest waits for the next, which is due at once.
_BATCH: Final = 2_000
_FIRING: Final = AlertState.ALERT_STATE_FIRING
_RESOLVED: Final = AlertState.ALERT_STATE_RESOLVED
_KINDS: Final = {value: name.removeprefix("SIGNAL_KIND_").lower() for name, value in SignalKind.items()}
# Old alerts are looked for this often, and so many are deleted at once.
_DISCARD_EVERY: Final = timedelta(hours=1)
_DISCARD: Final = 2_000
# Who noticed what outcomes tell.
_OWN: Final = "feedback"
# Of an agent without outcomes.
_NO_FIGURE: Final = Figure(0.0, 0)


@dataclass(frozen=True, slots=True)
class _Work:
    """What one step changes."""

    now: datetime
    # None: no longer kept.
    conditions: dict[str, Condition | None] = field(default_factory=dict)
    # By alert_id, in the order in which they were raised.
    alerts: dict[str, Kept] = field(default_factory=dict)
    messages: list[BusMessage] = field(default_factory=list)


class OvertakenError(Exception):
    """Another process judged signals at the same time: there were two leaders."""


class MetricsView(Protocol):
    """What windows tell of agents."""

    def figures(
        self, window: str, metric: str, above: float, agents: Collection[str]
    ) -> Mapping[str, Figure]:
        """A metric of the current window of this name: of agents above, and of `agents` that are in it."""
        ...


class Alerting:
    """State of all alerts. It is the leader's alone; one call at a time."""

    def __init__(
        self,
        rules: Rules,
        *,
        keep_days: int = 30,
        most: int = CONDITIONS,
        make_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        """`keep_days`: how long an alert is kept after it is over. `most`: see CONDITIONS."""
        self._rules = rules
        self._most = most
        kinds = sum(isinstance(rule, SignalRule) for rule in rules.all.values())
        self._share = most // max(1, kinds)
        self._refused = 0
        self._keep_for = timedelta(days=keep_days)
        self._discard_at: datetime | None = None
        self._make_id = make_id
        self._conditions: dict[str, Condition] = {}
        # How many of them each rule has, by tenant.
        self._known: Counter[tuple[str, str]] = Counter()
        # Keys of conditions that figures make, which are measured again each time.
        self._measured: set[str] = set()
        self._open: dict[str, Kept] = {}
        # Open alerts that a silence has kept from the topic.
        self._held: set[str] = set()
        self._silences: dict[str, datetime] = {}
        self._last_silence = -1
        self._signal = 0
        # None: what is remembered may not be what is stored.
        self._token: str | None = None
        self._behind = False
        # When each key is looked at next; what stands in the queue besides has been overtaken.
        self._timers: list[tuple[datetime, str]] = []
        self._timed: dict[str, datetime] = {}
        # None: it may be another's clock that what is stored goes by.
        self._latest: datetime | None = None

    @property
    def limits(self) -> Sequence[float]:
        """Latencies, in milliseconds, that rules compare percentiles with."""
        thresholds: dict[str, set[float]] = {}
        for rule in self._rules.metrics:
            thresholds.setdefault(rule.metric, set()).add(rule.threshold)
        return latency_limits(thresholds)

    async def load(self, connection: asyncpg.Connection) -> None:
        """Takes over what is stored; on becoming leader."""
        found = await alert_store.position(connection)
        self._conditions = await alert_store.conditions(connection)
        self._open = await alert_store.open_alerts(connection)
        self._held = {key for key, kept in self._open.items() if not kept.published}
        self._known = Counter(map(_whose, self._conditions.values()))
        self._measured = set()
        self._timers, self._timed = [], {}
        self._latest = None
        for key, condition in self._conditions.items():
            self._watch(key, condition)
        self._last_silence = -1
        self._signal, self._token = found.signal, found.token
        # Whatever the rules have become meanwhile is judged at once.
        self._behind = True

    def due(self, now: datetime) -> bool:
        """Whether a step would change anything by time alone, or was left unfinished."""
        if self._behind or (self._timers and self._timers[0][0] <= now):
            return True
        return any(not self._silenced(key, now) for key in self._held)

    async def step(
        self, connection: asyncpg.Connection, view: MetricsView, now: datetime, *, behind: bool = False
    ) -> Sequence[BusMessage]:
        """Judges new signals, current figures and what is due by time; the events to publish, in order.

        `behind`: outcomes wait that figures do not know of yet. They may raise, but not resolve: of an agent
        that fails nothing may have been read yet.
        In the leader's transaction, which may be undone afterwards: the next step then starts from what is
        stored. Raises OvertakenError if somebody else did the same meanwhile; the transaction must be undone.
        """
        found = await alert_store.position(connection)
        if self._token != found.token or self._signal != found.signal:
            await self.load(connection)
        self._token = None
        if self._last_silence != found.last_silence:
            self._silences = await alert_store.silences(connection, now)
            self._last_silence = found.last_silence
        signals = await alert_store.signals(connection, self._signal, found.last_signal, _BATCH)

        work = _Work(now)
        self._without_rule(work)
        if self._latest is None or now < self._latest:
            self._set_back(work)
        for _, signal in signals:
            self._hear(work, signal)
        if self._refused:
            _log.warning(
                "%d signals of subjects that are new make no alerts: %d are known already",
                self._refused,
                len(self._conditions) - len(self._measured),
            )
            self._refused = 0
        # The loop serves callers while figures of many agents are looked at.
        for before, then in await asyncio.to_thread(self._look, view, now, behind):
            self._take(work, before, then)
        self._pass_time(work)
        self._release(work)

        last = signals[-1][0] if signals else self._signal
        token = found.token
        if work.conditions or work.alerts or last != self._signal:
            token = str(uuid.uuid4())
            if not await alert_store.move(connection, last, token, before=found.token):
                raise OvertakenError("somebody else judges signals, too")
            await alert_store.write_conditions(connection, work.conditions)
            await alert_store.write_alerts(connection, list(work.alerts.values()))
        await self._discard(connection, now)
        self._behind = last < found.last_signal
        self._signal, self._token, self._latest = last, token, now
        return work.messages

    async def _discard(self, connection: asyncpg.Connection, now: datetime) -> None:
        """Deletes alerts that were kept long enough."""
        if self._discard_at is None or self._discard_at <= now:
            gone = await alert_store.discard(connection, now - self._keep_for, _DISCARD)
            if gone < _DISCARD:
                self._discard_at = now + _DISCARD_EVERY

    def _hear(self, work: _Work, signal: Signal) -> None:
        rule = self._rules.of_signal(_KINDS.get(signal.kind, ""))
        if rule is None:
            return
        before = self._conditions.get(key_of(rule.name, signal.source, signal.subject))
        if before is None:
            before = Condition(rule.name, signal.source, signal.subject)
            if not self._has_room(before):
                self._refused += 1
                return
        heard = Heard(
            holder=dict(signal.labels).get("process", ""),
            at=signal.timestamp.ToDatetime(UTC),
            active=signal.active,
            severity=signal.severity,
            message=signal.message,
            labels=signal.labels,
        )
        self._take(work, before, alerts.hear(rule, before, heard, work.now))

    def _has_room(self, condition: Condition) -> bool:
        if len(self._conditions) - len(self._measured) < self._most:
            return True
        whose = _whose(condition)
        tenants_ = {tenant for (rule, tenant), count in self._known.items() if rule == whose[0] and count}
        return self._known[whose] < max(1, self._share // len(tenants_ | {whose[1]}))

    def _look(self, view: MetricsView, now: datetime, behind: bool) -> list[tuple[Condition, alerts.Step]]:
        """What changes by figures that are above, and by those of agents that were: of few, mostly."""
        found = []
        for rule in self._rules.metrics:
            known = {
                one.subject for key in self._measured if (one := self._conditions[key]).rule == rule.name
            }
            current = view.figures(rule.window, rule.metric, rule.threshold, known)
            for agent in sorted(known.union(current)):
                before = self._conditions.get(key_of(rule.name, "", agent)) or Condition(rule.name, "", agent)
                step = alerts.measure(rule, before, *current.get(agent, _NO_FIGURE), now)
                if behind and before.raised and step[0].phase is not alerts.Phase.FIRING:
                    continue
                if step[0] is not before:
                    found.append((before, step))
        return found

    def _pass_time(self, work: _Work) -> None:
        while self._timers and self._timers[0][0] <= work.now:
            at, key = heapq.heappop(self._timers)
            if self._timed.get(key) != at:
                continue
            del self._timed[key]
            condition = self._conditions.get(key)
            if condition is None:
                continue
            rule = self._rules.all[condition.rule]
            if isinstance(rule, SignalRule):
                self._take(work, condition, alerts.pass_time(rule, condition, work.now))
            # What is still the same was not due after all: it has been put off since the timer was set.
            due = alerts.next_due(rule, condition)
            if self._conditions.get(key) is condition and due is not None and due > work.now:
                self._set_timer(key, due)

    def _set_back(self, work: _Work) -> None:
        """What began after now, by a clock that was set back or by another, goes by this one from here on."""
        self._discard_at = None
        for condition in list(self._conditions.values()):
            self._take(work, condition, (alerts.not_ahead(condition, work.now), None))

    def _release(self, work: _Work) -> None:
        """Alerts that go on and that nothing keeps quiet any more."""
        for key in sorted(self._held):
            if not self._silenced(key, work.now):
                self._held.discard(key)
                self._keep(work, replace(self._open[key], published=True))
                work.messages.append(self._message(self._open[key], work.now))

    def _without_rule(self, work: _Work) -> None:
        if not self._behind:
            return
        for condition in list(self._conditions.values()):
            rule = self._rules.all.get(condition.rule)
            if rule is None or isinstance(rule, MetricRule) is bool(condition.source):
                self._take(work, condition, alerts.drop(condition))

    def _watch(self, key: str, condition: Condition) -> None:
        rule = self._rules.all.get(condition.rule)
        if rule is None:
            return
        if isinstance(rule, MetricRule):
            self._measured.add(key)
        due = alerts.next_due(rule, condition)
        if due is not None:
            self._set_timer(key, due)

    def _set_timer(self, key: str, due: datetime) -> None:
        """Unless it is looked at before anyway, as whatever is heard of again and again is."""
        if key not in self._timed or due < self._timed[key]:
            self._timed[key] = due
            heapq.heappush(self._timers, (due, key))

    def _silenced(self, key: str, now: datetime) -> bool:
        until = self._silences.get(key)
        return until is not None and now < until

    def _take(self, work: _Work, before: Condition, step: alerts.Step) -> None:
        """Keeps the next condition and what became of its alert."""
        after, change = step
        key = key_of(after.rule, after.source, after.subject)
        if alerts.forgettable(after, work.now):
            if self._conditions.pop(key, None) is not None:
                work.conditions[key] = None
                self._known[_whose(after)] -= 1
            self._measured.discard(key)
        elif after is not before:
            self._known[_whose(after)] += key not in self._conditions
            self._conditions[key] = work.conditions[key] = after
            self._watch(key, after)
        if change is Change.RAISED:
            published = not self._silenced(key, work.now)
            subject = plain(after.subject)
            alert = Alert(
                alert_id=self._make_id(),
                alert_key=key_of(after.rule, after.source, subject),
                rule=after.rule,
                subject=subject,
                source=after.source or _OWN,
                state=_FIRING,
            )
            alert.raised_at.FromDatetime(work.now)
            self._keep(work, Kept(key, after.subject, _with_facts(alert, after.facts), published))
            if published:
                work.messages.append(self._message(self._open[key], work.now))
            else:
                self._held.add(key)
        elif key in self._open and after.facts != before.facts:
            kept = self._open[key]
            self._keep(work, replace(kept, alert=_with_facts(kept.alert, after.facts)))
        if change is Change.RESOLVED:
            kept = self._open.pop(key)
            kept.alert.state = _RESOLVED
            kept.alert.resolved_at.FromDatetime(work.now)
            work.alerts[kept.alert.alert_id] = kept
            self._held.discard(key)
            # Whoever was told that it began is told that it is over, silence or not; nobody else.
            if kept.published:
                work.messages.append(self._message(kept, work.now))

    def _keep(self, work: _Work, kept: Kept) -> None:
        self._open[kept.key] = work.alerts[kept.alert.alert_id] = kept

    def _message(self, kept: Kept, now: datetime) -> BusMessage:
        told, tenant = Alert(), tenant_of(kept.subject)
        told.CopyFrom(kept.alert)
        if self._silenced(kept.key, now):
            told.silenced_until.FromDatetime(self._silences[kept.key])
        return BusMessage(
            topic=AGENT_ALERTS,
            key=told.alert_key if tenant == DEFAULT_TENANT else kept.key,
            value=told.SerializeToString(deterministic=True),
            event_id=f"{told.alert_id}/{'firing' if told.state == _FIRING else 'resolved'}",
            type=Alert.DESCRIPTOR.full_name,
            headers=tenants.headers(tenant),
        )


def _whose(condition: Condition) -> tuple[str, str]:
    """The rule, and the tenant."""
    return condition.rule, tenant_of(condition.subject)


def _with_facts(alert: Alert, facts: alerts.Facts) -> Alert:
    """Another alert like this one, with these facts."""
    told = Alert()
    told.CopyFrom(alert)
    told.severity = facts.severity
    told.message = facts.message
    if facts.value is not None:
        told.value = facts.value
    if facts.threshold is not None:
        told.threshold = facts.threshold
    told.occurrences = facts.occurrences
    told.labels.clear()
    told.labels.update(facts.labels)
    return told
