"""Lag is told of the partitions a reader has; of those it lost nothing remains that could alarm anybody."""

import pytest

from services.mesh.events import metering
from services.mesh.events.metering import LagTeller, TelemetryMeter
from services.mesh.telemetry import Telemetry


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    monkeypatch.setattr(metering, "_LAG_EVERY_S", 0.0)
    return Telemetry("eta")


def _lag(telemetry: Telemetry, partition: int) -> float | None:
    return telemetry.registry.get_sample_value(
        "kafka_consumer_lag", {"topic": "orders", "partition": str(partition)}
    )


def test_a_partition_that_another_process_took_over_is_no_longer_told(telemetry: Telemetry) -> None:
    teller = LagTeller(TelemetryMeter(telemetry))
    teller.tell(lambda: {("orders", 0): 5, ("orders", 1): 9000})
    teller.tell(lambda: {("orders", 0): 6})
    assert (_lag(telemetry, 0), _lag(telemetry, 1)) == (6.0, None)


def test_a_reader_that_ends_leaves_nothing(telemetry: Telemetry) -> None:
    teller = LagTeller(TelemetryMeter(telemetry))
    teller.tell(lambda: {("orders", 0): 5})
    teller.end()
    assert _lag(telemetry, 0) is None


def test_a_partition_that_was_never_told_may_be_taken_out() -> None:
    TelemetryMeter(Telemetry("eta")).gone("orders", 7)
