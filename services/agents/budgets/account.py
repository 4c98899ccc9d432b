"""What is spent, by whom, up to which limit: plain values."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

NANO: Final = 1_000_000_000


class BudgetKind(IntEnum):
    """Whose budget it is, by its number in the store."""

    KEY = 1
    AGENT = 2


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be spent on one day, or by one run; None: no limit. Money in billionths of a US dollar."""

    nano_usd: int | None = None
    tokens: int | None = None

    def __bool__(self) -> bool:
        return self.nano_usd is not None or self.tokens is not None

    @classmethod
    def of(cls, usd: float | None, tokens: int | None) -> "Limit":
        """A limit in US dollars and tokens."""
        return cls(None if usd is None else round(usd * NANO), tokens)


@dataclass(frozen=True, slots=True)
class Booking:
    """What was spent of one budget without being set aside first. `label`: how key or agent is called."""

    kind: BudgetKind
    tenant: str
    name: str
    label: str
    nano_usd: int
    tokens: int
