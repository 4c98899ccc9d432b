"""Counts calls and their time by outcome."""

import time

from services.mesh.chain.server.call import ServerCall
from services.mesh.telemetry import Telemetry


class MetricsLink:
    """`grpc_server_started_total` and `grpc_server_handling_seconds`."""

    name = "metrics"

    def __init__(self, telemetry: Telemetry) -> None:
        self._started = telemetry.server_started
        self._handling = telemetry.server_handling

    def before(self, call: ServerCall) -> None:
        memo = call.method.memo
        child = memo.get("started")
        if child is None:
            child = memo["started"] = self._started.labels(call.method.service, call.method.name)
        child.inc()

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        memo = call.method.memo
        child = memo.get(call.code)
        if child is None:
            child = memo[call.code] = self._handling.labels(
                call.method.service, call.method.name, call.code.name
            )
        child.observe(time.monotonic() - call.started)
        return error
