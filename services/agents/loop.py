"""A model and its tools, until there is an answer that holds: in shape, and with no number of its own."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from waymesh.agent.v1.definition_pb2 import Capability
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_REFUSED

from services.agents import prompts
from services.agents.catalogue import Agent
from services.agents.claims import Claims
from services.agents.grounding import Grounds, numbers_in
from services.agents.journal import Journal
from services.agents.links import has_link
from services.agents.llm import (
    Attempt,
    LanguageModels,
    Ledger,
    ModelFailure,
    ModelReply,
    ModelRequest,
    ModelSettings,
)
from services.agents.repeats import Repeats
from services.agents.spans import UNKNOWN_TOOL, GenAi
from services.agents.structs import checked, plain
from services.agents.tools import Scope, Toolbox, ToolOutcome
from services.agents.tools.signature import MAX_ARGUMENTS_CHARS
from services.agents.voice import Voice
from services.mesh import json_codec
from services.mesh.errors import MeshError, ResourceExhausted

# Calls of tools that one answer of a model may ask for; more are refused.
_MAX_CALLS_AT_ONCE: Final = 8
# The ladder keeps back what an answer without a model takes; this is for the end of a call. In seconds.
_RESERVE_S: Final = 0.02
# A longer text is no answer that anybody reads, and looking for its numbers takes time. In characters.
_MAX_CHARS: Final = 16_384
# Of why there is no answer.
_REASON_CHARS: Final = 240
# What stands under this name grounds no number.
UNTRUSTED: Final = "untrusted_text"
# Uses of one tool in one run, unless the capability says otherwise.
_MAX_CALLS: Final = 10


class NoAnswer(Exception):  # noqa: N818 - it says what there is
    """No model gave an answer that holds. `reason` is fit for callers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Brief:
    """What a model is to answer. `data` is the engines', `given` the caller's own, whose texts are nobody's
    word for a number. `words_count`: whether numbers that stand in the request may be repeated, as the
    caller's own; where engines answer, theirs alone count. `schema`: the shape of the answer, None for text.
    `claims` finds numbers that are the engines', but said of something else.
    """

    task: str
    request: str
    data: Mapping[str, object] = field(default_factory=dict)
    given: Mapping[str, object] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    words_count: bool = True
    claims: Claims | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """In what a run takes place."""

    agent: Agent
    scope: Scope
    journal: Journal
    voice: Voice
    models: ModelSettings
    max_steps: int
    ledger: Ledger | None
    fresh: bool
    today: datetime


@dataclass(frozen=True, slots=True)
class Spoken:
    """A model's answer; `output` where a shape was asked for. `fallback`: why it is not the first model's."""

    text: str
    output: Mapping[str, Any] | None
    fallback: str = ""


class Loop:
    """Runs conversations; one object serves all runs."""

    def __init__(self, models: LanguageModels, toolbox: Toolbox, spans: GenAi) -> None:
        self._models = models
        self._toolbox = toolbox
        self._spans = spans

    @property
    def available(self) -> bool:
        """Whether there is a model to ask."""
        return self._models.available

    async def run(self, brief: Brief, setting: Setting) -> Spoken:
        """The answer. Raises NoAnswer; CancelledError passes."""
        return await _Conversation(self._models, self._toolbox, self._spans, brief, setting).run()


