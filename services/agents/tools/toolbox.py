"""The tools that agents may be given: what they are, their settings, and the call that never raises."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1.agent_registry_service_pb2 import CapabilityDescription
from waymesh.agent.v1.definition_pb2 import Capability
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_CAPABILITY_UNKNOWN,
    ERROR_REASON_DEADLINE_PASSED,
    ERROR_REASON_INVALID_FIELD,
    ERROR_REASON_TOOL_REFUSED,
)

from services.agents.tools.bounds import MAX_BYTES, bounded, dump
from services.agents.tools.catalogue import TOOLS
from services.agents.tools.desk import Clock, Desk
from services.agents.tools.scope import Scope
from services.agents.tools.signature import Tool
from services.agents.tools.untrusted import cleaned
from services.agents.tools.weather_api import WeatherSource
from services.mesh import deadline, json_codec
from services.mesh.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    translate,
)

_log = logging.getLogger(__name__)

MAX_TIMEOUT_S: Final = 30.0
MIN_BYTES: Final = 256
MOST_BYTES: Final = 65_536
MAX_CALLS: Final = 50
# The configuration of a capability: what each setting has to be, and whether it is.
_CONFIG: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    "timeout_s": ("must be above 0 and at most 30", lambda value: 0 < value <= MAX_TIMEOUT_S),
    "max_bytes": (
        "must be a whole number from 256 to 65536",
        lambda value: MIN_BYTES <= value <= MOST_BYTES and value == int(value),
    ),
    "max_calls": (
        "must be a whole number from 1 to 50",
        lambda value: 1 <= value <= MAX_CALLS and value == int(value),
    ),
}


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What came of one call. `text` is for the model: the result or the error as JSON, bounded."""

    name: str
    arguments: dict[str, Any]
    result: dict[str, Any] | None
    text: str
    error: MeshError | None
    duration_ms: float


class Toolbox:
    """All tools over the services' stubs; one object serves all runs of a process."""

    def __init__(
        self,
        eta: Any,
        route: Any,
        feedback: Any,
        weather: WeatherSource | None = None,
        clock: Clock = time.time,
        tools: Iterable[Tool] = TOOLS,
    ) -> None:
        """`eta`, `route` and `feedback` are async stubs whose calls raise MeshErrors."""
        self._eta = eta
        self._route = route
        self._feedback = feedback
        self._weather = weather
        self._clock = clock
        self._tools = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        self.names = frozenset(self._tools)

    def describe(self) -> list[CapabilityDescription]:
        """Every tool, by name, as the registry lists them."""
        described = []
        for tool in self._tools.values():
            parameters = Struct()
            parameters.update(tool.schema)
            described.append(
                CapabilityDescription(
                    capability_id=tool.name,
                    description=tool.description,
                    parameters=parameters,
                    changes_things=tool.changes_things,
                )
            )
        return described

    def check_config(self, name: str, config: Struct) -> None:
        """Raises NotFound (CAPABILITY_UNKNOWN), or InvalidArgument with every violation."""
        self._find(name)
        violations = []
        for key, value in json_codec.struct_to_dict(config).items():
            rule = _CONFIG.get(key)
            if rule is None:
                violations.append(FieldViolation(f"config.{key[:64]}", "is not a setting of tools"))
            elif isinstance(value, bool) or not isinstance(value, int | float) or not rule[1](value):
                violations.append(FieldViolation(f"config.{key}", rule[0]))
        if violations:
            raise InvalidArgument(
                f"the configuration of {name} is wrong",
                reason=ERROR_REASON_INVALID_FIELD,
                violations=violations,
            )

    def definitions(self, capabilities: Iterable[Capability]) -> tuple[dict[str, Any], ...]:
        """The tools of an agent as chat completions take them, strict."""
        return tuple(
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                    "strict": True,
                },
            }
            for capability in capabilities
            if (tool := self._tools.get(capability.capability_id)) is not None
        )

    async def call(
        self, name: str, arguments: str, scope: Scope, capability: Capability | None = None
    ) -> ToolOutcome:
        """Uses a tool with JSON arguments. Never raises but CancelledError.

        Without a `capability` the tool is not the agent's: refused. `max_calls` is for the caller to count.
        """
        begun = time.perf_counter()
        checked: dict[str, Any] = {}
        result: dict[str, Any] | None
        told: MeshError | None
        config = {} if capability is None else json_codec.struct_to_dict(capability.config)
        max_bytes = int(_setting(config, "max_bytes", MAX_BYTES))
        try:
            if capability is None or capability.capability_id != name:
                raise PermissionDenied(
                    "this agent has no such tool",
                    reason=ERROR_REASON_TOOL_REFUSED,
                    metadata={"tool": name[:64]},
                )
            tool = self._find(name)
            checked = tool.parse(arguments)
            found = await self._run(tool, checked, scope, _setting(config, "timeout_s", tool.timeout_s))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, MeshError):
                _log.exception("tool %s failed", name[:64])
            told = translate(error)
            result, text = None, bounded({"error": _told(told)}, max_bytes)[1]
        else:
            told = None
            result, text = bounded(found, max_bytes)
        taken_ms = (time.perf_counter() - begun) * 1000
        return ToolOutcome(name[:64], _jsonable(checked), result, text, told, taken_ms)

    async def use(self, name: str, arguments: Mapping[str, Any], scope: Scope) -> ToolOutcome:
        """Uses a tool for an engine of ours, which needs no capability; what may be seen stays the same."""
        return await self.call(name, dump(dict(arguments)), scope, Capability(capability_id=name))

    async def _run(
        self, tool: Tool, arguments: Mapping[str, Any], scope: Scope, timeout_s: float
    ) -> dict[str, Any]:
        desk = Desk(tool.name, scope, self._eta, self._route, self._feedback, self._weather, self._clock)
        with deadline.budget(timeout_s):
            try:
                async with asyncio.timeout(deadline.grant(timeout_s)):
                    return await tool.run(desk, **arguments)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{tool.name} took too long", reason=ERROR_REASON_DEADLINE_PASSED
                ) from None

    def _find(self, name: str) -> Tool:
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound(
                "there is no such tool",
                reason=ERROR_REASON_CAPABILITY_UNKNOWN,
                metadata={"capability_id": name[:64]},
            )
        return tool


def _setting(config: Mapping[str, object], name: str, default: float) -> float:
    """A setting that holds its rule, else the default: an agent's version may be older than a rule."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _CONFIG[name][1](value):
        return default
    return float(value)


def _told(error: MeshError) -> dict[str, Any]:
    """An error as a model may read it: what went wrong, and what it can mend."""
    told: dict[str, Any] = {
        "reason": error.reason_name or error.code.name,
        "message": cleaned(error.message, 300),
    }
    if error.violations:
        told["violations"] = [
            {"argument": cleaned(one.field), "problem": cleaned(one.description)}
            for one in error.violations[:20]
        ]
    return told


def _jsonable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump() if hasattr(value, "model_dump") else _listed(value)
        for name, value in arguments.items()
    }


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [each.model_dump() if hasattr(each, "model_dump") else each for each in value]
    return value
