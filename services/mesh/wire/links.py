"""Connections to all addresses of one target: found, made, and made again when they are lost."""

import asyncio
import contextlib
import contextvars
import ipaddress
import logging
import math
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from services.mesh import transport
from services.mesh.wire.connection import LINGER_S, Connection, Events

Address = tuple[str, int]
# What encrypts a connection that is made now.
Context = Callable[[], ssl.SSLContext]

_log = logging.getLogger(__name__)

# Waits between attempts, and what one attempt may take at least, in seconds.
_BEGIN_S, ATTEMPT_S, _MOST_S = (each / 1000 for each in transport.RECONNECT_MS)
_TLS_ATTEMPT_S: Final = transport.TLS_ATTEMPT_MS / 1000
_GROWTH: Final = 1.6
_JITTER: Final = 0.2
# A connection that ends sooner than this is not followed by the next one at once, in seconds.
_SHORT_LIFE_S: Final = 1.0
# A refusal that comes sooner costs next to nothing; one that takes longer would make calls wait, in seconds.
_QUICK_S: Final = 0.1
# Past the end of the last connection of one who closes, in seconds.
_FAREWELL_S: Final = LINGER_S + 1.0


def address_of(target: str) -> Address | None:
    """Host and port of a target; None for one of another form, which this package does not speak."""
    host, _, port = authority_of(target).rpartition(":")
    if not port.isdecimal() or not target.isascii() or not 0 < int(port) < 1 << 16:
        return None
    if not host or "/" in host or (":" in host and host[0] != "["):
        return None
    return host.strip("[]"), int(port)


def authority_of(target: str) -> str:
    """The target as calls name it."""
    return target.removeprefix("dns:///")


