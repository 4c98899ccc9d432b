"""Times calls by outcome, as the caller saw them."""

import asyncio
import time

from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.telemetry import Telemetry


class MetricsLink(ClientLink):
    """`grpc_client_handling_seconds` and `waymesh_client_retries_total`."""

    name = "metrics"

    def __init__(self, telemetry: Telemetry) -> None:
        self._handling = telemetry.client_handling
        self._retries = telemetry.client_retries

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        method = call.method
        code = "OK" if error is None else _code_name(error)
        child = method.memo.get(code)
        if child is None:
            child = method.memo[code] = self._handling.of(method.service, method.name, code)
        child.observe(time.monotonic() - call.started)
        if call.attempts > 1:
            self._retries.labels(method.service, method.name).inc(call.attempts - 1)
        return error


def _code_name(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    return getattr(getattr(error, "code", None), "name", "UNKNOWN")
