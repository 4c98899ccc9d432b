"""Takes a request to a run and its answer: which agent, within which limits, under which identity."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1.agent_service_pb2 import GetSpendingResponse
from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.accounts import Accounts
from services.agents.catalogue import Agent, Catalogue
from services.agents.journal import Journal
from services.agents.ladder import Ladder
from services.agents.llm import ModelSettings
from services.agents.loop import Setting
from services.agents.outcomes import Acting
from services.agents.runs import bounds
from services.agents.runs.endings import Answer
from services.agents.runs.live import LiveRuns
from services.agents.runs.live_run import LiveRun
from services.agents.runs.record import NewRun
from services.agents.settings import AgentsSettings
from services.agents.spans import GenAi
from services.agents.structs import struct
from services.agents.tasks.context import Context, Peers
from services.agents.tasks.kinds import Kind
from services.agents.tools import Scope, Toolbox
from services.agents.voice import Voice
from services.mesh import deadline, json_codec, principal
from services.mesh.errors import FieldViolation, NotFound
from services.mesh.feedback.dispatcher import Dispatcher
from services.mesh.feedback.outcome import new_id
from services.mesh.redact import redact_text

# Kept back of a caller's time for the way there and back. In seconds.
_WAY_S: Final = 0.05
_DEFAULT_STEPS: Final = 8
# More data than a model reads at once, and than is recorded of it.
_MAX_INPUT_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Means:
    """What runs are done with; one of a process."""

    settings: AgentsSettings
    catalogue: Catalogue
    live: LiveRuns
    ladder: Ladder
    toolbox: Toolbox
    peers: Peers
    dispatcher: Dispatcher
    spans: GenAi
    accounts: Accounts


class Runner:
    """One object serves all requests."""

    def __init__(self, means: Means, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._means = means
        self._clock = clock

    async def answer(self, kind: Kind, request: Any) -> Any:
        """The answer of a run, which is done now or was before. Raises the error with which it ended.

        A caller that goes away ends the run, unless it was begun by another.
        """
        live = self._means.live
        agent = await self._agent(kind, request)
        if agent is None:
            end = await live.wait(principal.current().tenant, request.run_id)
        else:
            new, work, limit_s = self._prepare(kind, request, agent, watched=False)
            end = await live.answer(new, work, limit_s=limit_s)
        return end.answer(kind.response)

    async def begin(self, kind: Kind, request: Any) -> str:
        """Begins a run that goes on by itself, or finds it; its run_id. Raises as LiveRuns.begin does."""
        agent = await self._agent(kind, request)
        if agent is None:
            return str(request.run_id)
        new, work, limit_s = self._prepare(kind, request, agent, watched=True)
        await self._means.live.begin(new, work, limit_s=limit_s)
        return new.run_id

    async def spending(self) -> GetSpendingResponse:
        """What the caller's key and agents have spent today. Raises Unavailable."""
        return await self._means.accounts.spending(principal.current(), self._means.catalogue)

    async def _agent(self, kind: Kind, request: Any) -> Agent | None:
        """Who does it; None if nobody could any more, but it was done before. Raises NotFound."""
        tenant = principal.current().tenant
        try:
            return self._means.catalogue.find(tenant, request.agent or kind.agent)
        except NotFound:
            store = self._means.live.store
            if request.run_id and await store.knows(tenant, request.run_id, _hash(kind, request)):
                return None
            raise

    def _prepare(
        self, kind: Kind, request: Any, agent: Agent, *, watched: bool
    ) -> tuple[NewRun, Callable[[LiveRun], Awaitable[Answer]], float]:
        _check_size(request)
        whom = principal.current()
        new = NewRun(
            run_id=request.run_id or new_id(),
            tenant=whom.tenant,
            key=whom.key,
            agent_id=agent.agent_id,
            agent_name=agent.name,
            agent_version=agent.version,
            task=kind.name,
            input=_kept(request),
            request_hash=_hash(kind, request),
            workflow_id=new_id() if kind.workflow else "",
            created_at=self._clock(),
            # What changes something is recorded before it is begun, as is what may have been done before.
            own_id=not request.run_id and not _may_change(request),
        )

        async def work(live: LiveRun) -> Answer:
            return await self._work(kind, request, agent, live, watched)

        return new, work, self._limit_s(agent)

    def _limit_s(self, agent: Agent) -> float:
        """Seconds that a run may take: the agent's, the service's or the caller's, whichever is least."""
        limits = agent.spec.config.limits
        own_s = (
            limits.max_duration_s if limits.HasField("max_duration_s") else self._means.settings.run_timeout_s
        )
        left_s = deadline.remaining()
        return own_s if left_s is None else max(0.0, min(own_s, left_s - min(_WAY_S, left_s / 10)))

    async def _work(self, kind: Kind, request: Any, agent: Agent, live: LiveRun, watched: bool) -> Answer:
        means, new = self._means, live.new
        account = live.account = means.accounts.account(agent, new, principal.current().name)
        scope = Scope(tenant=new.tenant)
        kind.scope_of(request, scope)
        # A secret opens nothing: no model has it looked up.
        scope.words = redact_text(scope.words)
        journal = Journal(live.emit, self._clock, live.steps, live.usage)
        voice = Voice(live.token if watched else None)
        setting = Setting(
            agent=agent,
            scope=scope,
            journal=journal,
            voice=voice,
            models=self._model_settings(agent),
            max_steps=agent.spec.config.limits.max_steps or _DEFAULT_STEPS,
            ledger=account,
            fresh=bool(getattr(_options(request), "fresh", False)),
            today=new.created_at,
        )
        context = Context(
            run_id=new.run_id,
            workflow_id=new.workflow_id,
            setting=setting,
            ladder=means.ladder,
            slot=lambda: means.accounts.slot(agent, new),
            peers=means.peers,
            toolbox=means.toolbox,
            dispatcher=means.dispatcher,
        )
        with means.spans.agent(agent, task=kind.name, run_id=new.run_id, workflow_id=new.workflow_id):
            acting = Acting(agent, lambda: kind.run(request, context), kind.text)
            response = await acting.done(means.dispatcher, kind.name, live)
        text = str(getattr(response, kind.text))
        output: Struct | None = None
        if "output" in response.DESCRIPTOR.fields_by_name and response.HasField("output"):
            output = response.output
        degradation: Degradation | None = response.degradation if response.HasField("degradation") else None
        return Answer(response, text, output, degradation, voice.streamed(text))

    def _model_settings(self, agent: Agent) -> ModelSettings:
        """The agent's settings, the service's where it has none."""
        own, service = agent.spec.config.model, self._means.settings
        return ModelSettings(
            model=own.model or service.openai_model,
            fallback_models=tuple(own.fallback_models) or service.openai_fallback_models,
            temperature=own.temperature if own.HasField("temperature") else service.temperature,
            max_output_tokens=own.max_output_tokens or service.max_output_tokens,
            timeout_s=own.timeout_s or service.model_timeout_s,
        )


