"""A service that says it is healthy on its port, and does as its variables say. Shares its port as ours
do.
"""

import http.server
import os
import signal
import socket
import sys
import time


class Health(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ready = not os.path.exists(os.environ.get("FAKE_SICK", "/nonexistent"))
        body = b'{"status":"ok","checks":{}}' if ready else b'{"status":"failing","checks":{"store":"away"}}'
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def main() -> None:
    if os.environ.get("FAKE_BROKEN"):
        sys.exit("fake: cannot do this")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("FAKE_DEAF") else lambda *_: sys.exit(0))
    server = Server(("127.0.0.1", int(sys.argv[1])), Health)
    if os.environ.get("FAKE_DROWSY"):
        time.sleep(float(os.environ["FAKE_DROWSY"]))
    server.serve_forever()


main()
