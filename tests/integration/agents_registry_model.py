"""What a registry has to do, as one would do it by hand in memory: no store, no bus, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["create", "update", "delete", "revert", "add"]
Tools = tuple[tuple[str, int | None], ...]


class Content(NamedTuple):
    """A spec. `tools`: each with its `timeout_s`, by name."""

    name: str
    description: str = ""
    temperature: float | None = None
    tools: Tools = ()

    def with_tool(self, tool: str, timeout_s: int | None) -> Content:
        return self._replace(tools=tuple(sorted({**dict(self.tools), tool: timeout_s}.items())))


NOTHING = Content("a")


@dataclass(frozen=True)
class Op:
    """A request. `target`: an identity; empty where one is to be made."""

    kind: Kind
    tenant: str
    target: str = ""
    content: Content = NOTHING
    version: int = 0
    expected: int = 0
    tool: str = ""
    timeout_s: int | None = None


class Made(NamedTuple):
    """A version."""

    kind: Kind
    content: Content
    reverted_to: int = 0
    tool: str = ""


@dataclass
class Agent:
    history: list[Made]

    @property
    def deleted(self) -> bool:
        return self.history[-1].kind == "delete"

    @property
    def content(self) -> Content:
        return self.history[-1].content


@dataclass
class Model:
    """Agents by tenant and identity. `apply` says `made`, `duplicate`, or why not."""

    agents: dict[tuple[str, str], Agent] = field(default_factory=dict)

    def named(self, tenant: str, name: str) -> str | None:
        """Identity of the living agent of this name."""
        for (whose, identity), agent in self.agents.items():
            if whose == tenant and not agent.deleted and agent.content.name == name:
                return identity
        return None

    def apply(self, op: Op) -> str:
        """Of a creation that succeeds, `register` must follow with the identity that was made."""
        if op.kind == "create":
            return self._create(op)
        agent = self.agents[op.tenant, op.target]
        newest = len(agent.history)
        if agent.deleted and op.kind in ("update", "add"):
            return "AGENT_DELETED"
        if op.expected not in (0, newest):
            made_before = op.expected < newest and self._is(agent.history[op.expected], op)
            return "duplicate" if made_before else "STALE_VERSION"
        if op.kind == "revert" and op.version > newest:
            return "VERSION_UNKNOWN"
        wish = self._wish(agent, op)
        if op.kind == "delete":
            if agent.deleted:
                return "duplicate"
        else:
            if not agent.deleted and wish.content == agent.content:
                return "duplicate"
            if self.named(op.tenant, wish.content.name) not in (None, op.target):
                return "AGENT_NAME_TAKEN"
        agent.history.append(wish)
        return "made"

    def register(self, op: Op, identity: str) -> None:
        assert (op.tenant, identity) not in self.agents
        self.agents[op.tenant, identity] = Agent([Made("create", op.content)])

    def copy(self) -> Model:
        return Model({key: Agent(list(agent.history)) for key, agent in self.agents.items()})

    def _create(self, op: Op) -> str:
        namesake = self.named(op.tenant, op.content.name)
        identity = op.target or namesake
        agent = self.agents.get((op.tenant, identity)) if identity else None
        if agent is not None:
            if agent.history[0].content != op.content:
                return "CONFLICTING_CONTENT" if op.target else "AGENT_NAME_TAKEN"
            return "AGENT_DELETED" if agent.deleted else "duplicate"
        return "made" if namesake is None else "AGENT_NAME_TAKEN"

    def _wish(self, agent: Agent, op: Op) -> Made:
        if op.kind == "update":
            return Made("update", op.content)
        if op.kind == "delete":
            return Made("delete", agent.content)
        if op.kind == "revert":
            return Made("revert", agent.history[op.version - 1].content, reverted_to=op.version)
        return Made("add", agent.content.with_tool(op.tool, op.timeout_s), tool=op.tool)

    def _is(self, made: Made, op: Op) -> bool:
        """Whether this version is what the request would have made."""
        if made.kind != op.kind:
            return False
        if op.kind == "update":
            return made.content == op.content
        if op.kind == "revert":
            return made.reverted_to == op.version
        if op.kind == "add":
            return made.tool == op.tool and dict(made.content.tools)[op.tool] == op.timeout_s
        return True