class Links:
    """`changed` is called whenever there is more room, or no hope.

    Addresses are looked up whenever one of them has no connection; servers therefore end connections by age.
    """

    def __init__(
        self,
        target: str,
        address: Address,
        max_message_bytes: int,
        attempt_s: float,
        changed: Callable[[], None],
        tls: Context | None = None,
    ) -> None:
        self._target = target
        self._host, self._port = address
        self._max_message = max_message_bytes
        self._attempt_s = attempt_s if tls is None else max(attempt_s, _TLS_ATTEMPT_S)
        self._changed = changed
        self._tls = tls
        # Connections of an earlier generation are left for newer ones.
        self._generation = 0
        self._events = Events(ready=self._on_ready, left=self._on_left, gone=self._on_gone, room=changed)
        # Where calls may begin.
        self.ready: list[Connection] = []
        # Why there is no connection, from an attempt that failed until one succeeds or begins anew.
        self.failure: str | None = None
        # When a call that needs a connection may try again, rather than be told of the failure.
        self._again_at = math.inf
        self._refused = False
        self._told = ""
        self.closed = False
        self._addresses: tuple[Address, ...] = ()
        self._made: dict[Address, Connection] = {}
        # With the time of their first word: those that calls end on as well.
        self._alive: dict[Connection, float] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._hasty = False
        # Set when the next attempt should not wait any longer.
        self._now = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def connecting(self) -> bool:
        """Whether an attempt is under way or about to be."""
        return self._connecting is not None

    def connect(self) -> None:
        """Makes what connections are missing, in the background.

        Somebody needs one. Where the last attempt was refused at once, another costs next to nothing, and
        what it said a while ago need not be so any more: a service that starts listens from then on.
        """
        if self.failure is not None and time.monotonic() >= self._again_at:
            self.expect()
        if self._connecting is None and not self.closed:
            # Outside of the call that happens to need it: its request, trace and budget are not the others'.
            self._connecting = asyncio.create_task(
                self._keep(), name=f"connections to {self._target}", context=contextvars.Context()
            )

    def expect(self) -> None:
        """Somebody has seen the target alive: calls wait for the next attempt, which is made at once."""
        if not self.ready:
            self.failure = None
            self._now.set()

    def renew(self) -> None:
        """Makes every connection anew; calls go by the present ones until then."""
        self._generation += 1
        if self._made:
            self._now.set()
            self.connect()

    async def close(self) -> None:
        """Ends all calls and connections, and returns once they have ended."""
        self.closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        self.ready.clear()
        for connection in list(self._alive):
            connection.close()
        self._changed()
        # A farewell by TLS takes a while, and uvloop does not let a loop end in the middle of one.
        if self._alive:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._ended.wait()

    # --- attempts ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Until every address has its connection."""
        wait_s = _BEGIN_S
        try:
            if self._hasty:
                await asyncio.sleep(_jittered(wait_s))
            while True:
                self._now.clear()
                self._refused, began = False, time.monotonic()
                failure = await self._attempt(max(self._attempt_s, wait_s))
                ended = time.monotonic()
                if failure is None and not self._missing():
                    return
                if self._now.is_set():  # what this attempt has seen may be of the past
                    wait_s = _BEGIN_S
                    continue
                if failure is not None and not self.ready:
                    self.failure = failure
                    quick = self._refused and ended - began < _QUICK_S
                    self._again_at = ended + _BEGIN_S if quick else math.inf
                    self._changed()
                # Not `wait_for`: up to Python 3.11 it passes over a cancellation that comes with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_jittered(wait_s)):
                        await self._now.wait()
                wait_s = min(_MOST_S, wait_s * _GROWTH)
        finally:
            self._connecting = None

    async def _attempt(self, limit_s: float) -> str | None:
        """Tries every address without a connection; what went wrong, if anything did."""
        try:
            self._addresses = await self._resolve()
        except (OSError, UnicodeError) as error:
            return f"{self._host} has no address: {error}"
        for address in [each for each in self._made if each not in self._addresses]:
            self._made.pop(address).leave()
        ends = await asyncio.gather(*(self._open(each, limit_s) for each in self._missing()))
        return next((each for each in ends if each is not None), None)

    def _missing(self) -> list[Address]:
        """The addresses without a connection, or with one of an earlier generation."""
        return [
            each
            for each in self._addresses
            if each not in self._made or self._made[each].generation != self._generation
        ]

    async def _resolve(self) -> tuple[Address, ...]:
        with contextlib.suppress(ValueError):
            return ((str(ipaddress.ip_address(self._host)), self._port),)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in found))

    async def _open(self, address: Address, limit_s: float) -> str | None:
        """Makes a connection; it counts once the peer has spoken. What went wrong, if anything did."""
        connection = Connection(address, self._max_message, self._events, self._generation)
        context = None if self._tls is None else self._tls()
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    *address,
                    ssl=context,
                    server_hostname=None if context is None else self._host,
                )
                return await connection.settled
        except TimeoutError:
            return f"no connection within {limit_s:g} s"
        except ssl.SSLError as error:
            return self._untrusted(error)
        except OSError as error:
            self._refused = True
            return f"no connection: {error}"
        finally:
            if connection not in self._alive:
                connection.abort()

    def _untrusted(self, error: ssl.SSLError) -> str:
        """Told loudly, once: no waiting mends it."""
        why = f"no connection by TLS: {error}"
        if why != self._told:
            self._told = why
            _log.warning("%s: %s", self._target, why)
        return why

    # --- connections ------------------------------------------------------------------------------

    def _on_ready(self, connection: Connection) -> None:
        former = self._made.get(connection.address)
        self._made[connection.address] = connection
        self._told = ""
        self._alive[connection] = time.monotonic()
        self.ready.append(connection)
        self.failure = None
        self._changed()
        if former is not None:
            former.leave()

    def _on_left(self, connection: Connection, why: str) -> None:
        if connection not in self._alive:
            return  # it has never been ready, which whoever opens it tells
        if connection in self.ready:
            self.ready.remove(connection)
        if self._made.get(connection.address) is connection:
            del self._made[connection.address]
        if self.closed:
            return
        _log.debug("a connection to %s is lost: %s", self._target, why)
        self._hasty = time.monotonic() - self._alive[connection] < _SHORT_LIFE_S
        if not self._hasty:
            self._now.set()  # another address that stays away must not keep this one waiting
        self.connect()
        self._changed()

    def _on_gone(self, connection: Connection) -> None:
        self._alive.pop(connection, None)
        if not self._alive:
            self._ended.set()


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
