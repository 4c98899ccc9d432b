"""What an agent's versions are and how they differ. Pure: no clock, no store."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from waymesh.agent.v1.agent_registry_service_pb2 import CapabilityDescription
from waymesh.agent.v1.definition_pb2 import AgentChange, AgentDefinition, AgentSpec, AgentVersion, FieldChange

from services.mesh.principal import DEFAULT_TENANT

BUILT_IN_TENANT: Final = DEFAULT_TENANT
"""Whose the built-in agents are; every tenant sees them."""

_IDS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "agents.waymesh")
_CAPABILITIES: Final = AgentSpec.DESCRIPTOR.fields_by_name["capabilities"]


class CapabilityBook(Protocol):
    """The tools there are. `services.agents.tools` has the real one, tests a small one."""

    @property
    def names(self) -> frozenset[str]:
        """Of all tools."""
        ...

    def describe(self) -> Sequence[CapabilityDescription]:
        """All tools and what they take."""
        ...

    def check_config(self, name: str, config: Struct) -> None:
        """Raises InvalidArgument with violations, paths within the configuration; NotFound for no tool."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """An agent as the store has it now."""

    tenant: str
    agent_id: str
    first_name: str
    built_in: bool
    version: int
    spec: AgentSpec
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    changed: int
    """Number of its last change among those of all agents."""

    def definition(self, spec: AgentSpec | None = None) -> AgentDefinition:
        """As callers see it, with the spec of an earlier version if one is given."""
        made = AgentDefinition(
            agent_id=self.agent_id, version=self.version, spec=spec or self.spec, built_in=self.built_in
        )
        made.created_at.FromDatetime(self.created_at)
        made.updated_at.FromDatetime(self.updated_at)
        if self.deleted_at is not None:
            made.deleted_at.FromDatetime(self.deleted_at)
        return made


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an agent."""

    version: int
    change: AgentChange.ValueType
    spec: AgentSpec
    changed_by: str
    changed_at: datetime
    reverted_to: int = 0
    capability_id: str = ""
    by_software: bool = False

    def told(self, before: AgentSpec | None) -> AgentVersion:
        """As callers see it, beside the spec of the version before."""
        made = AgentVersion(
            version=self.version,
            change=self.change,
            reverted_to=self.reverted_to,
            spec=self.spec,
            changed_by=self.changed_by,
            changes=() if before is None else diff(before, self.spec),
        )
        made.changed_at.FromDatetime(self.changed_at)
        return made


def derived_id(tenant: str, name: str, created_before: int) -> str:
    """The identity of an agent whose creator named none.

    UUIDv5 of the tenant, the name, and how many agents of the tenant began with that name.
    """
    return str(uuid.uuid5(_IDS, f"{tenant}|{name}|{created_before}"))


def normalised(spec: AgentSpec) -> AgentSpec:
    """The spec in the one form in which specs are kept: nothing empty in it, capabilities by name.

    What says the same is the same: a retry need not be written like the first try.
    """
    made = AgentSpec()
    made.CopyFrom(spec)
    made.DiscardUnknownFields()
    _drop_empty(made)
    capabilities = sorted(made.capabilities, key=lambda one: one.capability_id)
    del made.capabilities[:]
    made.capabilities.extend(capabilities)
    return made


def same(one: AgentSpec, other: AgentSpec) -> bool:
    """Whether nothing is different between them."""
    return not diff(one, other)


def diff(before: AgentSpec, after: AgentSpec) -> list[FieldChange]:
    """What is different, field by field in the order of the contract; lists and schemas as a whole."""
    old, new = _values(before), _values(after)
    changes = []
    for path in sorted({**old, **new}, key=_place):
        was, is_ = old.get(path), new.get(path)
        if was == is_:
            continue
        if was is not None and is_ is not None and path.startswith("capabilities."):
            path += ".config"
            was, is_ = _config(was), _config(is_)
        changes.append(FieldChange(field=path, before=was, after=is_))
    return changes


def _values(spec: AgentSpec) -> dict[str, Value]:
    """Every value that is set, by its path; a capability by its name."""
    found: dict[str, Value] = {}
    _collect(normalised(spec), "", found)
    return found


def _collect(message: Message, path: str, found: dict[str, Value]) -> None:
    for field, value in message.ListFields():
        here = f"{path}{field.name}"
        if field == _CAPABILITIES:
            for one in value:
                found[f"{here}.{one.capability_id}"] = _capability(one)
        elif isinstance(value, Struct):
            found[here] = Value(struct_value=value)
        elif isinstance(value, Message):
            _collect(value, f"{here}.", found)
        else:
            found[here] = _value(value, repeated=field.is_repeated)


def _capability(one: Any) -> Value:
    made = Value()
    made.struct_value.SetInParent()
    if one.HasField("config"):
        made.struct_value.fields["config"].struct_value.CopyFrom(one.config)
    return made


def _config(capability: Value) -> Value | None:
    fields = capability.struct_value.fields
    return fields.get("config", None)


def _value(value: Any, *, repeated: bool) -> Value:
    made = Value()
    if repeated:
        made.list_value.values.extend(_value(one, repeated=False) for one in value)
    elif isinstance(value, str):
        made.string_value = value
    else:
        made.number_value = value
    return made


def _place(path: str) -> list[tuple[int, str]]:
    """Where a path stands in the contract."""
    place = []
    holder: Any = AgentSpec.DESCRIPTOR
    for name in path.split("."):
        field = holder.fields_by_name.get(name) if holder is not None else None
        place.append((field.number if field is not None else 0, name))
        holder = field.message_type if field is not None and not field.is_repeated else None
    return place


def _drop_empty(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if field.is_repeated else (value,):
            if not isinstance(one, Struct):
                _drop_empty(one)
        if not field.is_repeated and not value.ListFields():
            message.ClearField(field.name)
