"""What was spent and what is left, as the contract says it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time

from waymesh.agent.v1.agent_service_pb2 import GetSpendingResponse, Spending

from services.agents.budgets.account import NANO, BudgetKind, Limit
from services.agents.budgets.store import Spent


def told(
    day: date,
    spent: list[Spent],
    key: str,
    key_name: str,
    key_limit: Limit,
    agents: Mapping[str, tuple[str, Limit]],
) -> GetSpendingResponse:
    """The key first, if there is one, then the agents by name: those that have spent or have a limit.

    `agents`: identity to name and limit, of those that are in use.
    """
    by = {(one.kind, one.name): one for one in spent}
    response = GetSpendingResponse()
    response.day.FromDatetime(datetime.combine(day, time(), UTC))
    if key:
        response.spending.append(_line("key", key_name or key, by.get((BudgetKind.KEY, key)), key_limit))
    names: dict[str, tuple[str, Limit]] = {
        one.name: (one.label or one.name, Limit()) for one in spent if one.kind is BudgetKind.AGENT
    }
    names |= {one: named for one, named in agents.items() if one in names or named[1]}
    for one, (name, limit) in sorted(names.items(), key=lambda item: (item[1][0], item[0])):
        response.spending.append(_line("agent", name, by.get((BudgetKind.AGENT, one)), limit))
    return response


def _line(kind: str, name: str, spent: Spent | None, limit: Limit) -> Spending:
    line = Spending(kind=kind, name=name)
    if spent is not None:
        line.cost_usd = spent.nano_usd / NANO
        line.reserved_usd = spent.reserved_nano_usd / NANO
        line.tokens = _uint32(spent.tokens)
        line.reserved_tokens = _uint32(spent.reserved_tokens)
    if limit.nano_usd is not None:
        line.limit_usd = limit.nano_usd / NANO
    if limit.tokens is not None:
        line.limit_tokens = _uint32(limit.tokens)
    return line


def _uint32(number: int) -> int:
    """What the field can say at most."""
    return min(number, 2**32 - 1)
