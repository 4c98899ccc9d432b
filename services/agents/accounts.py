"""Whose money and whose place a run takes: its API key's and its agent's."""

from contextlib import AbstractContextManager
from typing import Final

from waymesh.agent.v1.agent_service_pb2 import GetSpendingResponse
from waymesh.agent.v1.definition_pb2 import RunLimits

from services.agents.budgets import spending, store
from services.agents.budgets.account import BudgetKind, Limit
from services.agents.budgets.concurrency import ConcurrencyLimits, Room
from services.agents.budgets.ledger import Budgets, RunAccount, Spender
from services.agents.catalogue import Agent, Catalogue
from services.agents.runs.record import NewRun
from services.agents.settings import AgentsSettings
from services.mesh.principal import Principal
from services.mesh.store import Store

# Tokens of one run, about, unless its agent says otherwise.
_RUN_TOKENS: Final = 50_000


class Accounts:
    """One per process. A built-in agent's budget is each tenant's own, as its runs are."""

    def __init__(
        self, settings: AgentsSettings, budgets: Budgets, limits: ConcurrencyLimits, database: Store
    ) -> None:
        self._settings = settings
        self._budgets = budgets
        self._limits = limits
        self._database = database
        self._key_limit = Limit.of(settings.key_budget_usd, settings.key_budget_tokens)

    def account(self, agent: Agent, new: NewRun, key_name: str) -> RunAccount:
        """What the run may spend: its own limit, and what is left of the agent's and the key's day."""
        limits = agent.spec.config.limits
        spenders = [Spender(BudgetKind.AGENT, agent.agent_id, agent.name, _of_a_day(limits))]
        if new.key:
            spenders.append(Spender(BudgetKind.KEY, new.key, key_name or new.key, self._key_limit))
        money = limits.max_cost_usd if limits.HasField("max_cost_usd") else None
        own = Limit.of(money, limits.max_tokens or _RUN_TOKENS)
        # A limit that somebody has set is never exceeded; ours is to stop what goes on and on.
        return self._budgets.account(new.tenant, new.run_id, spenders, own, likely=not limits.max_tokens)

    def slot(self, agent: Agent, new: NewRun) -> AbstractContextManager[None]:
        """A place among the runs that ask a model at once; entering raises ResourceExhausted."""
        limits = agent.spec.config.limits
        most = limits.max_concurrent_runs if limits.HasField("max_concurrent_runs") else None
        rooms = [Room(("agent", new.tenant, agent.agent_id), most)]
        if new.key:
            rooms.append(Room(("key", new.tenant, new.key), self._settings.key_concurrent_runs))
        return self._limits.try_enter(*rooms)

    async def spending(self, whom: Principal, catalogue: Catalogue) -> GetSpendingResponse:
        """What the caller's key and the tenant's agents have spent today. Raises Unavailable."""
        day, spent = await store.spending(self._database, whom.tenant, whom.key)
        agents = {
            agent.agent_id: (agent.name, _of_a_day(agent.spec.config.limits))
            for agent in catalogue.of(whom.tenant)
        }
        return spending.told(day, spent, whom.key, whom.name, self._key_limit, agents)


def _of_a_day(limits: RunLimits) -> Limit:
    return Limit.of(
        limits.max_cost_usd_per_day if limits.HasField("max_cost_usd_per_day") else None,
        limits.max_tokens_per_day if limits.HasField("max_tokens_per_day") else None,
    )
