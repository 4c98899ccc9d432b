"""Counts calls and their time by outcome, and those under way."""

import time

from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.telemetry import Telemetry


class MetricsLink(ServerLink):
    """`grpc_server_handling_seconds` and `waymesh_server_in_flight`."""

    name = "metrics"

    def __init__(self, telemetry: Telemetry) -> None:
        self._handling = telemetry.server_handling
        self._in_flight = 0
        telemetry.server_in_flight.set_function(lambda: self._in_flight)

    def before(self, call: ServerCall) -> None:
        self._in_flight += 1

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        self._in_flight -= 1
        memo = call.method.memo
        times = memo.get(call.code)
        if times is None:
            times = self._handling.of(call.method.service, call.method.name, call.code.name)
            memo[call.code] = times
        times.observe(time.monotonic() - call.started)
        return error
