"""One call to another service as the client's links see it."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Final

import grpc

from services.mesh.breaker import Permit
from services.mesh.chain.method import Method

if TYPE_CHECKING:
    from services.mesh.spans import CallSpan

_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")


class Headers(grpc.aio.Metadata):
    """What a call sends along, in the form that grpc passes on as it is.

    grpc makes a mapping of any other sequence and a sequence of that again, for each call.
    """

    def __init__(self, pairs: Iterable[tuple[str, str | bytes]] = ()) -> None:
        self._pairs = list(pairs)
        self.append = self._pairs.append

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def unsendable(self) -> str | None:
        """Name of the first that no call can carry; None if there is none."""
        for key, value in self._pairs:
            if _KEY.fullmatch(key) is None:
                return key
            if key.endswith("-bin"):
                continue
            text = value if isinstance(value, str) else value.decode("latin-1")
            if _TEXT.fullmatch(text) is None:
                return key
        return None


class ClientCall:
    """State of one call under way; each link reads and writes what is its own."""

    __slots__ = (
        "answered",
        "attempts",
        "budget_s",
        "granted_s",
        "metadata",
        "method",
        "own_at",
        "permit",
        "span",
        "started",
        "target",
    )

    def __init__(
        self, method: Method, target: str, metadata: Headers, started: float, own_at: float | None
    ) -> None:
        self.method = method
        # As the caller of the factory wrote it, such as 127.0.0.1:50051.
        self.target = target
        self.metadata = metadata
        self.started = started
        # Monotonic time at which the caller's own limit ends, all attempts together; None without one.
        self.own_at = own_at
        # Seconds granted to the attempt under way, and to the first one.
        self.granted_s: float | None = None
        self.budget_s: float | None = None
        self.attempts = 0
        # A response stream has brought its first message.
        self.answered = False
        self.permit: Permit | None = None
        self.span: CallSpan | None = None


class ClientLink:
    """Plain functions around a call; an instance serves all calls of one channel.

    A link overrides what it needs: what it leaves is not even called.
    """

    name: ClassVar[str]

    def before(self, call: ClientCall) -> None:
        """Runs on the way out, in the order of the list; a MeshError ends the call."""

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        """Runs on the way back, in reverse, if `before` had run; returns the error that goes on.

        Never raises. None stays None, and an error stays one.
        """
        return error
