"""Whether an address is there: its name, a connection, what it shows by TLS, what it answers by HTTP.

Names are looked up and HTTP is spoken in threads that nobody waits for at the end: a resolver that hangs must
not hold a command that was told to stop.
"""

import asyncio
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

CONNECT_S: Final = 3.0
_BODY_BYTES: Final = 1 << 20


class UnreachableError(Exception):
    """`words` say what is wrong, `kind` in which step."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words


async def apart(work: Callable[[], T]) -> T:
    """Does it in a thread of its own that is left behind if this is cancelled."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            set_it(value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            set_it, value = done.set_exception, error
        else:
            set_it, value = done.set_result, result  # type: ignore[assignment]
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, set_it, value)

    threading.Thread(target=run, daemon=True).start()
    return await done


def host_and_port(target: str) -> tuple[str, int] | None:
    """Of a gRPC target; None if it names no host, as a Unix socket."""
    found = re.fullmatch(r"(?:(?:dns|ipv4|ipv6):(?://[^/]*/)?)?(\[[^\]]+\]|[^:/\[\]]+):(\d{1,5})", target)
    return None if found is None else (found[1].strip("[]"), int(found[2]))


async def addresses(host: str, port: int) -> list[str]:
    """All that the name stands for. UnreachableError if it has none."""
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await apart(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except TimeoutError:
        raise UnreachableError("name", f"the name {host} was not resolved within {CONNECT_S:g} s") from None
    except (socket.gaierror, UnicodeError):
        raise UnreachableError("name", f"the name {host} has no address") from None
    return list(dict.fromkeys(str(one[4][0]) for one in found))


async def connect(address: str, port: int) -> None:
    """One connection, closed at once. UnreachableError."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
    except TimeoutError:
        raise UnreachableError("silent", f"no answer within {CONNECT_S:g} s") from None
    except OSError as error:
        raise UnreachableError("refused", _said(error)) from None


async def certificate(host: str, port: int, context: ssl.SSLContext) -> dict[str, Any]:
    """What the server shows for the name it is called by, once it is trusted. UnreachableError."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
            shown = writer.get_extra_info("peercert")
            writer.close()
            return dict(shown or {})
    except ssl.SSLCertVerificationError as error:
        raise UnreachableError("certificate", error.verify_message.rstrip(".").lower()) from None
    except ssl.SSLError as error:
        why = (error.reason or "handshake failed").replace("_", " ").lower()
        raise UnreachableError("tls", f"no TLS there ({why})") from None
    except TimeoutError:
        words = f"takes connections, and the handshake did not end within {CONNECT_S:g} s"
        raise UnreachableError("handshake", words) from None
    except OSError as error:
        words = _said(error) if error.errno else "the handshake did not end"
        raise UnreachableError("tls", words) from None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def ask(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
    limit_s: float = 5.0,
) -> Answer:
    """One HTTP request, without proxies, redirects or retries. UnreachableError."""
    parts = urlsplit(url)
    host = parts.hostname or ""

    def work() -> Answer:
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=limit_s, context=context or ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=limit_s)
        try:
            path = parts.path or "/"
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(_BODY_BYTES))
        finally:
            connection.close()

    try:
        async with asyncio.timeout(limit_s):
            return await apart(work)
    except TimeoutError:
        raise UnreachableError("silent", f"no answer within {limit_s:g} s") from None
    except socket.gaierror:
        raise UnreachableError("name", f"the name {host} has no address") from None
    except ssl.SSLError as error:
        words = (
            getattr(error, "verify_message", "") or (error.reason or "TLS failed").replace("_", " ").lower()
        )
        raise UnreachableError("tls", str(words).rstrip(".")) from None
    except OSError as error:
        raise UnreachableError("refused", _said(error)) from None
    except (http.client.HTTPException, ValueError):
        raise UnreachableError("protocol", "what answers there speaks no HTTP") from None


def _said(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or "the connection broke").lower()
