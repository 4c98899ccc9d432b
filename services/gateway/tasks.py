"""The table of tasks: every RPC with the option `waymesh.task.v1.task` is one, found by its descriptor."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import waymesh
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from waymesh.mesh.v1 import degradation_pb2
from waymesh.task.v1 import task_pb2

from services.mesh import json_codec
from services.mesh.errors import FieldViolation, MeshError

# Field of a streaming RPC's request and response: where it goes on from, and where it is.
CURSOR: Final = "cursor"
# Characters of a cursor, where the contract sets no limit.
_MAX_CURSOR: Final = 256

_REPEATABLE: Final = frozenset(
    {descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS, descriptor_pb2.MethodOptions.IDEMPOTENT}
)


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The RPC that tells of a task as it is done."""

    path: str
    request: type[Message]
    response: type[Message]
    # Of its request: what takes the task's request.
    field: str
    # Of its response: the oneof whose member that is set is the event's name.
    events: str
    # Characters of a cursor, at most.
    max_cursor: int
    # Whether it may be begun again.
    repeatable: bool


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One task: its RPC, the message that `parameters` fills, and what its answer may say besides."""

    name: str
    summary: str
    owner: str
    path: str
    request: type[Message]
    response: type[Message]
    body_field: str
    # What `parameters` is: the request, or its body field.
    parameters: type[Message]
    # Top-level fields of the response that may say that the answer is second best.
    degradations: tuple[str, ...]
    # Lists of the response, which may be long.
    lists: tuple[json_codec.List, ...]
    stream: Stream | None
    # For operators alone.
    admin: bool = False

    def read(self, parameters: object) -> Message:
        """The request for `parameters`. Raises InvalidArgument, paths from the body's root."""
        filled = json_codec.from_dict(self.parameters, parameters, path="parameters")
        return self.request(**{self.body_field: filled}) if self.body_field else filled

    def degraded(self, response: Any) -> dict[str, str] | None:
        """Source and reason, if the response says that it is second best."""
        for name in self.degradations:
            if response.HasField(name):
                said = getattr(response, name)
                return {"source": said.source, "reason": said.reason}
        return None

    def blame(self, violation: FieldViolation, stream: Stream | None = None) -> FieldViolation:
        """A violation of the request, told by the owner, as one of the HTTP body.

        With `stream`, of the request that its RPC takes.
        """
        path = violation.field
        if stream is not None:
            if path == CURSOR:
                return FieldViolation("Last-Event-ID", violation.description)
            path = path.removeprefix(stream.field).removeprefix(".")
        if self.body_field:
            path = path.removeprefix(self.body_field).removeprefix(".")
        joint = "" if not path or path.startswith("[") else "."
        return FieldViolation(f"parameters{joint}{path}", violation.description)

    def translate(self, error: MeshError, stream: Stream | None = None) -> MeshError:
        """An error of the owner, its paths from the body's root."""
        if not error.from_peer or not error.violations:
            return error
        violations = [self.blame(each, stream) for each in error.violations]
        return type(error)(
            json_codec.invalid_fields(violations).message,
            reason=error.reason,
            metadata=error.metadata,
            violations=violations,
            retry_after_s=error.retry_after_s,
        )


def load() -> dict[str, Task]:
    """All tasks of the installed contracts, by name. Raises ValueError if two RPCs claim one name."""
    tasks: dict[str, Task] = {}
    for file in service_files():
        for service in file.services_by_name.values():
            for method in service.methods:
                task = _task(file, method)
                if task is None:
                    continue
                if task.name in tasks:
                    raise ValueError(
                        f"two RPCs are the task {task.name}: {tasks[task.name].path}, {task.path}"
                    )
                tasks[task.name] = task
    return dict(sorted(tasks.items()))


def owners(tasks: Mapping[str, Task]) -> list[str]:
    """Services that own at least one task."""
    return sorted({task.owner for task in tasks.values()})


def service_files() -> Iterator[FileDescriptor]:
    """Contracts with services. `waymesh` is a namespace package: other distributions may add to it."""
    seen = set()
    for root in waymesh.__path__:
        base = Path(root)
        for path in sorted(base.rglob("*_service_pb2.py")):
            module = ".".join(("waymesh", *path.relative_to(base).with_suffix("").parts))
            # The same contracts may be on the path twice, which is one module all the same.
            if module not in seen:
                seen.add(module)
                yield importlib.import_module(module).DESCRIPTOR


def _task(file: FileDescriptor, method: MethodDescriptor) -> Task | None:
    options = method.GetOptions()
    if not options.HasExtension(task_pb2.task):
        return None
    said = options.Extensions[task_pb2.task]
    request = method.input_type
    body = request.fields_by_name[said.body_field].message_type if said.body_field else request
    if body is None:
        raise ValueError(f"the body field of task {said.name} must be a message")
    return Task(
        name=said.name,
        summary=said.summary,
        owner=owner_of(file),
        path=f"/{method.containing_service.full_name}/{method.name}",
        request=class_of(request),
        response=class_of(method.output_type),
        body_field=said.body_field,
        parameters=class_of(body),
        degradations=tuple(
            field.name
            for field in method.output_type.fields
            if field.message_type is not None
            and field.message_type.full_name == degradation_pb2.Degradation.DESCRIPTOR.full_name
            and not field.is_repeated
        ),
        lists=json_codec.lists(method.output_type),
        stream=_stream(method, said) if said.HasField("stream") else None,
        admin=said.admin,
    )


def _stream(method: MethodDescriptor, said: task_pb2.TaskOptions) -> Stream:
    """Raises ValueError if the contract does not keep to what TaskStream says."""
    told = method.containing_service.methods_by_name.get(said.stream.method)
    if told is None or not told.server_streaming or told.client_streaming:
        raise ValueError(
            f"task {said.name}: {said.stream.method} is no RPC of its service that streams its response"
        )
    request, response = told.input_type, told.output_type
    taken = request.fields_by_name.get(said.stream.field)
    if taken is None or taken.is_repeated or taken.message_type is not method.input_type:
        raise ValueError(
            f"task {said.name}: {request.name}.{said.stream.field} does not take {method.input_type.name}"
        )
    cursors = [each.fields_by_name.get(CURSOR) for each in (request, response)]
    if any(each is None or each.is_repeated or each.type != FieldDescriptor.TYPE_STRING for each in cursors):
        raise ValueError(f"task {said.name}: {request.name} and {response.name} need a text `{CURSOR}`")
    oneofs = [each.name for each in response.oneofs if not each.name.startswith("_")]
    if len(oneofs) != 1:
        raise ValueError(
            f"task {said.name}: {response.name} has {len(oneofs)} oneofs, where one names the event"
        )
    rules = request.fields_by_name[CURSOR].GetOptions().Extensions[validate_pb2.field]
    return Stream(
        path=f"/{told.containing_service.full_name}/{told.name}",
        request=class_of(request),
        response=class_of(response),
        field=said.stream.field,
        events=oneofs[0],
        max_cursor=rules.string.max_len or _MAX_CURSOR,
        repeatable=told.GetOptions().idempotency_level in _REPEATABLE,
    )


def owner_of(file: FileDescriptor) -> str:
    """The service that serves a file: the one it names, else by its package, waymesh.eta.v1 → eta."""
    return file.GetOptions().Extensions[task_pb2.service] or file.package.split(".")[1]


def class_of(descriptor: Descriptor) -> type[Message]:
    """The class of messages of a type."""
    return message_factory.GetMessageClass(descriptor)
