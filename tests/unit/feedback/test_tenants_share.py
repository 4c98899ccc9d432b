"""Tenants have places of their own: whoever makes up names takes none of another's."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.metrics_columns import ABSENT, Columns
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.panes import Pane
from services.feedback.shelf import Shelf
from services.feedback.totals import MESH_TOTAL, is_total, total_of
from services.feedback.windows import Windows
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import qualify, tenant_of

NOON = 1_767_225_600 * SECOND
SPECS = parse_windows("60s")
ALL = 10**15

tenants = st.sampled_from([DEFAULT_TENANT, "acme", "a.b-c_1"])
names = st.text("/ax*", min_size=1, max_size=5)


@given(tenants, names, tenants)
def test_what_stands_for_all_agents_of_a_tenant_is_no_agent(owner: str, name: str, other: str) -> None:
    assert not is_total(qualify(owner, name))
    assert is_total(total_of(other))
    assert tenant_of(total_of(other)) == other
    assert total_of(other) != MESH_TOTAL


def columns(agents: Sequence[str], minute: int = 0) -> Columns:
    count = len(agents)

    def ints(value: int) -> np.ndarray:
        return np.full(count, value, dtype=np.int64)

    at = ints(NOON + minute * 60 * SECOND)
    return Columns(
        np.arange(1, count + 1), at, at, ints(1), ints(1), np.ones(count), ints(0), np.zeros(count),
        ints(ABSENT), ints(ABSENT), agents, [""] * count, [""] * count,
    )  # fmt: skip


def test_agents_that_a_tenant_makes_up_take_no_place_of_anothers() -> None:
    windows = Windows(SPECS, 600 * SECOND, agents=2)
    windows.add(columns([f"acme/made-up-{n}" for n in range(50)]), {}, NOON)
    windows.add(columns(["rival/a", "rival/b", "a"]), {}, NOON)
    made = {one.agent_name: one.outcomes for one in windows.flush(NOON, cost=ALL)}
    assert made == {
        MESH_TOTAL: 53, "acme/": 50, "acme/made-up-0": 1, "acme/made-up-1": 1,
        "rival/": 2, "rival/a": 1, "rival/b": 1, "": 1, "a": 1,
    }  # fmt: skip
    assert windows.crowded == 48


def test_a_tenant_that_takes_all_places_of_all_panes_leaves_others_their_share() -> None:
    shelf = Shelf(agents=2, limits=0)

    def told_apart(tenant: str, start: int) -> list[Pane]:
        shelf.total(start, tenant)
        found = [shelf.agent(start, tenant, f"{tenant}/{n}") for n in range(2)]
        return [one for one in found if one is not None]

    greedy = [told_apart("acme", start) for start in range(100)]
    assert len(greedy[0]) == 2
    assert greedy[99] == []
    assert len(told_apart("rival", 99)) == 2
    for start in range(99):
        told_apart("rival", start)
    # However many there are, all that is kept has a bound, besides one pane of all together for each.
    assert sum(map(len, shelf.panes.values())) <= 2 * 20 * 2 + 200
    assert shelf.forget_before(100) == []
    assert shelf.panes == {}
    assert len(told_apart("acme", 100)) == 2
