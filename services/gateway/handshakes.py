"""TLS before HTTP: each accepted connection makes its handshake with the certificates that are current then.

A server of asyncio's own would keep those it began with, and would not tell of handshakes that are under way,
which a drain has to wait for.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from services.gateway.connection import Connection
from services.gateway.crowd import Crowd
from services.mesh.errors import MeshError
from services.mesh.tls.live import LiveTls
from services.mesh.tls.peer import Peers

_log = logging.getLogger(__name__)

# Whoever connects and does not get on with it is hung up on, in seconds.
HANDSHAKE_S: Final = 10.0
# A client is about to ask when its handshake is done, in seconds.
_ASKS_WITHIN_S: Final = 1.0

Failed = Callable[[], None]


class Handshakes:
    """Those of one listener. `failed` is told of each that came to nothing."""

    def __init__(
        self,
        tls: LiveTls,
        further_peers: frozenset[str] = frozenset(),
        *,
        failed: Failed = lambda: None,
        limit_s: float = HANDSHAKE_S,
    ) -> None:
        self._tls = tls
        self._peers = Peers(tls.current.id, further_peers)
        self._failed = failed
        self._limit_s = limit_s
        self._under_way: set[asyncio.Task[None]] = set()
        # Those whose client has not said anything yet.
        self._silent: set[_Accepted] = set()

    @property
    def under_way(self) -> int:
        """How many have begun and not ended, or are about to begin."""
        soon = time.monotonic() - _ASKS_WITHIN_S
        return len(self._under_way) + sum(each.since > soon for each in self._silent)

    def await_first_word(self, accepted: "_Accepted") -> None:
        """A connection of which nothing has come."""
        self._silent.add(accepted)

    def accept(self, make: Callable[[], Connection], crowd: Crowd) -> asyncio.Protocol:
        """The protocol of an accepted connection; what `make` gives speaks once it is encrypted.

        Until then it has a place in the crowd, and is among the first to make room.
        """
        return _Accepted(self, make, crowd, self._limit_s)

    def begin(self, accepted: "_Accepted") -> None:
        """Makes a handshake in the background."""
        self._silent.discard(accepted)
        task = asyncio.create_task(self._make(accepted), name="handshake")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def come_to_nothing(self, accepted: "_Accepted", why: object) -> None:
        """Ends a connection that is not encrypted."""
        self._silent.discard(accepted)
        accepted.transport.abort()
        accepted.leave()
        self._failed()
        level = logging.INFO if isinstance(why, ssl.SSLCertVerificationError) else logging.DEBUG
        _log.log(level, "a handshake of TLS came to nothing: %s", why)

    async def stop(self) -> None:
        """Ends those under way."""
        for accepted in list(self._silent):
            accepted.transport.abort()
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, accepted: "_Accepted") -> None:
        transport = accepted.transport
        held = _Held()
        now = self._tls.current
        shaking = asyncio.create_task(
            asyncio.get_running_loop().start_tls(
                transport,
                held,
                now.server,
                server_side=True,
                ssl_handshake_timeout=self._limit_s,
            )
        )
        try:
            await asyncio.sleep(0)  # until the transport has its new protocol, and is paused
            if not shaking.done():
                _hand_over(accepted.received, transport.get_protocol())
            encrypted = await shaking
            if encrypted is None or encrypted.is_closing() or held.lost:
                raise ConnectionAbortedError("the client has gone")
            # ValueError: gone before the end of its handshake.
            certificate = encrypted.get_extra_info("ssl_object").getpeercert()
        except (OSError, ValueError) as error:
            self.come_to_nothing(accepted, error)
            return
        except Exception as error:
            _log.exception("a handshake of TLS failed by a fault of ours")
            shaking.cancel()
            self.come_to_nothing(accepted, error)
            return
        except asyncio.CancelledError:
            shaking.cancel()
            transport.abort()
            accepted.leave()
            raise
        accepted.leave()
        connection = accepted.make()
        connection.refusal = self._refusal(certificate)
        # An authority that is trusted no more takes its connections with it, each after its next answer.
        connection.still_trusted = lambda: self._tls.current.authorities == now.authorities
        encrypted.set_protocol(connection)
        connection.connection_made(encrypted)
        connection.await_request(_ASKS_WITHIN_S)
        held.pass_on(connection)

    def _refusal(self, certificate: dict[str, object]) -> MeshError | None:
        peer = self._peers.of_certificate(certificate)
        refusal = peer.refusal()
        if refusal is not None:
            _log.warning("a caller is refused: %s", refusal)
        return refusal


def _hand_over(received: bytes, protocol: asyncio.BaseProtocol) -> None:
    """Gives what has come already to the protocol of TLS; all loops have one with buffers."""
    takes = cast(asyncio.BufferedProtocol, protocol)
    at = 0
    while at < len(received):
        buffer = memoryview(takes.get_buffer(len(received) - at))
        piece = received[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        takes.buffer_updated(len(piece))
        at += len(piece)


class _Accepted(asyncio.Protocol):
    """A connection before its handshake, which begins with what its client says first.

    uvloop reads from a connection as soon as it is made, whatever its protocol asks for: what has come until
    then is kept.
    """

    transport: asyncio.Transport
    since = 0.0

    def __init__(
        self, handshakes: Handshakes, make: Callable[[], Connection], crowd: Crowd, limit_s: float
    ) -> None:
        self.make = make
        self._crowd = crowd
        self._joined = False
        self.received = b""
        self._handshakes = handshakes
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's
        self.since = time.monotonic()
        self._joined = self._crowd.join(self)
        if not self._joined:
            self.transport.abort()  # there is nothing to say that it could read
            return
        self._handshakes.await_first_word(self)
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._silent)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._handshakes.begin(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._handshakes.come_to_nothing(self, "the client has gone")

    def _silent(self) -> None:
        self._timer = None
        self._handshakes.come_to_nothing(self, "the client says nothing")

    def leave(self) -> None:
        """Another takes its place in the crowd, or nobody."""
        if self._joined:
            self._joined = False
            self._crowd.leave(self)

    def close(self) -> None:
        """Makes room for another."""
        self.transport.abort()

    def hang_up(self) -> None:
        """The same."""
        self.transport.abort()


class _Held(asyncio.Protocol):
    """Keeps what comes with the end of a handshake until somebody listens."""

    def __init__(self) -> None:
        self._received = b""
        self._ended = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self._received += data

    def eof_received(self) -> bool:
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def pass_on(self, connection: Connection) -> None:
        """Tells what was kept."""
        if self._received:
            connection.data_received(self._received)
        if self._ended:
            connection.eof_received()
