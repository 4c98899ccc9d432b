"""What is known of an RPC before it is called, looked up once per method."""

from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from waymesh.task.v1 import task_pb2

_REPEATABLE = frozenset(
    {descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS, descriptor_pb2.MethodOptions.IDEMPOTENT}
)


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. `path` is `/package.Service/Name`; `idempotent` is protobuf's own idempotency_level."""

    path: str
    service: str
    name: str
    idempotent: bool = False
    request_streaming: bool = False
    response_streaming: bool = False
    # The service that serves it, where its contract names one.
    owner: str = ""
    # For operators alone, by its task option.
    admin: bool = False
    # What links have worked out for this method, such as metric children by code.
    memo: dict[Any, Any] = field(default_factory=dict, compare=False)

    @property
    def target_name(self) -> str:
        """Short name of the owner for messages: `eta` of waymesh.eta.v1.EtaService."""
        parts = self.service.split(".")
        return self.owner or (parts[-3] if len(parts) >= 3 else parts[-1])


def describe_method(
    path: str, *, request_streaming: bool = False, response_streaming: bool = False
) -> Method:
    """The method behind a path.

    Not repeatable are one whose descriptor is not loaded, and one with a request stream: what an iterator
    gave cannot be sent again.
    """
    service, _, name = path.lstrip("/").rpartition("/")
    try:
        descriptor = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
        options = descriptor.GetOptions()
        level = options.idempotency_level
        idempotent = level in _REPEATABLE and not request_streaming
        owner = descriptor.containing_service.file.GetOptions().Extensions[task_pb2.service]
        admin = options.Extensions[task_pb2.task].admin
    except KeyError:
        idempotent, owner, admin = False, "", False
    return Method(path, service, name, idempotent, request_streaming, response_streaming, owner, admin)
