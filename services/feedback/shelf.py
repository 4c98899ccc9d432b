"""What came, by pane: of each agent, of all agents of a tenant together, and its workflows.

Of agents, so many are told apart in a pane as a tenant may have, and so many in all panes; whoever makes up
more takes no place that is another tenant's.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from services.feedback.panes import Pane, Workflows
from services.feedback.percentiles import Values
from services.feedback.totals import MESH_TOTAL, is_total, total_of
from services.mesh.tenancy import tenant_of

# In all there may be so many panes for each agent that a tenant may have in one.
_PANES_PER_AGENT: Final = 20


class Shelf:
    """Panes by start and by name. `agents`: how many of a tenant are told apart in one pane; `limits`: how
    many latencies panes count the longer ones of."""

    def __init__(self, agents: int, limits: int) -> None:
        self.panes: dict[int, dict[str, Pane]] = {}
        self._agents = agents
        self._most = _PANES_PER_AGENT * agents
        self._limits = limits
        # By start, how many panes each tenant has there, and in all; the one of all its agents counts, too.
        self._there: dict[int, Counter[str]] = {}
        self._of: Counter[str] = Counter()
        self._all = 0
        # Panes of all agents of a tenant together, with outcomes of some that are not told apart.
        self._crowds: set[tuple[int, str]] = set()
        # By start and tenant, the workflows whose newest outcome lies there.
        self._flows: dict[int, dict[str, Workflows]] = {}

    def total(self, start: int, tenant: str) -> Pane:
        """Of all agents of a tenant together, in the pane that begins there."""
        by_name = self.panes.setdefault(start, {})
        name = total_of(tenant)
        found = by_name.get(name)
        return self._put(start, tenant, name) if found is None else found

    def agent(self, start: int, tenant: str, name: str) -> Pane | None:
        """Of one agent; None: there are too many already. `total` of its tenant has been asked for before."""
        by_name = self.panes[start]
        found = by_name.get(name)
        if found is None and self._has_room(start, tenant):
            found = self._put(start, tenant, name)
        if found is None and (start, tenant) not in self._crowds:
            # From here on those of all agents together are more than theirs.
            self._crowds.add((start, tenant))
            by_name[total_of(tenant)].latencies.runs()
        return found

    def flows(self, start: int, tenant: str) -> Workflows:
        """The tenant's workflows in the pane that begins there."""
        return self._flows.setdefault(start, {}).setdefault(tenant, Workflows())

    def known_flows(self, start: int, tenant: str) -> Workflows | None:
        """The same, unless there are none."""
        return self._flows.get(start, {}).get(tenant)

    def totals(self, start: int) -> list[str]:
        """Names that stand for all agents of a tenant, of tenants with outcomes or workflows in this pane."""
        there = {**dict.fromkeys(self._there.get(start, ())), **dict.fromkeys(self._flows.get(start, ()))}
        return [total_of(tenant) for tenant in there]

    def named(self, starts: Iterable[int], name: str) -> list[Pane]:
        """The panes there are of what has this name: an agent, all of a tenant, or all of the mesh."""
        found = [(start, by_name) for start in starts if (by_name := self.panes.get(start)) is not None]
        if name == MESH_TOTAL:
            return [by_name[total_of(tenant)] for start, by_name in found for tenant in self._there[start]]
        return [pane for _, by_name in found if (pane := by_name.get(name)) is not None]

    def named_flows(self, starts: Iterable[int], name: str) -> list[Workflows]:
        """The workflows of a tenant, or of the mesh, by the name that stands for all of its agents."""
        found = [by_tenant for start in starts if (by_tenant := self._flows.get(start)) is not None]
        if name == MESH_TOTAL:
            return [flows for by_tenant in found for flows in by_tenant.values()]
        tenant = tenant_of(name)
        return [flows for by_tenant in found if (flows := by_tenant.get(tenant)) is not None]

    def forget_before(self, start: int) -> list[str]:
        """Lets go of all panes that begin before; the workflows that no pane holds any more."""
        left: list[str] = []
        for gone in [at for at in self.panes if at < start]:
            by_name = self.panes.pop(gone)
            there = self._there.pop(gone)
            self._all -= len(by_name)
            self._of -= there  # which leaves out whoever has none any more
            self._crowds -= {(gone, tenant) for tenant in there}
            # The latencies of all together know this; else only a full garbage collection would free it.
            by_name.clear()
            for flows in self._flows.pop(gone, {}).values():
                left.extend(flows.ids())
        return left

    def settle(self, flows_before: int, latencies_before: int) -> Iterator[str]:
        """Keeps small what begins before; gives the workflows that are not told apart any more.

        Of workflows the times alone are kept, of latencies of all together none: they are each agent's, too.
        """
        for start, by_tenant in self._flows.items():
            if start < flows_before:
                for flows in by_tenant.values():
                    yield from flows.settle()
        for start, by_name in self.panes.items():
            if start < latencies_before:
                for tenant in self._there[start]:
                    if (start, tenant) not in self._crowds:
                        latencies = by_name[total_of(tenant)].latencies
                        latencies.leave_to(partial(_apart, by_name, tenant))

    def _has_room(self, start: int, tenant: str) -> bool:
        if self._there[start][tenant] > self._agents:
            return False
        return self._all < self._most or self._of[tenant] < self._most // len(self._of)

    def _put(self, start: int, tenant: str, name: str) -> Pane:
        made = self.panes[start][name] = Pane.empty(self._limits)
        self._there.setdefault(start, Counter())[tenant] += 1
        self._of[tenant] += 1
        self._all += 1
        return made


def _apart(by_name: Mapping[str, Pane], tenant: str) -> Iterable[Values]:
    """Latencies of the tenant's agents that are told apart."""
    return [
        pane.latencies for name, pane in by_name.items() if not is_total(name) and tenant_of(name) == tenant
    ]
