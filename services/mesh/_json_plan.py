"""What the JSON codec knows of a message type, compiled once from its descriptor.

A plan holds a table of the fields, for explaining what is wrong, and generated functions for the fast way:
`read` takes a dict from the JSON parser and returns what the message's constructor takes, `write` returns a
dict to be dumped. The constructor itself refuses unknown names, wrong text and integers out of range, so the
generated code only does what it does not: turns names of enum values into numbers, converts the well-known
types, and looks at the types of numbers and booleans, where a constructor takes `true` for 1.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from buf.validate import validate_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from services.mesh import _json_values as values
from services.mesh.json_limits import DOUBLE_MAX, FLOAT_MAX, INTEGERS

FD: Final = FieldDescriptor

_SIMPLE: Final[Mapping[int, str]] = {
    FD.TYPE_STRING: "text",
    FD.TYPE_BOOL: "boolean",
    FD.TYPE_DOUBLE: "double",
    FD.TYPE_FLOAT: "float",
    FD.TYPE_BYTES: "bytes",
    FD.TYPE_ENUM: "enum",
}


class UnsupportedContractError(TypeError):
    """A contract holds what the dialect cannot say, such as a 64-bit integer."""


class _Names(dict[int, str]):
    """Number of an enum value → its text; a newer peer's value, which has no name here, stays a number."""

    def __missing__(self, number: int) -> int:
        return number


@dataclass(frozen=True, slots=True)
class EnumPlan:
    """Texts of an enum both ways. `reading` is what a field accepts, which may leave out `unspecified`."""

    reading: Mapping[str, int]
    writing: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Element:
    """One value: of a singular field, of a list, or of a map."""

    kind: str  # text, boolean, integer, double, float, bytes, enum, message, known
    low: int = 0
    high: int = 0
    enum: EnumPlan | None = None
    message: "Plan | None" = None
    known: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field as the dialect sees it."""

    name: str
    shape: str  # one, list, map
    element: Element
    key: Element | None = None
    presence: bool = False
    oneof: str = ""


@dataclass(slots=True, eq=False)
class Plan:
    """A message type, compiled."""

    descriptor: Descriptor
    cls: type[Message]
    function: str
    fields: dict[str, Field] = field(default_factory=dict)
    read_strict: Callable[[Any], dict[str, Any]] = lambda _: {}
    read_lenient: Callable[[Any], dict[str, Any]] = lambda _: {}
    write: Callable[[Any], dict[str, Any]] = lambda _: {}


# By descriptor and by class.
_plans: dict[type[Message] | Descriptor, Plan] = {}
# Globals of the generated functions; they find each other here by name, so types may hold themselves.
_namespace: dict[str, Any] = {
    "DOUBLE_MAX": DOUBLE_MAX,
    "FLOAT_MAX": FLOAT_MAX,
    "Fault": values.Fault,
    "NUMBERS": frozenset({int, float}),
    "INTEGERS": frozenset({int}),
    "BOOLEANS": frozenset({bool}),
    "isfinite": math.isfinite,
    "read_bytes": values.read_bytes,
    "write_bytes": values.write_bytes,
    "write_float": values.write_float,
    "read_whole": values.read_whole,
    "read_integer_key": values.read_integer_key,
    "read_boolean_key": values.read_boolean_key,
    "write_boolean_key": values.write_boolean_key,
}


def plan_of(kind: type[Message] | Descriptor) -> Plan:
    """The plan for a message type, compiled at the first call. UnsupportedContractError if there is none."""
    plan = _plans.get(kind)
    if plan is None:
        descriptor = cast(Descriptor, kind if isinstance(kind, Descriptor) else kind.DESCRIPTOR)
        fresh: dict[Descriptor, Plan] = {}
        plan = _survey(descriptor, fresh)
        for each in fresh.values():
            _generate(each)
        # Only now: a contract that cannot be compiled leaves nothing half made.
        for each in fresh.values():
            _plans[each.descriptor] = _plans[each.cls] = each
    return plan


def enum_texts(enum: EnumDescriptor) -> dict[str, int]:
    """Values of an enum without prefix, in lower case: TRIP_STAGE_TO_PICKUP of TripStage → to_pickup."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", enum.name)
    prefix = words.upper() + "_"
    texts: dict[str, int] = {}
    for value in enum.values:
        text = value.name.removeprefix(prefix).lower()
        if texts.setdefault(text, value.number) != value.number:
            raise UnsupportedContractError(f"{enum.full_name} has two values that read {text!r}")
    return texts


