"""Questions in words, answered by the tools that they point at, with sentences of ours."""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_COURIER_UNKNOWN, ERROR_REASON_ORDER_UNKNOWN

from services.agents.engines.acts import refused_act
from services.agents.engines.intents import Call, Named, calls_of, names_in, wanted
from services.agents.engines.offers import HELP, NOT_UNDERSTOOD
from services.agents.engines.phrases import failure, is_idle, nobody, none_known, phrase
from services.agents.engines.words import paragraph
from services.agents.tools import Scope, ToolOutcome
from services.mesh.redact import redact_text

_log = logging.getLogger(__name__)

_CHANGED: Final = "Something was changed before this answer: the steps of the run show what."
_MAY_HAVE_CHANGED: Final = "Something may have been changed: the steps of the run show what was tried."
# Beside a request to act the state of its order is enough.
_STATE: Final = "Where is it?"
_OF_ORDERS: Final = frozenset({"get_order", "allocate_drivers"})
_WHAT_FOR: Final = re.compile(
    r"\bwhat (?:can|could|do|may) (?:you|i)\b|\bhelp\b|\bhow (?:can|do) (?:i|you)\b|\bwho are you\b",
    re.IGNORECASE,
)
_LISTS: Final = re.compile(
    r"\b(?:which|what|list|show|all|any|how many|ids? of)\b.{0,80}"
    r"\b(?:orders|couriers|drivers|riders|merchants)\b",
    re.IGNORECASE,
)


class Tools(Protocol):
    """What an answer is made with, such as a toolbox. Uses may be under way at the same time."""

    async def use(self, name: str, arguments: Mapping[str, Any], scope: Scope) -> ToolOutcome:
        """Uses a tool. Never raises but CancelledError."""


async def answer(
    question: str, scope: Scope, tools: Tools, *, changed: bool = False, may_have_changed: bool = False
) -> tuple[str, list[ToolOutcome]]:
    """The answer and the uses of tools it rests on. Never raises but CancelledError.

    `changed`: a model that got no further has changed something for this question before;
    `may_have_changed`: it has tried to, and nobody knows what became of it.
    """
    # A secret is no id, whatever it looks like: it would go into calls and their logs, and into the answer.
    question = redact_text(question)
    named = names_in(question, scope)
    refused = refused_act(question)
    if changed or may_have_changed:
        refused = _CHANGED if changed else _MAY_HAVE_CHANGED
    calls = calls_of(question, named)
    if refused and named.orders:
        calls = [call for call in calls if call.tool in _OF_ORDERS]
    if not calls:
        return refused or _asked_back(question), []
    used = await asyncio.gather(*(_use(call, named, scope, tools) for call in calls))
    told = [refused, *_about(question, named)]
    told += [_told(outcomes, question, acting=bool(refused)) for outcomes in used if outcomes]
    idle = [outcomes[-1] for outcomes in used if is_idle(outcomes[-1])]
    text = paragraph([*dict.fromkeys(told), none_known(idle)])
    return text, [outcome for outcomes in used for outcome in outcomes]


def _asked_back(question: str) -> str:
    if _LISTS.search(question) and not re.search(r"\bdeliver(?:y|ies)\b", question, re.IGNORECASE):
        return "I cannot list orders, couriers or merchants: name those you ask about by their ids."
    if _WHAT_FOR.search(question):
        return HELP
    missing = wanted(question)
    return f"I can say that if you name {missing}." if missing else f"{NOT_UNDERSTOOD} {HELP}"


def _about(question: str, named: Named) -> list[str]:
    """What is asked for and nobody here can tell."""
    if named.couriers and not named.orders and re.search(r"\bwhere\b", question, re.IGNORECASE):
        return ["I cannot see where couriers are, only the stops that they should make"]
    return []


def _told(outcomes: list[ToolOutcome], question: str, *, acting: bool) -> str:
    outcome = outcomes[-1]
    if len(outcomes) == 2 and all(_is_unknown(one) for one in outcomes):
        return nobody(outcome)
    try:
        return phrase(outcome, _STATE if acting else question, acting=acting)
    except Exception:
        # Whatever an engine says, the others' answers are told.
        _log.exception("what %s gave could not be worded", outcome.name)
        return failure(outcome)


def _is_unknown(outcome: ToolOutcome) -> bool:
    return outcome.error is not None and outcome.error.reason in (
        ERROR_REASON_ORDER_UNKNOWN,
        ERROR_REASON_COURIER_UNKNOWN,
    )


async def _use(call: Call, named: Named, scope: Scope, tools: Tools) -> list[ToolOutcome]:
    """What came of a call, the last that tells most. An id that is no order's may be a courier's."""
    outcome = await tools.use(call.tool, call.arguments, scope)
    asked = call.arguments.get("order_id")
    if call.tool != "get_order" or asked not in named.unsure or not _is_unknown(outcome):
        return [outcome]
    other = await tools.use("optimize_route", {"driver_id": asked}, scope)
    return [outcome, other] if other.error is None else [other, outcome]
