"""TLS before a PostgreSQL that was built without: what a client says after SSLRequest goes on as it is."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Certificate

# int32 length, int32 code: protocol-message-formats, SSLRequest.
_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


class _Door:
    def __init__(self, socket: str, context: ssl.SSLContext) -> None:
        self._socket = socket
        self._context = context
        self._inside: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, ready: "threading.Event", ports: list[int], ended: asyncio.Event) -> None:
        async with await asyncio.start_server(self._enter, "127.0.0.1", 0) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await ended.wait()
        # Not cancelled: asyncio tells of a cancelled connection as of a fault.
        for writer in self._inside.values():
            writer.transport.abort()
        await asyncio.gather(*self._inside)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._inside[task] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) == _SSL_REQUEST:  # nobody gets in without
                writer.write(b"S")
                await writer.start_tls(self._context)
                inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket)
                try:
                    await asyncio.wait(
                        [
                            asyncio.create_task(_pump(reader, inner_writer)),
                            asyncio.create_task(_pump(inner_reader, writer)),
                        ],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    inner_writer.close()
        writer.close()
        del self._inside[task]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def tls_door(dsn: str, certificate: Certificate, folder: Path) -> Iterator[str]:
    """DSN by which the server at a Unix socket's `dsn` is reached with TLS and not without."""
    paths = certificate.write(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate, paths.key)
    parts = urlsplit(dsn)
    socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    ready, ports, ended = threading.Event(), [], asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(_Door(socket, context).serve(ready, ports, ended))
    )
    thread.start()
    try:
        assert ready.wait(30)
        yield f"postgresql://{parts.username}@127.0.0.1:{ports[0]}{parts.path}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
