"""Whether a complete answer is one that may be used."""

import json
from dataclasses import dataclass
from typing import Any

from services.agents.llm.answer import Answer
from services.agents.llm.kinds import CallError, ErrorKind
from services.agents.llm.reply import ToolUse
from services.agents.llm.schema import Shape


@dataclass(frozen=True, slots=True)
class Usable:
    """An answer that keeps the rules; `parsed` where a shape was asked for and no tool is used."""

    text: str
    tool_uses: tuple[ToolUse, ...]
    parsed: Any | None
    finish_reason: str


def judge(answer: Answer, shape: Shape | None, may_use_tools: bool) -> Usable:
    """Raises CallError for an answer that is refused, filtered, cut, empty or of another shape.

    A tool's arguments may be wrong: the tool says so, and the model can mend them.
    """
    text, uses = answer.text, answer.tool_uses
    cut = answer.finish_reason == "length"
    if answer.finish_reason == "content_filter":
        raise CallError(ErrorKind.CONTENT_FILTER)
    if answer.refusal:
        raise CallError(ErrorKind.REFUSAL)
    if any(not use.name for use in uses) or (uses and not may_use_tools):
        raise CallError(ErrorKind.MALFORMED, "calls a tool that has no name, or has none to call")
    if not text.strip() and not uses:
        raise CallError(ErrorKind.TRUNCATED if cut else ErrorKind.MALFORMED, "an empty answer")
    if cut and uses and not all(_is_json(use.arguments) for use in uses):
        raise CallError(ErrorKind.TRUNCATED)
    parsed = None
    if shape is not None and not uses:
        try:
            parsed = shape.read(text)
        except CallError:
            if cut:
                raise CallError(ErrorKind.TRUNCATED) from None
            raise
    return Usable(text, uses, parsed, answer.finish_reason or "stop")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
