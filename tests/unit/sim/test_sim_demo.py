"""The demo's clock: nothing that its couriers say lies in the mesh's future."""

import itertools

import pytest

from services.sim import demo
from services.sim.demo import Demo

STARTED = 1_724_841_000.0


@pytest.mark.parametrize("speed", [0.5, 1.0, 30.0, 60.0])
def test_a_fast_day_never_gets_ahead_of_the_clock(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5.0]
    monkeypatch.setattr(demo.time, "monotonic", lambda: clock[0])
    day = Demo(couriers=1, speed=speed, seed=1, started=STARTED)
    times = []
    for passed_s in (0.0, 60.0, 3600.0, 86_400.0, 10 * 86_400.0):
        clock[0] = 5.0 + passed_s
        times.append(day._words.at_us(day._now_s) / 1e6)
        assert times[-1] <= STARTED + passed_s + 1e-3
    assert times[1] - times[0] == pytest.approx(60.0 * speed)
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
