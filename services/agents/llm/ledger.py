"""Budgets as the client sees them: set aside before a call, settle after it."""

from typing import Any, Protocol

# What `reserve` gave; only the ledger knows what is in it.
Hold = Any


class Ledger(Protocol):
    """Keeps a budget. Every hold is settled exactly once, whatever becomes of the call.

    A ledger with an attribute `limits_money` that is False lets models of unknown price be asked.
    """

    async def reserve(self, nano_usd: int, tokens: int) -> Hold:
        """Sets aside what a call may take at most. If it raises, or is cancelled, nothing is held."""

    async def settle(self, hold: Hold, nano_usd: int, tokens: int) -> None:
        """Takes what the call took and gives the rest back. Never raises."""
