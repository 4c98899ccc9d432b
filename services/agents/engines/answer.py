"""Questions in words, answered by the tools that they point at, with sentences of ours."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN

from services.agents.engines.intents import Call, Named, calls_of, names_in
from services.agents.engines.phrases import failure, phrase
from services.agents.tools import Scope, ToolOutcome

_log = logging.getLogger(__name__)

_HELP: Final = (
    "I can say where an order is, when it arrives and why, what stops a courier makes, how long a way takes"
    " between places, how deliveries of a kind went, and what agents did of late. Name an order or a courier"
    " by its id, or places by their coordinates."
)


class Tools(Protocol):
    """What an answer is made with, such as a toolbox. Uses may be under way at the same time."""

    async def use(self, name: str, arguments: Mapping[str, Any], scope: Scope) -> ToolOutcome:
        """Uses a tool. Never raises but CancelledError."""


async def answer(question: str, scope: Scope, tools: Tools) -> tuple[str, list[ToolOutcome]]:
    """The answer and the uses of tools it rests on. Never raises but CancelledError."""
    named = names_in(question, scope)
    calls = calls_of(question, named)
    if not calls:
        return _HELP, []
    used = await asyncio.gather(*(_use(call, named, scope, tools) for call in calls))
    told = [_told(outcomes[-1], question) for outcomes in used]
    text = " ".join(dict.fromkeys(each for each in told if each))
    return text, [outcome for outcomes in used for outcome in outcomes]


def _told(outcome: ToolOutcome, question: str) -> str:
    try:
        return phrase(outcome, question)
    except Exception:
        # Whatever an engine says, the others' answers are told.
        _log.exception("what %s gave could not be worded", outcome.name)
        return failure(outcome)


async def _use(call: Call, named: Named, scope: Scope, tools: Tools) -> list[ToolOutcome]:
    """What came of a call, the last that tells most. An id that is no order's may be a courier's."""
    outcome = await tools.use(call.tool, call.arguments, scope)
    asked = call.arguments.get("order_id")
    unknown = outcome.error is not None and outcome.error.reason == ERROR_REASON_ORDER_UNKNOWN
    if call.tool != "get_order" or asked not in named.unsure or not unknown:
        return [outcome]
    other = await tools.use("optimize_route", {"driver_id": asked}, scope)
    return [outcome, other] if other.error is None else [other, outcome]
