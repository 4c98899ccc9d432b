"""What annotations say: which method and path call which RPC, and what fills its request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2, http_pb2  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from waymesh.task.v1 import task_pb2

from services.gateway import rpcs, tasks
from services.gateway.rest import template
from services.gateway.rest.template import Template
from services.mesh import json_codec
from services.mesh.errors import FieldViolation, MeshError

WHOLE: Final = "*"
_METHODS: Final[Mapping[str, str]] = {
    "get": "GET",
    "put": "PUT",
    "post": "POST",
    "delete": "DELETE",
    "patch": "PATCH",
}


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One method of one path, and the RPC behind it.

    `body` is the field of the request that the body fills, `*` for all that the path does not, empty for
    none; what neither fills, the query may. `result` is the field of the response that is answered, empty for
    all of it.
    """

    method: str
    template: Template
    name: str
    summary: str
    owner: str
    path: str
    request: type[Message]
    response: type[Message]
    body: str
    result: str
    # Lists of the response, which may be long.
    lists: tuple[json_codec.List, ...]
    # For operators alone.
    admin: bool = False

    def blame(self, violation: FieldViolation) -> FieldViolation:
        """A violation of the request as one of the body, from its root, or of a parameter, by its name."""
        path = violation.field
        if self.body != WHOLE and (path == self.body or path.startswith((f"{self.body}.", f"{self.body}["))):
            path = path.removeprefix(self.body).removeprefix(".")
        return FieldViolation(path, violation.description)

    def translate(self, error: MeshError) -> MeshError:
        """An error about the request, its paths as whoever called knows them."""
        if not error.violations:
            return error
        violations = [self.blame(each) for each in error.violations]
        whole = "the body" if self.body else "the request"
        return type(error)(
            json_codec.invalid_fields(violations, whole).message,
            reason=error.reason,
            metadata=error.metadata,
            violations=violations,
            retry_after_s=error.retry_after_s,
        )


def load() -> list[Binding]:
    """All of the installed contracts. Raises ValueError for an annotation that cannot be served."""
    return [
        binding
        for file in tasks.service_files()
        for service in file.services_by_name.values()
        for method in service.methods
        for binding in bindings_of(method)
    ]


def bindings_of(method: MethodDescriptor) -> Iterator[Binding]:
    """Those of one RPC: that of its annotation, then the additional ones."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule = options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        try:
            if each is not rule and each.additional_bindings:
                raise ValueError("additional bindings have none of their own")
            yield _binding(method, each)
        except ValueError as error:
            raise ValueError(f"{method.full_name} cannot be served as {_shown(each)}: {error}") from None


def field_at(message: Descriptor, path: str) -> FieldDescriptor | None:
    """The field at `a.b.c`, where only the last may be a list or a map; None if there is none."""
    *outer, last = path.split(".")
    for name in outer:
        field = message.fields_by_name.get(name)
        if field is None or field.is_repeated or field.message_type is None:
            return None
        message = field.message_type
    return message.fields_by_name.get(last)


def _binding(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Binding:
    if method.client_streaming or method.server_streaming:
        raise ValueError("a stream has no path")
    verb = _METHODS.get(rule.WhichOneof("pattern") or "")
    if verb is None:
        raise ValueError(f"the method must be one of {', '.join(_METHODS)}")
    options = method.GetOptions()
    if verb == "GET":
        if rule.body:
            raise ValueError("GET has no body")
        if options.idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS:
            raise ValueError("GET is for RPCs with NO_SIDE_EFFECTS")
    request, response = method.input_type, method.output_type
    parsed = template.parse(getattr(rule, verb.lower()))
    for path in parsed.fields:
        _require_segment(request, path)
    if rule.body and rule.body != WHOLE:
        if rule.body not in request.fields_by_name:
            raise ValueError(f"{request.name} has no field {rule.body}")
        if any(path.split(".")[0] == rule.body for path in parsed.fields):
            raise ValueError(f"both path and body fill {rule.body}")
    if rule.response_body and rule.response_body not in response.fields_by_name:
        raise ValueError(f"{response.name} has no field {rule.response_body}")
    said = options.Extensions[task_pb2.task]
    return Binding(
        method=verb,
        template=parsed,
        name=said.name or rpcs.scope_of(method.name),
        summary=said.summary or method.name,
        owner=tasks.owner_of(method.containing_service.file),
        path=f"/{method.containing_service.full_name}/{method.name}",
        request=tasks.class_of(request),
        response=tasks.class_of(response),
        body=rule.body,
        result=rule.response_body,
        lists=() if rule.response_body else json_codec.lists(response),
        admin=said.admin,
    )


def _require_segment(request: Descriptor, path: str) -> None:
    field = field_at(request, path)
    if field is None:
        raise ValueError(f"{request.name} has no field {path}")
    kinds = (FieldDescriptor.CPPTYPE_MESSAGE, FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
    if field.is_repeated or field.cpp_type in kinds or field.type == FieldDescriptor.TYPE_BYTES:
        raise ValueError(f"{path} is nothing that a segment of a path can say")


def _shown(rule: Any) -> str:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return "nothing"
    return f"{kind} {rule.custom.path if kind == 'custom' else getattr(rule, kind)}"
