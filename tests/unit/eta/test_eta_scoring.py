"""What scores say keeps the contract's rules, whatever the fixes said."""

import numpy as np
from eta_fleet import START_S, known, order
from hypothesis import given
from hypothesis import strategies as st
from waymesh.eta.v1.eta_pb2 import EtaPrediction

from services.eta.answers import answer
from services.eta.cases import Case
from services.eta.learning import RAW_MINUTES, RAW_PICKUP_MINUTES, Learned
from services.eta.predict import Phase
from services.eta.scoring import outcomes_of
from services.eta.spread import PICKUP, quantile
from services.eta.tracks import Track
from services.mesh.chain.server.validation import check

MINUTE_US = 60_000_000
times = st.integers(1, 90).map(lambda minutes: (START_S * 1_000_000) + minutes * MINUTE_US)


def predictions(at_us: list[int], phases: list[Phase]) -> list[EtaPrediction]:
    made = known(order())
    cases = [
        Case(made, "driver_1", phase, at, here=made.pickup, run_m=500.0, run_s=120.0, picked_up_us=at)
        for at, phase in zip(at_us, phases, strict=False)
    ]
    return answer(cases, Learned())


@given(
    stages=st.lists(st.tuples(st.integers(2, 6), times), min_size=1, max_size=6),
    at_us=st.lists(times, min_size=1, max_size=4),
    phases=st.lists(st.sampled_from([one for one in Phase if one is not Phase.DONE]), min_size=4, max_size=4),
)
def test_every_score_of_every_track_keeps_the_rules(
    stages: list[tuple[int, int]], at_us: list[int], phases: list[Phase]
) -> None:
    track = Track("order_1", "driver_1")
    for stage, at in stages:
        track.enter(stage, at, (-23.55, -46.63))
    track.end(stages[-1][1])
    for outcome in outcomes_of(known(order()), track, 0, predictions(sorted(at_us), phases)):
        check(outcome)


def test_predictions_before_pickup_are_scored_by_the_pickup_too() -> None:
    made = predictions([START_S * 1_000_000], [Phase.TO_PICKUP])
    track = Track("order_1", "driver_1")
    for stage, minute in ((2, 0), (3, 4), (4, 9), (6, 20)):
        track.enter(stage, (START_S + minute * 60) * 1_000_000, (-23.55, -46.63))
    [outcome] = outcomes_of(known(order()), track, 0, made)
    learned, fresh = Learned(), Learned()
    learned.learn([outcome] * 50)
    raw = outcome.context.numbers[RAW_PICKUP_MINUTES]
    assert 0 < raw < outcome.context.numbers[RAW_MINUTES]
    medians = [
        quantile(one.spread.minutes(np.array([PICKUP]), np.array([raw])), 0.5)[0] for one in (learned, fresh)
    ]
    assert abs(medians[0] - 9) < abs(medians[1] - 9)
    [again] = predictions([START_S * 1_000_000], [Phase.TO_DESTINATION])
    [late] = outcomes_of(known(order()), track, 0, [again])
    assert RAW_PICKUP_MINUTES not in late.context.numbers
