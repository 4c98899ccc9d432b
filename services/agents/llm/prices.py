"""What tokens cost: US dollars per million, by model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from services.agents.llm.reply import Tokens

_TABLE: Final = Path(__file__).parent / "prices.json"
# `gpt-4o-2024-08-06` costs what `gpt-4o` costs, unless the table has it.
_DATED: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_PICO_PER_NANO: Final = 1000


@dataclass(frozen=True, slots=True)
class Price:
    """Pico-USD per token, which is the same number as micro-USD per million: whole for every list price."""

    input: int
    output: int

    @classmethod
    def per_million(cls, input_usd: float, output_usd: float) -> "Price":
        """From US dollars per million tokens."""
        return cls(round(input_usd * 1e6), round(output_usd * 1e6))

    def of(self, tokens: Tokens) -> int:
        """Nano-USD, rounded up."""
        return -(-(tokens.input * self.input + tokens.output * self.output) // _PICO_PER_NANO)


class Prices:
    """The table that holds here; what is not in it has no known price."""

    def __init__(self, table: Mapping[str, Price]) -> None:
        self._table = dict(table)

    @classmethod
    def built_in(cls, own: Mapping[str, tuple[float, float]] | None = None) -> "Prices":
        """List prices of well-known models, whose source and date stand in prices.json, and `own` over them.

        `own`: US dollars per million tokens, in and out.
        """
        return cls(
            {**_built_in(), **{model: Price.per_million(*pair) for model, pair in (own or {}).items()}}
        )

    def price(self, model: str) -> Price | None:
        """None if it is not known."""
        return self._table.get(model) or self._table.get(_DATED.sub("", model))

    def listed(self, model: str) -> str | None:
        """Under which name the model's price is listed; None if it is not known."""
        undated = _DATED.sub("", model)
        return model if model in self._table else undated if undated in self._table else None

    def cost(self, model: str, tokens: Tokens) -> int:
        """Nano-USD; 0 where the price is not known."""
        price = self.price(model)
        return 0 if price is None else price.of(tokens)


@cache
def _built_in() -> dict[str, Price]:
    entries = json.loads(_TABLE.read_text())["usd_per_million_tokens"]
    return {model: Price.per_million(*pair) for model, pair in entries.items()}
