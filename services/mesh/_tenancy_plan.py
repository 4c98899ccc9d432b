"""Which fields of a message type hold ids of a tenant, compiled once from its descriptor.

As those of the JSON codec, the functions are generated: they name each field, and messages without ids are
not looked into at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]
from waymesh.mesh.v1 import tenancy_pb2

from services.mesh import errors
from services.mesh._tenancy_ids import plain_text, qualify, told
from services.mesh.errors import FieldViolation, MeshError
from services.mesh.principal import MESH_TENANT

_STATUS: Final[Descriptor] = status_pb2.Status.DESCRIPTOR


class UnsupportedMarkError(TypeError):
    """A contract marks a field that cannot hold an id, or hides one in a map."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A message type, compiled."""

    marked: Callable[[Any], bool]
    """Whether a message has an id with a `/`, or a status, whose text may tell of one."""
    qualify: Callable[[Any, str], None]
    plain: Callable[[Any, str], None]


def is_marked(field: FieldDescriptor) -> bool:
    """Whether the contract says that the field holds ids of a tenant."""
    return bool(field.GetOptions().Extensions[tenancy_pb2.tenant_scoped])


def plain_error(error: MeshError, tenant: str) -> MeshError:
    """The error as the tenant may see it: the same one, unless it names one of its ids."""
    if tenant == MESH_TENANT:
        return error
    message = plain_text(error.message, tenant)
    metadata = {name: plain_text(text, tenant) for name, text in error.metadata.items()}
    violations = tuple(
        FieldViolation(plain_text(one.field, tenant), plain_text(one.description, tenant))
        for one in error.violations
    )
    if message == error.message and metadata == error.metadata and violations == error.violations:
        return error
    plain = type(error)(
        message,
        reason=error.reason,
        metadata=metadata,
        violations=violations,
        retry_after_s=error.retry_after_s,
    )
    plain.from_peer, plain.unsent = error.from_peer, error.unsent
    return plain.with_traceback(error.__traceback__)


def _plain_status(status: Any, tenant: str) -> None:
    error = errors.from_status(status)
    plain = plain_error(error, tenant)
    if plain is not error:
        status.CopyFrom(errors.to_status(plain))


_plans: dict[type[Message], Plan] = {}
# Globals of the generated functions; they find each other here by name, so types may hold themselves.
_namespace: dict[str, Any] = {
    "qualify": qualify,
    "told": told,
    "marked_status": lambda m: True,
    "qualify_status": lambda m, t: None,
    "plain_status": _plain_status,
}
_names: dict[Descriptor, str] = {_STATUS: "status"}
_holds: dict[Descriptor, bool] = {_STATUS: True}


def plan_of(kind: type[Message]) -> Plan:
    """The plan for a message type, compiled at the first call."""
    plan = _plans.get(kind)
    if plan is None:
        name = _generate(cast(Descriptor, kind.DESCRIPTOR))
        plan = _plans[kind] = Plan(*(_namespace[f"{what}_{name}"] for what in ("marked", "qualify", "plain")))
    return plan


def _has_ids(descriptor: Descriptor) -> bool:
    """Whether messages of this type hold an id of a tenant, however deep."""
    known = _holds.get(descriptor)
    if known is None:
        reached: dict[Descriptor, None] = {}
        pending = [descriptor]
        while pending:
            each = pending.pop()
            if each not in reached:
                reached[each] = None
                pending += [field.message_type for field in each.fields if field.message_type is not None]
        known = any(each is _STATUS or any(map(is_marked, each.fields)) for each in reached)
        _holds[descriptor] = known
    return known


def _generate(descriptor: Descriptor) -> str:
    """Makes the functions of a type and of those it holds; what their names end with."""
    name = _names.get(descriptor)
    if name is not None:
        return name
    name = _names[descriptor] = f"{descriptor.full_name.replace('.', '_')}_{len(_names)}"
    marked: list[str] = []
    qualified: list[str] = []
    plain: list[str] = []
    for field in descriptor.fields:
        of = f"m.{field.name}"
        inner = field.message_type
        if is_marked(field):
            if field.type != FieldDescriptor.TYPE_STRING:
                raise UnsupportedMarkError(f"{field.full_name} is no text: it cannot hold an id of a tenant")
            if field.is_repeated:
                marked.append(f"any('/' in v for v in {of})")
                qualified.append(f" if {of}: {of}[:] = [qualify(t, v) for v in {of}]")
                plain.append(f" if {of}: {of}[:] = [v and told(v, t) for v in {of}]")
            else:
                # An absent field reads as empty, and setting it would make it present.
                marked.append(f"'/' in {of}")
                qualified.append(f" if v := {of}: {of} = qualify(t, v)")
                plain.append(f" if v := {of}: {of} = told(v, t)")
        elif inner is None or not _has_ids(inner):
            continue
        elif inner.GetOptions().map_entry:
            raise UnsupportedMarkError(f"{field.full_name}: ids of a tenant in a map are not looked for")
        else:
            below = _generate(inner)
            if field.is_repeated:
                marked.append(f"any(map(marked_{below}, {of}))")
                loop = f" for x in {of}:"
                qualified.append(f"{loop} qualify_{below}(x, t)")
                plain.append(f"{loop} plain_{below}(x, t)")
            else:
                there = f"m.HasField({field.name!r})"
                marked.append(f"({there} and marked_{below}({of}))")
                qualified.append(f" if {there}: qualify_{below}({of}, t)")
                plain.append(f" if {there}: plain_{below}({of}, t)")
    source = [
        f"def marked_{name}(m): return {' or '.join(marked) or 'False'}",
        f"def qualify_{name}(m, t):",
        *(qualified or [" pass"]),
        f"def plain_{name}(m, t):",
        *(plain or [" pass"]),
    ]
    # The source is made of names from descriptors alone.
    exec(compile("\n".join(source), f"<tenancy of {descriptor.full_name}>", "exec"), _namespace)
    return name
