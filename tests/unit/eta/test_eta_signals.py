"""What eta tells feedback about, how often, and when it is over."""

from collections.abc import Sequence

import numpy as np
import pytest
from eta_fleet import START_S, columns, fix
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.eta.cleaning import GPS_SPOOFING, OUT_OF_ORDER, SPEED_ANOMALY
from services.eta.drift import Coverage
from services.eta.signals import Signals
from services.eta.tracks import Track
from services.mesh.feedback.signals import SignalSender

MINUTE_US = 60_000_000


class Clock:
    """Both clocks of Signals."""

    def __init__(self) -> None:
        self.now_s = float(START_S)

    def __call__(self) -> float:
        return self.now_s


async def nowhere(given: Sequence[Signal]) -> None:
    """Nothing is sent here."""
    raise AssertionError(given)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(clock: Clock) -> SignalSender:
    return SignalSender("eta", nowhere, wall=clock)


@pytest.fixture
def signals(sender: SignalSender, clock: Clock) -> Signals:
    return Signals(sender, clock=clock, wall=clock)


def seen(sender: SignalSender) -> Sequence[tuple[int, str, bool]]:
    return [(signal.kind, signal.subject, signal.active) for signal in sender.queued]


def flags(*masks: int) -> np.ndarray:
    return np.array(masks, dtype=np.int64)


def test_a_batch_gives_one_signal_per_courier_with_all_its_flags(
    signals: Signals, sender: SignalSender
) -> None:
    fixes = columns(fix(0), fix(1), fix(2, driver_id="driver_2"), fix(3, driver_id="driver_3"))
    signals.anomalies(fixes, flags(OUT_OF_ORDER, SPEED_ANOMALY, OUT_OF_ORDER, 0))
    first, second = sender.queued
    assert (first.subject, first.labels["flags"]) == ("driver_1", "speed_anomaly,out_of_order")
    assert first.severity == Severity.SEVERITY_WARNING
    assert (second.subject, second.severity) == ("driver_2", Severity.SEVERITY_INFO)


def test_spoofing_is_critical_and_always_told(signals: Signals, sender: SignalSender) -> None:
    for second in range(3):
        signals.anomalies(columns(fix(second)), flags(GPS_SPOOFING))
    assert [signal.severity for signal in sender.queued] == [Severity.SEVERITY_CRITICAL] * 3


def test_the_same_finding_is_not_told_all_the_time_and_ends(
    signals: Signals, sender: SignalSender, clock: Clock
) -> None:
    anomaly = SignalKind.SIGNAL_KIND_GPS_ANOMALY
    signals.anomalies(columns(fix(0)), flags(OUT_OF_ORDER))
    clock.now_s += 10
    signals.anomalies(columns(fix(10)), flags(OUT_OF_ORDER))
    assert seen(sender) == [(anomaly, "driver_1", True)]
    clock.now_s += 25
    signals.anomalies(columns(fix(35)), flags(OUT_OF_ORDER))
    assert len(sender.queued) == 2
    clock.now_s += 601
    signals.sweep()
    assert seen(sender)[-1] == (anomaly, "driver_1", False)


def _track(at_us: int) -> Track:
    return Track(order_id="order_1", driver_id="driver_1", last_us=at_us)


def test_a_live_courier_falls_silent_once_and_is_heard_again(
    signals: Signals, sender: SignalSender, clock: Clock
) -> None:
    silent = SignalKind.SIGNAL_KIND_COURIER_SILENT
    signals.heard([_track(START_S * 1_000_000)])
    clock.now_s += 299
    signals.sweep()
    assert not sender.queued
    clock.now_s += 2
    signals.sweep()
    signals.sweep()
    assert seen(sender) == [(silent, "driver_1", True)]
    signals.heard([_track(round(clock.now_s * 1e6))])
    assert seen(sender)[-1] == (silent, "driver_1", False)


def test_a_recording_that_ends_is_not_a_silent_courier(
    signals: Signals, sender: SignalSender, clock: Clock
) -> None:
    signals.heard([_track((START_S - 86_400) * 1_000_000)])
    clock.now_s += 3600
    signals.sweep()
    assert not sender.queued


def test_who_has_delivered_may_be_silent(signals: Signals, sender: SignalSender, clock: Clock) -> None:
    track = _track(START_S * 1_000_000)
    signals.heard([track])
    track.enter(6, track.last_us, (0.0, 0.0))
    signals.heard([track])
    clock.now_s += 3600
    signals.sweep()
    assert not sender.queued


def _prediction(chance: float, minutes: float = 10.0) -> EtaPrediction:
    return EtaPrediction(order_id="order_1", promise_probability=chance, delivery_eta_minutes=minutes)


def test_a_broken_promise_is_foreseen_once_and_taken_back(signals: Signals, sender: SignalSender) -> None:
    for chance in (0.9, 0.15, 0.1, 0.3, 0.6, 0.1):
        signals.predicted([_prediction(chance)])
    risk = SignalKind.SIGNAL_KIND_LATENESS_RISK
    assert seen(sender) == [(risk, "order_1", True), (risk, "order_1", False), (risk, "order_1", True)]
    signals.predicted([_prediction(0.0, minutes=0.0)])
    assert seen(sender)[-1] == (risk, "order_1", False)


def test_an_order_at_risk_is_told_again_while_it_is_predicted(
    signals: Signals, sender: SignalSender, clock: Clock
) -> None:
    for after_s in (0, 299, 2, 299, 2):
        clock.now_s += after_s
        signals.predicted([_prediction(0.1)])
    assert [signal.active for signal in sender.queued] == [True] * 3


def test_signals_say_when_it_was_noticed(signals: Signals, sender: SignalSender, clock: Clock) -> None:
    clock.now_s += 86_400  # a recording of yesterday
    signals.anomalies(columns(fix(0)), flags(GPS_SPOOFING))
    assert sender.queued[0].timestamp.seconds == round(clock.now_s)


def _outcome(minutes: float) -> DeliveryOutcome:
    return DeliveryOutcome(p10_minutes=10, p50_minutes=15, p90_minutes=20, actual_minutes=minutes)


def test_intervals_that_stop_holding_are_told_once_and_taken_back() -> None:
    coverage = Coverage()
    assert not coverage.add([_outcome(15)] * 80 + [_outcome(30)] * 20)
    assert not coverage.drifted
    assert coverage.add([_outcome(30)] * 100)
    assert coverage.drifted
    assert not coverage.add([_outcome(30)] * 10)
    assert coverage.add(([_outcome(15)] * 4 + [_outcome(30)]) * 80)
    assert not coverage.drifted


def test_few_outcomes_say_nothing_about_the_intervals() -> None:
    assert not Coverage().add([_outcome(30)] * 99)


def test_a_stranger_to_an_order_is_told_of_once_with_what_is_wrong_with_its_fixes(
    signals: Signals, sender: SignalSender
) -> None:
    fixes = columns(fix(0), fix(1, driver_id="driver_2"), fix(2, driver_id="driver_2"))
    signals.anomalies(fixes, np.array([0, 0, OUT_OF_ORDER]), strangers=[1])
    signals.anomalies(fixes, np.array([0, 0, 0]), strangers=[1, 2])
    [signal] = sender.queued
    assert (signal.subject, signal.severity) == ("driver_2", Severity.SEVERITY_WARNING)
    assert dict(signal.labels) == {"flags": "out_of_order,foreign_order", "order_id": "order_1"}
