"""Checks requests against the rules of the contract, and of the mesh, before a handler sees them."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import protovalidate
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import DecodeError, Message
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD, ERROR_REASON_MALFORMED_BODY

from services.mesh import holdable, principal, tenancy
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.errors import MAX_VIOLATIONS, FieldViolation, InvalidArgument
from services.mesh.json_codec import enum_texts

M = TypeVar("M", bound=Message)

# Stands for a message whose bytes could not be read: grpc would answer UNKNOWN with the parser's own words.
_UNREADABLE: Final = object()

# protovalidate counts in the plural only: "must be at least 1 characters".
_ONE: Final = re.compile(r"\b1 (byte|character|item|pair)s\b")

# protovalidate tells these by numbers, or not at all: "must not be in list [0]".
_ENUM_RULES: Final = frozenset({"enum.not_in", "enum.defined_only"})

# protovalidate says "repeated value must contain unique items".
_OWN_WORDS: Final[Mapping[str, str]] = {"repeated.unique": "must have each item only once"}

# What else is wrong with a message that breaks a rule of its contract, by type.
MoreFaults = Mapping[type[Message], Callable[[Any], list[FieldViolation]]]
_NO_MORE: Final[MoreFaults] = MappingProxyType({})

# How messages are told at a glance to be right, by type.
_glances: Final[dict[type[Message], Callable[[Any], bool]]] = {}

_collect = protovalidate.Validator().collect_violations


def readable(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The deserializer, which leaves what it cannot read to this link."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _UNREADABLE

    return read


def at_a_glance(kind: type[M], right: Callable[[M], bool]) -> None:
    """From now on messages for which `right` is true are not looked at closely.

    For what comes in large numbers, and can be told faster than rule by rule. False says nothing.
    """
    _glances[kind] = right


def check(message: Message, more: MoreFaults = _NO_MORE) -> None:
    """Raises InvalidArgument with one violation per broken rule, paths from the message's root.

    What no message may hold is looked at first: a rule that computes need not cope with it. Where a rule is
    broken, `more` says what a handler would have found besides.
    """
    right = _glances.get(type(message))
    if right is not None and right(message):
        return
    broken = holdable.faults(message)
    if broken:
        raise invalid(broken)
    violations = _collect(message)
    if violations:
        found = [to_field_violation(violation, message) for violation in violations]
        look = more.get(type(message))
        if look is not None:
            named = {violation.field for violation in found}
            found += [violation for violation in look(message) if violation.field not in named]
        raise invalid(found)


def invalid(violations: list[FieldViolation]) -> InvalidArgument:
    """The error for these violations; its text names the first."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    subject = f"{first.field}: " if first.field else ""
    return InvalidArgument(
        f"{subject}{first.description}{more}",
        reason=ERROR_REASON_INVALID_FIELD,
        violations=violations[:MAX_VIOLATIONS],
    )


def to_field_violation(violation: protovalidate.Violation, message: Message) -> FieldViolation:
    """A violation of `message` with its path as text, such as `queries[3].location.lat`.

    A rule about several fields whose words begin with one of them is told as that field's.
    """
    proto = violation.proto
    holder: Any = message.DESCRIPTOR
    enum: Any = None
    parts: list[str] = []
    key = None
    for element in proto.field.elements if proto.field is not None else ():
        name = str(element.field_name)
        field = holder.fields_by_name.get(name) if holder is not None else None
        holder = field.message_type if field is not None else None
        if holder is not None and holder.GetOptions().map_entry:
            field = holder.fields_by_name["value"]
            holder = field.message_type
        enum = field.enum_type if field is not None else None
        parts.append(name)
        key = _subscript(element)
        if key is not None:
            parts[-1] += f"[{key}]"
    said = _OWN_WORDS.get(proto.rule_id, proto.message or proto.rule_id or "is not valid")
    said = said.removeprefix("value ")
    description = _ONE.sub(r"1 \1", said)
    subject, _, rest = description.partition(" ")
    if enum is not None and proto.rule_id in _ENUM_RULES:
        required = proto.rule_id == "enum.not_in" and key is None
        description = ("is required; " if required else "must be ") + _one_of(enum)
    elif rest and parts and subject == parts[-1]:
        description = rest
    elif rest and holder is not None and subject in holder.fields_by_name:
        parts.append(subject)
        description = rest
    return FieldViolation(".".join(parts), description)


def _one_of(enum: EnumDescriptor) -> str:
    """Its values in the words of the JSON dialect; who calls with stubs finds his own by them."""
    return "one of " + ", ".join(text for text, number in enum_texts(enum).items() if number)


def _subscript(element: Any) -> str | None:
    subscript = element.subscript
    if subscript is None:
        return None
    value = subscript.value
    return f'"{value}"' if isinstance(value, str) else str(value)


def _check_any(request: Any, more: MoreFaults) -> None:
    if request is _UNREADABLE:
        text = "the request cannot be read as a message of its type"
        raise InvalidArgument(text, reason=ERROR_REASON_MALFORMED_BODY, violations=[FieldViolation("", text)])
    if isinstance(request, Message):
        try:
            check(request, more)
        except InvalidArgument:
            if principal.current().tenant != principal.MESH_TENANT:
                raise
            # Ids that the mesh sends are qualified, which may make them longer than the rules allow.
            check(tenancy.plain_copy(request), more)


async def _checked(requests: AsyncIterable[Any], more: MoreFaults) -> AsyncIterator[Any]:
    async for request in requests:
        _check_any(request, more)
        yield request


class ValidationLink(ServerLink):
    """The message, or each message of a request stream as the handler iterates over it."""

    name = "validation"

    def __init__(self, more: MoreFaults = _NO_MORE) -> None:
        self._more = more

    def before(self, call: ServerCall) -> None:
        if call.method.request_streaming:
            call.request = _checked(call.request, self._more)
        else:
            _check_any(call.request, self._more)
