"""Workflows of a pane: the times are the same whether it still knows whose they are or not."""

from hypothesis import given
from hypothesis import strategies as st

from services.feedback.metrics_columns import ABSENT
from services.feedback.panes import Span, Workflows

# Few workflows and few times, so that many are alike.
steps = st.tuples(st.integers(0, 5), st.sampled_from([None, 0, 1]), st.sampled_from(["settle", "look", ""]))


@given(st.lists(steps, max_size=60))
def test_what_is_settled_goes_on_and_ends_as_if_it_were_not(told: list[tuple[int, int | None, str]]) -> None:
    flows, spans = Workflows(), dict[str, Span]()
    for number, ms, then in [*told, (0, 0, "look")]:
        name = f"w{number}"
        if name in spans:
            flows.remove(name, spans.pop(name))
        else:
            spans[name] = Span(0, 0, ABSENT if ms is None else ms * 1000)
            flows.put(name, spans[name])
        if then == "settle":
            known = flows.settle()
            assert len(known) == len(set(known))
            assert not any(one in flows for one in known)
        assert len(flows) == len(spans)
        if then == "look":
            times = sorted(one.ms for one in spans.values() if one.ms is not None)
            assert flows.sorted().tolist() == times


def test_only_those_that_are_not_settled_are_told_apart() -> None:
    flows = Workflows()
    flows.put("old", Span(0, 0, 1_000))
    assert list(flows.settle()) == ["old"]
    flows.put("new", Span(0, 0, 2_000))
    assert list(flows.ids()) == ["new"]
    assert "old" not in flows
    assert flows.sorted().tolist() == [1.0, 2.0]
