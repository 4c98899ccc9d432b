"""Calls the one RPC that a task names, through the mesh's client chain."""

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TARGET_UNAVAILABLE

from services.gateway.resume import Resume
from services.gateway.tasks import CURSOR, Stream, Task
from services.mesh.chain.client.stream import StreamCall
from services.mesh.chain.invoke import unary
from services.mesh.chain.method import describe_method
from services.mesh.client import ClientFactory
from services.mesh.errors import DEFAULT_RETRY_AFTER_S, Unavailable
from services.mesh.retry import RetryPolicy

_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_NO_TIMEOUT: Final = None  # the budget around the call is the only limit


class Rpc(Protocol):
    """What is to be known of an RPC that is called."""

    @property
    def owner(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def request(self) -> type[Message]: ...
    @property
    def response(self) -> type[Message]: ...


class Caller:
    """One RPC of one target, ready to be called; it says how many attempts that took.

    A stub would not say it: the attempt is part of the answer of /execute.
    """

    def __init__(self, factory: ClientFactory, target: str, rpc: Rpc) -> None:
        channel = factory.channel(target)
        self._chain = channel.chain
        self._method = describe_method(rpc.path)
        self._raw = channel.quick_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)

    async def __call__(self, request: Message) -> tuple[Message, int]:
        """The response and the number of attempts. Raises MeshErrors."""
        call = self._chain.begin(self._method, _NO_TIMEOUT, None)
        response: Message = await unary(self._chain, call, self._raw, request, _NO_OPTIONS)
        return response, call.attempts


class StreamCaller:
    """The streaming RPC of one target, ready to be called for a task."""

    def __init__(self, factory: ClientFactory, target: str, stream: Stream) -> None:
        self.stream = stream
        self.resume = Resume(RetryPolicy(), random.Random())
        self._call = factory.channel(target).unary_stream(
            stream.path,
            request_serializer=stream.request.SerializeToString,
            response_deserializer=stream.response.FromString,
        )

    def __call__(self, request: Message, cursor: str) -> StreamCall:
        """The call under way, which goes on after `cursor` if there is one; reading raises MeshErrors."""
        call: StreamCall = self._call(self.stream.request(**{self.stream.field: request, CURSOR: cursor}))
        return call


def stream_callers(
    factory: ClientFactory, tasks: Mapping[str, Task], target_of: Callable[[str], str | None]
) -> dict[str, StreamCaller]:
    """Task → caller of its stream, for the tasks that have one and whose owner has a target."""
    found: dict[str, StreamCaller] = {}
    for name, task in tasks.items():
        target = target_of(task.owner)
        if task.stream is not None and target is not None:
            found[name] = StreamCaller(factory, target, task.stream)
    return found


def callers(
    factory: ClientFactory, rpcs: Mapping[str, Rpc], target_of: Callable[[str], str | None]
) -> dict[str, Caller]:
    """Name → caller, for the RPCs whose owner has a target."""
    found: dict[str, Caller] = {}
    for name, rpc in rpcs.items():
        target = target_of(rpc.owner)
        if target is not None:
            found[name] = Caller(factory, target, rpc)
    return found


def no_target(owner: str) -> Unavailable:
    """Nobody has said where the owner of a task is."""
    return Unavailable(
        f"{owner} is not part of this mesh",
        reason=ERROR_REASON_TARGET_UNAVAILABLE,
        metadata={"target": owner},
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )
