"""Tools from functions: one signature gives the schema that a model sees and the check of what it sends.

The schema is OpenAI's strict subset of JSON Schema: every argument is required, what is optional is nullable,
nothing else is taken, and nothing is referred to.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_ARGUMENTS

from services.agents.tools.desk import Desk
from services.mesh import json_codec
from services.mesh.errors import FieldViolation, InvalidArgument, MeshError

ToolFunction = Callable[Concatenate[Desk, ...], Awaitable[dict[str, Any]]]

# What a model sends is a line or two.
MAX_ARGUMENTS_CHARS: Final = 16_384
_MAX_VIOLATIONS: Final = 20
_MAX_NAME_CHARS: Final = 64
# What strict schemas have no place for, or what only says the same again.
_LEFT_OUT: Final = frozenset({"title", "default", "examples"})

# Patterns rather than lengths: strict schemas know no minLength.
OrderId = Annotated[
    str, Field(description="Identity of an order that the caller named.", pattern=r"^.{1,128}$")
]
DriverId = Annotated[
    str, Field(description="Identity of a courier that the caller or an answer named.", pattern=r"^.{1,128}$")
]


class Part(BaseModel):
    """An object among the arguments: checked like them, and nothing else is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing an agent can do."""

    name: str
    description: str
    run: ToolFunction
    arguments: type[BaseModel]
    schema: Mapping[str, Any]
    timeout_s: float
    changes_things: bool

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments in JSON text, checked. Raises InvalidArgument with all violations."""
        if len(text) > MAX_ARGUMENTS_CHARS:
            raise self.wrong([FieldViolation("", f"must be at most {MAX_ARGUMENTS_CHARS} characters")])
        try:
            value = json_codec.parse(text.strip() or "{}")
        except MeshError as error:
            raise self.wrong([FieldViolation("", error.message)]) from None
        if not isinstance(value, dict):
            raise self.wrong([FieldViolation("", "must be a JSON object")])
        try:
            checked = self.arguments.model_validate(_whole(value))
        except ValidationError as error:
            raise self.wrong(self._violations(error)) from None
        return {name: getattr(checked, name) for name in self.arguments.model_fields}

    def wrong(self, violations: list[FieldViolation]) -> InvalidArgument:
        """The error for arguments that cannot be used."""
        return InvalidArgument(
            f"the arguments of {self.name} are wrong",
            reason=ERROR_REASON_TOOL_ARGUMENTS,
            metadata={"tool": self.name},
            violations=violations,
        )

    def _violations(self, error: ValidationError) -> list[FieldViolation]:
        found: dict[tuple[str, str], None] = {}
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            field = _path(each["loc"], self.schema, unknown=each["type"] == "extra_forbidden")
            if each["type"] == "extra_forbidden":
                text = "is not an argument of this tool"
            else:
                text = each["msg"].replace("Input should", "should")
            found[field, text[:200]] = None
        return [FieldViolation(field, text) for field, text in list(found)[:_MAX_VIOLATIONS]]


def tool(function: ToolFunction, *, timeout_s: float = 5.0, changes_things: bool = False) -> Tool:
    """The tool of a function whose first parameter is the desk and whose docstring says what it does."""
    hints = get_type_hints(function, include_extras=True)
    _, *parameters = inspect.signature(function).parameters.values()
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.default not in (inspect.Parameter.empty, None):
            raise TypeError(f"{function.__name__}: a default other than None has no place in a strict schema")
        required = parameter.default is inspect.Parameter.empty
        fields[parameter.name] = (hints[parameter.name], ... if required else None)
    name = function.__name__
    model: type[BaseModel] = create_model(name, __config__=Part.model_config, **fields)
    return Tool(
        name=name,
        description=re.sub(r"\s+", " ", inspect.cleandoc(function.__doc__ or "")).strip(),
        run=function,
        arguments=model,
        schema=strict_schema(model),
        timeout_s=timeout_s,
        changes_things=changes_things,
    )


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a model in the strict subset, without references."""
    whole = model.model_json_schema()
    schema: dict[str, Any] = _strict(whole, whole.get("$defs", {}))
    schema.pop("description", None)
    return schema


def _strict(node: Any, named: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_strict(each, named) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _strict(named[node["$ref"].rpartition("/")[2]], named) | _strict(rest, named)
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: _strict(each, named) for name, each in value.items()}
        elif key == "const":
            kept["enum"] = [value]
        elif key not in _LEFT_OUT and key != "$defs":
            kept[key] = _strict(value, named)
    if "properties" in kept or kept.get("type") == "object":
        kept.setdefault("properties", {})
        kept |= {"type": "object", "additionalProperties": False, "required": list(kept["properties"])}
    return kept


def _whole(value: Any) -> Any:
    """2.0 as 2: in JSON they are the same number."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path(location: tuple[int | str, ...], schema: Mapping[str, Any], *, unknown: bool) -> str:
    """Where an argument stands, as `route_options[0].vehicle`; without the names of alternatives in it."""
    path = ""
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(part, int):
            path += f"[{part}]"
        elif (unknown and last) or _has_property(schema, part):
            shown = part[:_MAX_NAME_CHARS]
            path += f".{shown}" if path else shown
    return path


def _has_property(schema: Any, name: str) -> bool:
    if isinstance(schema, list):
        return any(_has_property(each, name) for each in schema)
    if not isinstance(schema, Mapping):
        return False
    if name in schema.get("properties", ()):
        return True
    return any(_has_property(each, name) for key, each in schema.items() if key != "required") or any(
        _has_property(each, name) for each in schema.get("properties", {}).values()
    )
