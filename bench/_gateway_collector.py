"""The collector of bench/gateway.py --trace: takes spans by OTLP over HTTP, counts them and forgets them.

GET answers how many came from each service, as JSON.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_spans: Final = Counter[str]()


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {attribute.key: attribute.value.string_value for attribute in sent.resource.attributes}
            _spans[told["service.name"]] += sum(len(scope.spans) for scope in sent.scope_spans)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(json.dumps(_spans).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing of a request."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Collector).serve_forever()
