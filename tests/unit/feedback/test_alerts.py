"""The life of an alert, as values."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.outcome_pb2 import Severity

from services.feedback import alerts
from services.feedback.alert_rules import MetricRule, SignalRule
from services.feedback.alerts import Change, Condition, Heard, Phase, key_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATE = MetricRule(name="failure_rate", severity="error", metric="failure_rate", threshold=0.1)
SIGNAL = SignalRule(name="breaker_open", severity="warning", signal="breaker_open", quiet_s=600)
AGENT = Condition("failure_rate", "", "eta")
BREAKER = Condition("breaker_open", "eta", "route")
WARNING, ERROR = Severity.SEVERITY_WARNING, Severity.SEVERITY_ERROR


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def heard(
    seconds: float,
    *,
    active: bool = True,
    holder: str = "",
    severity: Severity.ValueType = WARNING,
    message: str = "it is open",
) -> Heard:
    return Heard(holder, after(seconds), active, severity, message, {"at": str(seconds)})


def hears(rule: SignalRule, *signals: Heard, now: float = 100.0) -> tuple[Condition, list[Change]]:
    """The condition after these signals, and what changed."""
    condition, changes = BREAKER, []
    for signal in signals:
        condition, change = alerts.hear(rule, condition, signal, after(now))
        changes += [change] if change else []
    return condition, changes


def test_a_figure_above_its_threshold_raises_and_one_well_below_it_resolves() -> None:
    quiet, change = alerts.measure(RATE, AGENT, 0.1, 100, NOW)
    assert (quiet.phase, change) == (Phase.IDLE, None)
    raised, change = alerts.measure(RATE, quiet, 0.11, 100, NOW)
    assert change is Change.RAISED
    assert (raised.facts.value, raised.facts.threshold, raised.facts.occurrences) == (0.11, 0.1, 1)
    assert raised.facts.severity == ERROR
    assert raised.facts.message == (
        "failure_rate of eta is 11% over 100 outcomes in 300s/60s; more than 10% is too much"
    )
    assert alerts.measure(RATE, raised, 0.1, 100, NOW) == (raised, None)
    resolved, change = alerts.measure(RATE, raised, 0.09, 100, NOW)
    assert change is Change.RESOLVED
    assert resolved.facts.value == 0.11
    assert resolved.facts.message == "failure_rate of eta is back at 9% in 300s/60s"


@pytest.mark.parametrize(
    ("value", "threshold", "told"),
    [
        (2_000.5, 2_000.0, "2,000.5 ms"), (2_000.25, 2_000.0, "2,000.2 ms"), (2_100.4, 2_000.0, "2,100 ms"),
        (1e12, 2_000.0, "1,000,000,000,000 ms"), (2_000.0000001, 2_000.0, "2,000.0000001 ms"),
    ],
)  # fmt: skip
def test_a_figure_never_looks_like_the_threshold_it_is_above(
    value: float, threshold: float, told: str
) -> None:
    rule = MetricRule(name="p95", severity="error", metric="p95_latency_ms", threshold=threshold)
    assert rule.shown(value, threshold) == told


def test_a_rate_never_looks_like_the_threshold_it_is_above() -> None:
    assert RATE.shown(0.10001, 0.1) == "10.001%"
    assert RATE.shown(0.1, 0.1) == "10%"
    assert RATE.shown(1 / 3, 0.1) == "33.3%"


def test_too_few_outcomes_raise_nothing_and_clear_nobody() -> None:
    _, change = alerts.measure(RATE, AGENT, 1.0, 19, NOW)
    assert change is None
    raised, _ = alerts.measure(RATE, AGENT, 1.0, 20, NOW)
    still, change = alerts.measure(RATE, raised, 1.0, 1, NOW)
    assert (still, change) == (raised, None)
    assert alerts.measure(RATE, raised, 0.0, 1, NOW)[1] is Change.RESOLVED


def test_a_window_must_be_empty_for_a_while_to_say_anything() -> None:
    raised, _ = alerts.measure(RATE, AGENT, 1.0, 20, NOW)
    empty, change = alerts.measure(RATE, raised, 0.0, 0, NOW)
    assert (empty.phase, change) == (Phase.CALMING, None)
    assert alerts.measure(RATE, empty, 0.0, 0, after(4.9))[1] is None
    assert alerts.measure(RATE, empty, 1.0, 20, after(4.9))[0].phase is Phase.FIRING
    over, change = alerts.measure(RATE, empty, 0.0, 0, after(5))
    assert (change, over.facts.message) == (Change.RESOLVED, "eta has no outcomes in 300s/60s any more")


def test_between_the_two_thresholds_nothing_changes() -> None:
    rule = RATE.model_copy(update={"resolve_threshold": 0.05})
    assert alerts.measure(rule, AGENT, 0.07, 100, NOW)[1] is None
    raised, _ = alerts.measure(rule, AGENT, 0.2, 100, NOW)
    assert alerts.measure(rule, raised, 0.07, 100, NOW) == (raised, None)
    assert alerts.measure(rule, raised, 0.05, 100, NOW)[1] is Change.RESOLVED


def test_what_must_go_on_for_a_time_is_raised_after_it_and_starts_anew_when_it_stops() -> None:
    rule = RATE.model_copy(update={"for_s": 60.0})
    pending, change = alerts.measure(rule, AGENT, 0.2, 100, NOW)
    assert (pending.phase, change, alerts.next_due(rule, pending)) == (Phase.PENDING, None, after(60))
    assert alerts.measure(rule, pending, 0.2, 100, after(59))[1] is None
    late, change = alerts.measure(rule, pending, 0.3, 100, after(60))
    assert (change, late.facts.value) == (Change.RAISED, 0.3)
    stopped, change = alerts.measure(rule, pending, 0.0, 100, after(30))
    assert (stopped.phase, change) == (Phase.IDLE, None)
    again, _ = alerts.measure(rule, stopped, 0.2, 100, after(40))
    assert alerts.measure(rule, again, 0.2, 100, after(60))[1] is None


def test_what_must_be_over_for_a_time_is_resolved_after_it_and_not_while_it_flaps() -> None:
    rule = RATE.model_copy(update={"resolve_for_s": 60.0})
    raised, _ = alerts.measure(rule, AGENT, 0.2, 100, NOW)
    calming, change = alerts.measure(rule, raised, 0.0, 100, after(1))
    assert (calming.phase, calming.raised, change) == (Phase.CALMING, True, None)
    back, change = alerts.measure(rule, calming, 0.2, 100, after(30))
    assert (back.phase, change) == (Phase.FIRING, None)
    calming, _ = alerts.measure(rule, back, 0.0, 100, after(40))
    assert alerts.measure(rule, calming, 0.0, 100, after(99))[1] is None
    assert alerts.measure(rule, calming, 0.0, 100, after(100))[1] is Change.RESOLVED


def test_repeated_signals_are_one_alert_that_counts_them_and_keeps_the_worst() -> None:
    condition, changes = hears(SIGNAL, heard(1), heard(2, severity=ERROR), heard(3, message="still open"))
    assert changes == [Change.RAISED]
    facts = condition.facts
    assert (facts.occurrences, facts.severity, facts.message) == (3, ERROR, "still open")
    assert facts.labels == {"at": "3"}


def test_the_rule_says_how_bad_it_is_at_least() -> None:
    condition, _ = hears(SIGNAL, heard(1, severity=Severity.SEVERITY_INFO))
    assert condition.facts.severity == WARNING


def test_an_older_signal_undoes_nothing() -> None:
    _, changes = hears(SIGNAL, heard(5), heard(3, active=False))
    assert changes == [Change.RAISED]
    condition, changes = hears(SIGNAL, heard(5, active=False), heard(3))
    assert (condition.phase, changes) == (Phase.IDLE, [])
    _, changes = hears(SIGNAL, heard(5), heard(6, active=False), heard(4))
    assert changes == [Change.RAISED, Change.RESOLVED]


def test_of_two_signals_of_one_time_the_one_that_came_later_counts() -> None:
    assert hears(SIGNAL, heard(5), heard(5, active=False))[1] == [Change.RAISED, Change.RESOLVED]


def test_a_clock_that_ran_ahead_does_not_make_later_signals_old() -> None:
    assert hears(SIGNAL, heard(9_999), heard(100, active=False))[1] == [Change.RAISED, Change.RESOLVED]


@pytest.mark.parametrize("ahead_s", [1, 60, 10**9])
def test_what_is_told_before_an_earlier_one_from_ahead_was_judged_is_newer(ahead_s: int) -> None:
    raised, _ = alerts.hear(SIGNAL, BREAKER, heard(100 + ahead_s), after(100.5))
    again, _ = alerts.hear(SIGNAL, raised, heard(100.1), after(100.5))
    for before in (raised, again):
        assert alerts.hear(SIGNAL, before, heard(100.2, active=False), after(100.6))[1] is Change.RESOLVED


def test_a_clock_of_ours_that_was_set_back_does_not_make_new_signals_old() -> None:
    raised, _ = alerts.hear(SIGNAL, BREAKER, heard(5_000), after(5_000))
    assert alerts.hear(SIGNAL, raised, heard(10, active=False), after(11))[1] is Change.RESOLVED


def test_it_goes_on_while_one_process_says_so() -> None:
    condition, changes = hears(
        SIGNAL, heard(1, holder="1"), heard(2, holder="2"), heard(3, active=False, holder="1", message="shut")
    )
    assert (condition.phase, condition.facts.message, changes) == (
        Phase.FIRING,
        "it is open",
        [Change.RAISED],
    )
    condition, change = alerts.hear(
        SIGNAL, condition, heard(4, active=False, holder="2", message="shut"), NOW
    )
    assert (change, condition.facts.message) == (Change.RESOLVED, "shut")


def test_what_nobody_repeats_is_over_after_the_quiet_time() -> None:
    raised, _ = hears(SIGNAL, heard(1), now=1)
    assert alerts.next_due(SIGNAL, raised) == after(601)
    assert alerts.pass_time(SIGNAL, raised, after(600)) == (raised, None)
    again, _ = alerts.hear(SIGNAL, raised, heard(300), after(300))
    assert alerts.pass_time(SIGNAL, again, after(601)) == (again, None)
    over, change = alerts.pass_time(SIGNAL, again, after(900))
    assert change is Change.RESOLVED
    assert over.facts.message == "nothing more was heard of it for 10 minutes"


def test_of_two_processes_only_the_quiet_one_is_given_up() -> None:
    condition, _ = hears(SIGNAL, heard(1, holder="1"), now=1)
    condition, _ = alerts.hear(SIGNAL, condition, heard(500, holder="2"), after(500))
    still, change = alerts.pass_time(SIGNAL, condition, after(601))
    assert (still.phase, change) == (Phase.FIRING, None)
    assert [one.active for one in still.holders.values()] == [False, True]
    assert alerts.pass_time(SIGNAL, still, after(1_100))[1] is Change.RESOLVED


def test_of_too_many_processes_those_that_said_it_is_over_and_the_oldest_are_forgotten() -> None:
    processes = [heard(n, holder=str(n), active=n != 70) for n in range(1, alerts.HOLDERS + 11)]
    condition, changes = hears(SIGNAL, heard(0, holder="first"), *processes)
    assert changes == [Change.RAISED]
    assert set(condition.holders) == {str(n) for n in range(10, alerts.HOLDERS + 11) if n != 70}
    # One that is heard of again is not the oldest any more.
    condition, _ = alerts.hear(SIGNAL, condition, heard(80, holder="10"), after(100))
    condition, _ = alerts.hear(SIGNAL, condition, heard(81, holder="new"), after(100))
    assert "10" in condition.holders
    assert "11" not in condition.holders


def test_nothing_began_after_now_when_a_clock_was_set_back() -> None:
    raised, _ = hears(SIGNAL, heard(50, holder="1"), heard(60, holder="2"), now=100)
    assert alerts.not_ahead(raised, after(100)) is raised
    back = alerts.not_ahead(raised, after(90))
    assert {one.heard for one in back.holders.values()} == {after(90)}
    assert [one.at for one in back.holders.values()] == [after(50), after(60)]
    pending, _ = alerts.measure(RATE.model_copy(update={"for_s": 9.0}), AGENT, 0.5, 100, NOW)
    assert alerts.not_ahead(pending, NOW) is pending
    assert alerts.not_ahead(pending, after(-5)).since == after(-5)


def test_without_a_quiet_time_it_never_ends_by_itself() -> None:
    rule = SIGNAL.model_copy(update={"quiet_s": 0.0})
    raised, _ = hears(rule, heard(1))
    assert alerts.next_due(rule, raised) is None
    assert alerts.pass_time(rule, raised, after(1e8)) == (raised, None)


def test_the_next_time_is_another_alert_with_facts_of_its_own() -> None:
    condition, changes = hears(
        SIGNAL, heard(1, severity=ERROR), heard(2), heard(3, active=False), heard(4, message="again")
    )
    assert changes == [Change.RAISED, Change.RESOLVED, Change.RAISED]
    facts = condition.facts
    assert (facts.occurrences, facts.severity, facts.message) == (1, WARNING, "again")


def test_what_is_over_is_remembered_for_an_hour() -> None:
    over, _ = hears(SIGNAL, heard(1), heard(2, active=False), now=2)
    assert alerts.next_due(SIGNAL, over) == after(3_602)
    assert not alerts.forgettable(over, after(3_601))
    assert alerts.forgettable(over, after(3_602))


def test_without_its_rule_it_is_over() -> None:
    raised, _ = hears(SIGNAL, heard(1))
    dropped, change = alerts.drop(raised)
    assert change is Change.RESOLVED
    assert alerts.forgettable(dropped, NOW)
    assert alerts.drop(BREAKER)[1] is None


@pytest.mark.parametrize(
    ("source", "subject", "key"),
    [
        ("", "eta", "error_rate/eta"),
        ("eta", "h:1/a.B/C", "error_rate/eta/h:1/a.B/C"),
        ("a/b%", "c", "error_rate/a%2Fb%25/c"),
    ],
)
def test_a_key_names_rule_source_and_subject(source: str, subject: str, key: str) -> None:
    assert key_of("error_rate", source, subject) == key


@given(
    st.lists(st.tuples(st.text("a/%2F", min_size=1, max_size=4), st.text("a/%2F", max_size=4)), max_size=20)
)
def test_no_two_sources_and_subjects_share_a_key(pairs: list[tuple[str, str]]) -> None:
    assert len({key_of("rule", *pair) for pair in pairs}) == len(set(pairs))