def _survey(descriptor: Descriptor, fresh: dict[Descriptor, Plan]) -> Plan:
    known = _plans.get(descriptor) or fresh.get(descriptor)
    if known is not None:
        return known
    function = f"{descriptor.full_name.replace('.', '_')}_{len(_plans) + len(fresh)}"
    plan = Plan(descriptor, message_factory.GetMessageClass(descriptor), function)
    fresh[descriptor] = plan
    for each in descriptor.fields:
        plan.fields[each.name] = _field(each, fresh)
    return plan


def _field(descriptor: FieldDescriptor, fresh: dict[Descriptor, Plan]) -> Field:
    name = descriptor.name
    oneof = descriptor.containing_oneof
    # proto3 `optional` is a oneof of one member in the descriptor.
    group = oneof.name if oneof is not None and len(oneof.fields) > 1 else ""
    message = descriptor.message_type
    if message is not None and message.GetOptions().map_entry:
        key = _element(message.fields_by_name["key"], descriptor, fresh)
        return Field(name, "map", _element(message.fields_by_name["value"], descriptor, fresh), key)
    element = _element(descriptor, descriptor, fresh)
    if descriptor.is_repeated:
        return Field(name, "list", element)
    return Field(name, "one", element, presence=descriptor.has_presence, oneof=group)


def _element(descriptor: FieldDescriptor, holder: FieldDescriptor, fresh: dict[Descriptor, Plan]) -> Element:
    """`holder` is the field whose options hold the rules: the map itself for its keys and values."""
    kind = descriptor.type
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return Element("integer", low=low, high=high)
    message = descriptor.message_type
    if kind == FD.TYPE_MESSAGE and message is not None:
        if message.full_name in values.WELL_KNOWN:
            return Element("known", known=message.full_name)
        return Element("message", message=_survey(message, fresh))
    if kind not in _SIMPLE:
        raise UnsupportedContractError(
            f"{holder.full_name}: 64-bit integers and groups have no form in JSON; "
            "take 32 bits, a double or text"
        )
    if descriptor.enum_type is not None:
        texts = enum_texts(descriptor.enum_type)
        writing = _Names({number: text for text, number in reversed(texts.items())})
        reading = {text: n for text, n in texts.items() if n != 0 or _may_be_unspecified(holder)}
        return Element("enum", enum=EnumPlan(reading, writing))
    return Element(_SIMPLE[kind])


def _may_be_unspecified(holder: FieldDescriptor) -> bool:
    """Whether the contract's rules let value 0 of an enum pass."""
    rules = holder.GetOptions().Extensions[validate_pb2.field]
    if rules.HasField("repeated"):
        rules = rules.repeated.items
    elif rules.HasField("map"):
        rules = rules.map.values
    return 0 not in rules.enum.not_in


# --- generation ---------------------------------------------------------------------------------------------


def _generate(plan: Plan) -> None:
    source = "\n".join(
        [*_reader(plan, strict=True), *_reader(plan, strict=False), *_writer(plan), ""],
    )
    code = compile(source, f"<json codec of {plan.descriptor.full_name}>", "exec")
    _namespace[f"FIELDS_{plan.function}"] = frozenset(plan.fields)
    exec(code, _namespace)  # the source is made of names from descriptors alone
    plan.read_strict = _namespace[f"strict_{plan.function}"]
    plan.read_lenient = _namespace[f"lenient_{plan.function}"]
    plan.write = _namespace[f"write_{plan.function}"]


def _reader(plan: Plan, *, strict: bool) -> list[str]:
    mode = "strict" if strict else "lenient"
    lines = [f"def {mode}_{plan.function}(o):", " if type(o) is not dict: raise Fault"]
    if strict:
        lines.append(" kw = o.copy()")  # the constructor refuses what is unknown
    else:
        known = f"FIELDS_{plan.function}"
        lines.append(
            f" kw = o.copy() if {known}.issuperset(o) else {{k: v for k, v in o.items() if k in {known}}}"
        )
    groups: dict[str, list[str]] = {}
    for each in plan.fields.values():
        if each.oneof:
            groups.setdefault(each.oneof, []).append(each.name)
        body = _read_field(plan, each, mode)
        if body:
            lines += [f" v = kw.get({each.name!r})", *body]
    for names in groups.values():
        present = " + ".join(f"(kw.get({name!r}) is not None)" for name in names)
        lines.append(f" if {present} > 1: raise Fault")
    return [*lines, " return kw"]


