"""What a spec of an agent must keep beyond the rules of its contract. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Final

from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.agents import answer_schema
from services.agents.registry import CapabilityBook
from services.mesh.errors import MAX_VIOLATIONS, FieldViolation, MeshError
from services.mesh.json_codec import struct_to_dict
from services.mesh.redact import redact_forms, redact_text

MAX_BYTES: Final = 128 * 1024
"""Of a whole spec in protobuf. The parts that have bounds of their own fit into it together."""

_NO_SECRET: Final = "must hold no secret, such as a password or a key: it is kept, and told to models"

MAX_CAPABILITIES: Final = 32
PLACEHOLDERS: Final = ("{{agent}}", "{{task}}", "{{date}}")

_PLACEHOLDER: Final = re.compile(r"\{\{.{0,32}?\}\}|\{\{", re.DOTALL)
_MODEL: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]*")  # as in OPENAI_MODEL and OPENAI_FALLBACK_MODELS
# Line breaks and tabs are text; what else steers a terminal or a log is not, nor what turns text around.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def faults(spec: AgentSpec, book: CapabilityBook, path: str = "spec") -> list[FieldViolation]:
    """What is wrong with a spec besides the rules of its contract, at most 50; paths begin with `path`."""
    if spec.ByteSize() > MAX_BYTES:
        return [FieldViolation(path, f"must be at most {MAX_BYTES} bytes in protobuf, not {spec.ByteSize()}")]
    found: list[FieldViolation] = []
    for one in _faults(spec, book, path):
        found.append(one)
        if len(found) == MAX_VIOLATIONS:
            break
    return found


def config_faults(book: CapabilityBook, name: str, config: Struct, path: str) -> list[FieldViolation]:
    """What is wrong with the configuration of a known tool, which stands at `path`."""
    try:
        book.check_config(name, config)
    except MeshError as error:
        if error.violations:
            return [FieldViolation(_joined(path, one.field), one.description) for one in error.violations]
        return [FieldViolation(path, error.message)]
    return []


def _faults(spec: AgentSpec, book: CapabilityBook, path: str) -> Iterator[FieldViolation]:
    yield from _clean(spec.description, f"{path}.description")
    instructions = f"{path}.instructions"
    for name, text in (("system", spec.instructions.system), ("style", spec.instructions.style)):
        yield from _clean(text, f"{instructions}.{name}")
        yield from _template(text, f"{instructions}.{name}")
    yield from _models(spec, f"{path}.config.model")
    yield from _capabilities(spec, book, f"{path}.capabilities")
    if spec.HasField("output_schema") and spec.output_schema.fields:
        schema = struct_to_dict(spec.output_schema)
        yield from answer_schema.faults(schema, f"{path}.output_schema")
        # By form alone: a schema may well have a property `token`.
        text = json.dumps(schema, ensure_ascii=False)
        if redact_forms(text) != text:
            yield FieldViolation(f"{path}.output_schema", _NO_SECRET)


def _clean(text: str, path: str) -> Iterator[FieldViolation]:
    found = _CONTROLS.search(text)
    if found is not None:
        yield FieldViolation(path, f"must not hold the control character U+{ord(found[0]):04X}")
    # To leave it out would change what the agent is told without a word.
    elif redact_text(text) != text:
        yield FieldViolation(path, _NO_SECRET)


def _template(text: str, path: str) -> Iterator[FieldViolation]:
    known = ", ".join(PLACEHOLDERS)
    told = set()
    for found in _PLACEHOLDER.findall(text):
        if found not in PLACEHOLDERS and found not in told:
            told.add(found)
            yield FieldViolation(path, f"holds {found!r}; the placeholders are {known}")


def _models(spec: AgentSpec, path: str) -> Iterator[FieldViolation]:
    model = spec.config.model
    names = [("model", model.model)]
    names += [(f"fallback_models[{place}]", name) for place, name in enumerate(model.fallback_models)]
    seen: set[str] = set()
    for field, name in names:
        if _MODEL.fullmatch(name) is None:
            yield FieldViolation(f"{path}.{field}", "must be of letters, digits and marks of ASCII, no comma")
        elif redact_forms(name) != name:
            yield FieldViolation(f"{path}.{field}", _NO_SECRET)
        elif name and name in seen:
            yield FieldViolation(f"{path}.{field}", f"names {name[:128]} again: each model once")
        seen.add(name)


def _capabilities(spec: AgentSpec, book: CapabilityBook, path: str) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for place, one in enumerate(spec.capabilities):
        here, name = f"{path}[{place}]", one.capability_id
        if name in seen:
            yield FieldViolation(f"{here}.capability_id", f"is {name[:64]} again: each tool once")
        elif name not in book.names:
            known = ", ".join(sorted(book.names))
            yield FieldViolation(f"{here}.capability_id", f"must be one of {known}")
        elif one.HasField("config"):
            yield from config_faults(book, name, one.config, f"{here}.config")
        seen.add(name)


def _joined(path: str, field: str) -> str:
    """A path within a configuration, which may or may not begin with its own name."""
    inner = "" if field == "config" else field.removeprefix("config.")
    return f"{path}.{inner}" if inner else path
