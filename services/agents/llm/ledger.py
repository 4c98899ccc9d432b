"""Budgets as the client sees them: set aside before a call, settle after it."""

from typing import Any, Protocol

# What `reserve` gave; only the ledger knows what is in it.
Hold = Any


class Ledger(Protocol):
    """Keeps a budget. Every hold is settled exactly once, whatever becomes of the call.

    A ledger with an attribute `limits_money` that is False lets models of unknown price be asked.
    """

    async def reserve(self, nano_usd: int, tokens: int, likely_tokens: int | None = None) -> Hold:
        """Sets aside what a call may take at most. If it raises, or is cancelled, nothing is held.

        `likely_tokens`: what it will take, by rule of thumb; None: the most. For limits that nobody has set.
        """

    async def settle(self, hold: Hold, nano_usd: int, tokens: int) -> None:
        """Takes what the call took and gives the rest back. Never raises."""