def _read_field(plan: Plan, each: Field, mode: str) -> list[str]:
    store = f"kw[{each.name!r}]"
    element = each.element
    if each.shape == "list":
        lines = [" if v is not None:", "  if type(v) is not list: raise Fault"]
        return lines + [f"  {line}" for line in _read_items(plan, each, mode, "v", store, "[{} for x in v]")]
    if each.shape == "map":
        lines = [" if v is not None:", "  if type(v) is not dict: raise Fault"]
        template = "{{k: {} for k, x in v.items()}}"
        lines += [f"  {line}" for line in _read_items(plan, each, mode, "v.values()", store, template)]
        if each.key is not None and each.key.kind != "text":
            read = "read_boolean_key" if each.key.kind == "boolean" else "read_integer_key"
            lines.append(f"  {store} = {{{read}(k): x for k, x in {store}.items()}}")
        return lines
    match element.kind:
        case "text":
            return []  # the constructor takes text only
        case "boolean":
            return [" if v is not True and v is not False and v is not None: raise Fault"]
        case "integer":
            return [f" if type(v) is not int and v is not None: {store} = read_whole(v)"]
        case "double" | "float":
            limit = "DOUBLE_MAX" if element.kind == "double" else "FLOAT_MAX"
            return [
                " if type(v) is float or type(v) is int:",
                f"  if not -{limit} <= v <= {limit}: raise Fault",
                " elif v is not None: raise Fault",
            ]
        case "known" if element.known == "google.protobuf.Value":
            # The one field for which null is a value.
            return [f" if v is not None or {each.name!r} in kw: {store} = {_read(plan, each, mode, 'v')}"]
        case _:
            return [f" if v is not None: {store} = {_read(plan, each, mode, 'v')}"]


def _read_items(plan: Plan, each: Field, mode: str, items: str, store: str, template: str) -> list[str]:
    """Lines for the elements of a list or map: looked at together where the constructor needs no more."""
    match each.element.kind:
        case "text":
            return []
        case "boolean":
            return [f"if not BOOLEANS.issuperset(map(type, {items})): raise Fault"]
        case "integer":
            convert = template.format("x if type(x) is int else read_whole(x)")
            return [f"if not INTEGERS.issuperset(map(type, {items})): {store} = {convert}"]
        case "double":
            return [
                f"if not NUMBERS.issuperset(map(type, {items})): raise Fault",
                f"if not all(map(isfinite, {items})): raise Fault",
            ]
        case "float":
            return [
                f"if not NUMBERS.issuperset(map(type, {items})): raise Fault",
                f"if not all(-FLOAT_MAX <= x <= FLOAT_MAX for x in {items}): raise Fault",
            ]
        case _:
            return [f"{store} = {template.format(_read(plan, each, mode, 'x'))}"]


def _read(plan: Plan, each: Field, mode: str, name: str) -> str:
    element = each.element
    if element.enum is not None:
        table = f"ENUM_{plan.function}_{each.name}"
        _namespace[table] = element.enum.reading
        return f"{table}[{name}]"
    if element.message is not None:
        return f"{mode}_{element.message.function}({name})"
    if element.kind == "bytes":
        return f"read_bytes({name})"
    reader = f"read_{element.known.replace('.', '_')}"
    _namespace[reader] = values.WELL_KNOWN[element.known][1]
    return f"{reader}({name})"


def _writer(plan: Plan) -> list[str]:
    leading: list[str] = []
    rest: list[str] = []
    for each in plan.fields.values():
        name = each.name
        if each.shape == "list":
            text = f"[{_write(plan, each, 'x')} for x in m.{name}]"
            if each.element.kind in ("text", "boolean", "integer", "double"):
                text = f"list(m.{name})"
        elif each.shape == "map":
            key = "k"
            if each.key is not None and each.key.kind != "text":
                key = "write_boolean_key(k)" if each.key.kind == "boolean" else "str(k)"
            text = f"{{{key}: {_write(plan, each, f'm.{name}[k]')} for k in sorted(m.{name})}}"
        else:
            text = _write(plan, each, f"m.{name}")
        if each.presence:
            rest.append(f" if m.HasField({name!r}): d[{name!r}] = {text}")
        elif rest:
            rest.append(f" d[{name!r}] = {text}")
        else:
            leading.append(f"{name!r}: {text}")
    return [f"def write_{plan.function}(m):", f" d = {{{', '.join(leading)}}}", *rest, " return d"]


def _write(plan: Plan, each: Field, name: str) -> str:
    element = each.element
    if element.enum is not None:
        table = f"NAMES_{plan.function}_{each.name}"
        _namespace[table] = element.enum.writing
        return f"{table}[{name}]"
    if element.message is not None:
        return f"write_{element.message.function}({name})"
    if element.kind in ("bytes", "float"):
        return f"write_{element.kind}({name})"
    if element.kind == "known":
        writer = f"write_{element.known.replace('.', '_')}"
        _namespace[writer] = values.WELL_KNOWN[element.known][2]
        return f"{writer}({name})"
    return name
