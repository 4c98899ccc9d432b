"""Language models on the mock server, and a ledger that remembers everything."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BUDGET_EXHAUSTED

from services.agents.llm import LanguageModels, ModelRequest, ModelsConfig, ModelSettings, Prices
from services.mesh.errors import ResourceExhausted
from tests.mock_openai import MockOpenAI

KEY = "sk-test-0123456789abcdefghij"
FIRST, SECOND = "first", "second"
PRICES = Prices.built_in({FIRST: (2.0, 8.0), SECOND: (0.4, 1.6)})
QUESTION = ({"role": "user", "content": "Where is order 17?"},)
SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}, "minutes": {"type": "number", "exclusiveMinimum": 0}},
    "required": ["order_id", "minutes"],
    "additionalProperties": False,
}
RIGHT = '{"order_id": "17", "minutes": 12.5}'
TOOL = {"type": "function", "function": {"name": "get_order", "parameters": {"type": "object"}}}


def config(server: MockOpenAI, **changes: Any) -> ModelsConfig:
    """Two models of known price on the mock."""
    return ModelsConfig(
        **{
            "api_key": SecretStr(KEY),
            "base_url": server.base_url,
            "model": FIRST,
            "fallback_models": (SECOND,),
            "prices": PRICES,
            **changes,
        }
    )


def request(**changes: Any) -> ModelRequest:
    """A plain question; `timeout_s` and the like go to the settings."""
    settings = {name: changes.pop(name) for name in list(changes) if name in ModelSettings.__slots__}
    return ModelRequest(messages=QUESTION, settings=ModelSettings(**settings), **changes)


@asynccontextmanager
async def models(server: MockOpenAI, **options: Any) -> AsyncIterator[LanguageModels]:
    """Language models that do not wait between tries; afterwards no connection of theirs is open."""
    settings = {name: options.pop(name) for name in list(options) if name in ModelsConfig.__slots__}
    made = LanguageModels(config(server, **settings), **{"jitter": lambda: 0.0, **options})
    try:
        yield made
    finally:
        await made.close()
        await server.until(lambda: server.open_connections == 0)


@dataclass
class Book:
    """A ledger in memory. `limit`: nano-USD at most, spent and held together."""

    limit: int | None = None
    limits_money: bool = True
    held: dict[int, tuple[int, int]] = field(default_factory=dict)
    settled: list[tuple[int, int, int]] = field(default_factory=list)
    reserved: int = 0
    before_reserve: Callable[[], Any] | None = None
    before_settle: Callable[[], Any] | None = None

    async def reserve(self, nano_usd: int, tokens: int, likely_tokens: int | None = None) -> int:
        assert likely_tokens is None or likely_tokens <= tokens
        if self.before_reserve is not None:
            await self.before_reserve()
        spent = sum(cost for _, cost, _ in self.settled) + sum(cost for cost, _ in self.held.values())
        if self.limit is not None and spent + nano_usd > self.limit:
            raise ResourceExhausted("the budget is used up", reason=ERROR_REASON_BUDGET_EXHAUSTED)
        self.reserved += 1
        self.held[self.reserved] = (nano_usd, tokens)
        return self.reserved

    async def settle(self, hold: int, nano_usd: int, tokens: int) -> None:
        if self.before_settle is not None:
            await self.before_settle()
        most, most_tokens = self.held.pop(hold)  # a second settlement of the same hold is a KeyError
        assert nano_usd <= most
        assert tokens <= most_tokens
        self.settled.append((hold, nano_usd, tokens))

    def is_even(self) -> bool:
        """Whether each hold was settled, and once."""
        return not self.held and sorted(hold for hold, _, _ in self.settled) == [*range(1, self.reserved + 1)]


class Pieces:
    """What a caller sees of a stream."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.restarts = 0
        self.after_restart = 0

    def text(self, piece: str) -> None:
        if self.restarts:
            self.after_restart += 1
        self.told.append(piece)

    def restart(self) -> None:
        self.restarts += 1


async def settled_loop() -> None:
    """Lets what was just ended finish: closed generators and connections."""
    for _ in range(5):
        await asyncio.sleep(0)


def responses(asked: LanguageModels) -> list[Any]:
    """All responses from now on, kept alive: whatever ends them is not that nobody holds them any more."""
    kept: list[Any] = []

    async def keep(response: Any) -> None:
        kept.append(response)

    assert asked._means is not None
    asked._means.transport._client._client.event_hooks["response"].append(keep)
    return kept