class _Conversation:
    def __init__(
        self, models: LanguageModels, toolbox: Toolbox, spans: GenAi, brief: Brief, setting: Setting
    ) -> None:
        self._models = models
        self._toolbox = toolbox
        self._spans = spans
        self._brief = brief
        self._setting = setting
        spec = setting.agent.spec
        self._capabilities: dict[str, Capability] = {
            one.capability_id: one for one in spec.capabilities if one.capability_id in toolbox.names
        }
        self._calls: dict[str, int] = {}
        self._messages: list[prompts.Chat] = [
            prompts.system(spec.instructions, agent=setting.agent.name, task=brief.task, today=setting.today),
            prompts.user(brief.request, {**brief.data, **brief.given}),
        ]
        self._repeats = Repeats(str(self._messages[0]["content"]))
        self._sources: list[object] = [*brief.data.values(), *map(_texts_apart, brief.given.values())]
        if brief.words_count:
            self._sources.append(brief.request[:_MAX_CHARS])
        self._fallback = ""
        # Those that may still be asked.
        self._asked = setting.models
        # What was wrong with an answer of a model, for callers.
        self._slips: dict[str, str] = {}
        self._right: list[ModelReply] = []

    async def run(self) -> Spoken:
        for step in range(self._setting.max_steps):
            last = step + 1 == self._setting.max_steps
            reply = await self._ask(tools=not last)
            if reply.tool_uses:
                self._setting.voice.end(None)
                self._right.append(reply)
                await self._use_tools(reply)
                continue
            wrong = self._wrong(reply)
            if not wrong:
                self._setting.voice.end(None if self._brief.schema is not None else reply.text)
                # Not before: a use of a tool is right if it led to an answer.
                self._models.keep([*self._right, reply])
                return Spoken(reply.text, reply.parsed, self._fallback)
            self._setting.voice.end(None)
            self._slipped(reply.model, wrong[0])
            # A model that comes after is told as well: it has to know what was done so far, tools included.
            self._messages += [prompts.said(reply.text[:_MAX_CHARS]), prompts.correction(wrong[1])]
        raise self._no_answer(f"no answer within {self._setting.max_steps} steps")

    def _slipped(self, model: str, wrong: str) -> None:
        """A model may be wrong once; then those after it are asked. Raises NoAnswer if there are none."""
        again = model in self._slips
        self._slips[model] = wrong
        if not again:
            return
        later = self._models.after(model, self._asked)
        if later is None:
            raise self._no_answer()
        self._asked = later
        self._fallback = self._fallback or f"{model}: {wrong}"

    def _no_answer(self, why: str = "") -> NoAnswer:
        """With all that was wrong before."""
        slips = [f"{model}: {wrong}" for model, wrong in self._slips.items()]
        return NoAnswer("; ".join([*slips, *filter(None, [why])])[:_REASON_CHARS])

    async def _ask(self, *, tools: bool) -> ModelReply:
        setting, voice = self._setting, self._setting.voice
        offered = self._toolbox.definitions(self._capabilities.values()) if tools else ()
        request = ModelRequest(
            messages=tuple(self._messages),
            tools=offered,
            schema=self._brief.schema,
            settings=self._asked,
            cache_scope=_cache_scope(setting),
            fresh=setting.fresh,
        )
        streams = voice.wanted and self._brief.schema is None
        if streams:
            voice.begin(Grounds(*self._sources), tools_offered=bool(offered), repeats=self._repeats)
        with self._spans.chat(request) as span:
            try:
                reply = await self._models.complete(
                    request,
                    ledger=setting.ledger,
                    on_text=voice.hear if streams else None,
                    on_restart=voice.restart if streams else None,
                    on_given_up=self._note,
                    reserve_s=_RESERVE_S,
                )
            except ModelFailure as failure:
                self._note(failure.attempts)
                voice.end(None)
                raise self._no_answer(failure.reason) from failure
            span.replied(reply)
        setting.journal.model_answered(reply)
        if reply.model != self._asked.model and reply.failed and not self._fallback:
            first = reply.failed[0]
            self._fallback = f"{first.model}: {first.error_kind}"
        return reply

    def _note(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._setting.journal.model_failed(attempt)

    async def _use_tools(self, reply: ModelReply) -> None:
        self._messages.append(
            prompts.tool_calls(reply.text, [(use.id, use.name, use.arguments) for use in reply.tool_uses])
        )
        uses = reply.tool_uses[:_MAX_CALLS_AT_ONCE]
        journal = self._setting.journal
        steps = [journal.tool_begins(use.name, _shown(use.arguments)) for use in uses]
        outcomes = await asyncio.gather(*(self._use(use.name, use.arguments) for use in uses))
        for step, use, outcome in zip(steps, uses, outcomes, strict=True):
            journal.tool_answered(step, outcome)
            self._messages.append(prompts.tool_result(use.id, outcome.text))
            if outcome.result is not None:
                self._sources.append(outcome.result)
        for use in reply.tool_uses[_MAX_CALLS_AT_ONCE:]:
            refusal = json.dumps({"error": f"at most {_MAX_CALLS_AT_ONCE} calls at once"})
            self._messages.append(prompts.tool_result(use.id, refusal))

    async def _use(self, name: str, arguments: str) -> ToolOutcome:
        capability = self._capabilities.get(name)
        self._calls[name] = self._calls.get(name, 0) + 1
        if capability is not None and self._calls[name] > _most_calls(capability):
            return _used_up(name)
        # A model may make up names, as many as it likes.
        with self._spans.tool(name if name in self._toolbox.names else UNKNOWN_TOOL) as span:
            outcome = await self._toolbox.call(name, arguments, self._setting.scope, capability)
            span.used(outcome)
        return outcome

    def _wrong(self, reply: ModelReply) -> tuple[str, str] | None:
        """What is wrong with an answer: for callers, and for the model."""
        if len(reply.text) > _MAX_CHARS:
            return "its answer is too long", prompts.TOO_LONG
        said = [reply.text] if reply.parsed is None else list(_leaves(reply.parsed))
        if any(map(has_link, said)):
            return "its answer has a link or HTML", prompts.NO_LINKS
        if any(map(self._repeats.within, said)):
            return "its answer repeats its instructions", prompts.NO_INSTRUCTIONS
        if not any(map(numbers_in, said)):
            return None  # what the sources give need not be looked at
        grounds = Grounds(*self._sources)
        unknown = [number for each in said for number in grounds.ungrounded(each)]
        if unknown:
            numbers = ", ".join(unknown[:10])
            return "numbers that no engine gave", prompts.CORRECTION.format(numbers=numbers)
        claimed = [] if self._brief.claims is None else self._brief.claims(reply.text)
        if claimed:
            return "an arrival that is not the engine's", prompts.CLAIMS.format(numbers=", ".join(claimed))
        return None


def _cache_scope(setting: Setting) -> str:
    agent = setting.agent
    return f"{setting.scope.tenant}/{agent.agent_id}@{agent.version}"


def _most_calls(capability: Capability) -> float:
    """How often one run may use a tool."""
    fields = capability.config.fields
    return fields["max_calls"].number_value if "max_calls" in fields else _MAX_CALLS


def _used_up(name: str) -> ToolOutcome:
    error = ResourceExhausted(
        "this run has used the tool as often as it may",
        reason=ERROR_REASON_TOOL_REFUSED,
        metadata={"tool": name},
    )
    text = json.dumps({"error": {"reason": error.reason_name, "message": error.message}})
    return ToolOutcome(name, {}, None, text, error, 0.0)


def _texts_apart(value: object) -> object:
    """A caller's data as a source of numbers: those that are numbers, not those that stand in some text."""
    if isinstance(value, Mapping):
        return {name: _texts_apart(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_texts_apart(each) for each in value]
    return {UNTRUSTED: value[:_MAX_CHARS]} if isinstance(value, str) else value


def _leaves(value: object) -> Iterator[str]:
    """All that a structured answer says; the names of its fields are its schema's."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield repr(value)


def _shown(arguments: str) -> Mapping[str, Any]:
    """Arguments as a model wrote them, for those who watch: nothing of what no message can hold."""
    if len(arguments) > MAX_ARGUMENTS_CHARS:
        return {}
    try:
        return plain(checked(json_codec.parse(arguments)))
    except MeshError:
        return {}
