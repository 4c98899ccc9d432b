"""Percentiles of sorted runs are those of all their values, whatever the runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.feedback import percentiles as module
from services.feedback.percentiles import Values, percentiles, ranked

SHARES = (0.0, 0.5, 0.95, 0.99, 1.0)


def plainly(values: np.ndarray, share: float) -> float:
    """percentile_cont as PostgreSQL's source has it."""
    ordered = np.sort(values).tolist()
    place = share * (len(ordered) - 1)
    low, high = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
    return low if low == high else low + (place - np.floor(place)) * (high - low)


@pytest.mark.parametrize("few", [0, 16_384])
@settings(deadline=None)
@given(data=st.data())
def test_percentiles_of_many_runs_are_those_of_all_values(few: int, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any))
    # Many alike, or hardly any; and runs of values that do not overlap.
    choices = data.draw(st.sampled_from([1, 2, 50, 10**6]))
    shift = data.draw(st.sampled_from([0, 1000]))
    runs = [
        np.sort(random.integers(0, choices, size) / 7 + shift * place)
        for place, size in enumerate(sizes)
        if size
    ]
    together = np.concatenate(runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", few)
        found = percentiles(runs, SHARES)
        by_rank = ranked(runs, range(len(together)))
    assert found == [plainly(together, share) for share in SHARES]
    ordered = np.sort(together).tolist()
    assert by_rank == list(zip(ordered, [*ordered[1:], ordered[-1]], strict=True))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 1e6), max_size=40), min_size=1, max_size=30), st.data())
def test_runs_hold_all_that_was_added_in_order(batches: list[list[float]], data: st.DataObject) -> None:
    values, seen = Values(), []
    for batch in batches:
        if batch:
            values.add(np.array(batch))
            seen += batch
        if data.draw(st.booleans()):
            runs = values.runs()
            assert sorted(value for run in runs for value in run.tolist()) == sorted(seen)
            assert all((np.diff(run) >= 0).all() for run in runs)
    assert values.count == len(seen)
