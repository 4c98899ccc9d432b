"""Questions in words, answered by the tools that they point at, with sentences of ours."""

import asyncio

from services.agents.engines.intents import Call, read
from services.agents.engines.phrases import phrase
from services.agents.tools import Scope, Toolbox, ToolOutcome

_HELP = (
    "I can say where an order is, when it arrives and why, what stops a courier makes, how long a way takes"
    " between two places, how deliveries of a kind went, and what agents did of late. Name an order or a"
    " courier by its id, or two places by their coordinates."
)


async def answer(question: str, scope: Scope, toolbox: Toolbox) -> tuple[str, list[ToolOutcome]]:
    """The answer and the calls it rests on. Never raises but CancelledError."""
    calls = read(question, scope)
    if not calls:
        return _HELP, []
    outcomes = list(await asyncio.gather(*(_use(call, scope, toolbox) for call in calls)))
    told = [phrase(outcome, question) for outcome in outcomes]
    return " ".join(dict.fromkeys(each for each in told if each)), outcomes


async def _use(call: Call, scope: Scope, toolbox: Toolbox) -> ToolOutcome:
    return await toolbox.use(call.tool, call.arguments, scope)
