"""Places that are not as they should be, for `waymesh doctor` to look at."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from services.cli.doctor.finding import Finding, State
from tests.running_mesh import ROOT

DOCTOR = [sys.executable, "-P", "-c", "from services.cli import main; main()", "doctor"]


def one(found: list[Finding], check: str, state: State) -> Finding:
    """The one row of a check in that state; its remedy is there where one is needed."""
    [row] = [row for row in found if (row.check, row.state) == (check, state)]
    assert bool(row.remedy) == (state in (State.WARN, State.FAIL))
    return row


def clean_environ(**more: str) -> dict[str, str]:
    """Nothing of this machine's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "WAYMESH_DATA_DIR": "/nonexistent", **more}


def doctor(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DOCTOR, *arguments],
        env=dict(environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def rows(said: str) -> list[Finding]:
    """What --json printed."""
    told = [json.loads(line) for line in said.splitlines()]
    return [Finding(row["check"], State(row["state"]), row["found"], row["remedy"]) for row in told]


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A listener whose queue is full: whoever comes next hears nothing at all, as behind a firewall."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(address)
        yield address[1]


@contextlib.contextmanager
def hanging_port() -> Iterator[int]:
    """Whoever comes is connected, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def grpc_health(status: int) -> AsyncIterator[int]:
    """A gRPC server of which nothing but its health is known."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.contextmanager
def tls_port(context: ssl.SSLContext) -> Iterator[int]:
    """Shakes hands by TLS, and says no more."""
    with contextlib.ExitStack() as taken, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.push(connection)
                with contextlib.suppress(OSError):
                    taken.push(context.wrap_socket(connection, server_side=True))

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


class Http:
    """Answers each path with a status and JSON; remembers what was asked."""

    def __init__(self, answers: Mapping[str, tuple[int, object]]) -> None:
        asked: list[tuple[str, str, str]] = []
        self.asked = asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, told = answers.get(self.path, (404, {}))
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def http(answers: Mapping[str, tuple[int, object]]) -> Iterator[Http]:
    server = Http(answers)
    try:
        yield server
    finally:
        server.close()
