"""One call as the server's links see it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import grpc

from services.mesh.chain.method import Method
from services.mesh.trace import TraceContext

if TYPE_CHECKING:
    from services.mesh.spans import CallSpan

# Makes of a response the one that is sent.
Outgoing: TypeAlias = Callable[[Any], Any]


class ServerCall:
    """State of one call under way; each link reads and writes what is its own."""

    __slots__ = (
        "code",
        "context",
        "deadline",
        "metadata",
        "method",
        "outgoing",
        "request",
        "request_id",
        "response",
        "span",
        "started",
        "token",
        "trace",
    )

    def __init__(self, method: Method, request: Any, context: Any, metadata: Any, started: float) -> None:
        self.method = method
        # The message, or the iterator of a request stream; links may wrap it.
        self.request = request
        # What becomes of each response on its way out; None: nothing.
        self.outgoing: Outgoing | None = None
        # What is sent, once it is known; of a stream nothing.
        self.response: Any = None
        self.context: Any = context  # grpc.aio.ServicerContext; its stub denies that a deadline may be absent
        self.metadata: dict[str, str | bytes] = metadata
        self.started = started
        # OK until the `errors` link knows better.
        self.code = grpc.StatusCode.OK
        self.request_id = ""
        # Monotonic time at which the caller's budget ends; None without one.
        self.deadline: float | None = None
        self.trace: TraceContext | None = None
        self.span: CallSpan | None = None
        self.token: Any = None

    @property
    def budget_s(self) -> float | None:
        """What the caller granted, in seconds."""
        return None if self.deadline is None else self.deadline - self.started


class ServerLink:
    """Plain functions around a handler; an instance serves all calls of one server.

    A link overrides what it needs: what it leaves is not even called.
    """

    name: ClassVar[str]

    def before(self, call: ServerCall) -> None:
        """Runs on the way in, in the order of the list; a MeshError ends the call."""

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        """Runs on the way out, in reverse, if `before` had run; returns the error that goes on. Never raises.

        None may become an error, and an error another; an error never becomes None.
        """
        return error