def _check_size(request: Any) -> None:
    """Raises InvalidArgument for more than a run can use: to record and to read it takes time."""
    if "input" in request.DESCRIPTOR.fields_by_name and request.input.ByteSize() > _MAX_INPUT_BYTES:
        raise json_codec.invalid_fields(
            [FieldViolation("input", f"must be at most {_MAX_INPUT_BYTES >> 10} KiB, as protobuf")]
        )


def _may_change(request: Any) -> bool:
    """Whether a run may change more than its own record."""
    return bool(getattr(request, "commit", False) or getattr(_options(request), "allow_changes", False))


def _options(request: Any) -> Any:
    return getattr(request, "options", None)


def _kept(request: Message) -> bytes:
    """What was asked, as it is recorded."""
    given = struct(json_codec.to_dict(request))
    return bounds.kept_struct(given, bounds.MAX_INPUT_BYTES).SerializeToString()


def _hash(kind: Kind, request: Any) -> bytes:
    """Tells requests apart that name the same run; whether a name is given for the run is no difference."""
    digest = blake2b(kind.name.encode() + b"\0", digest_size=16)
    if request.run_id:
        named, request = request, type(request)()
        request.CopyFrom(named)
        request.ClearField("run_id")
    digest.update(request.SerializeToString(deterministic=True))
    return digest.digest()
