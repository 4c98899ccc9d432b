"""The links of the client's side, put together for one target."""

import asyncio
import time
from typing import Any

from services.mesh.chain import order
from services.mesh.chain.around import Around
from services.mesh.chain.client.breaker import BreakerLink
from services.mesh.chain.client.call import ClientCall, ClientLink, Headers
from services.mesh.chain.client.deadline import DeadlineLink
from services.mesh.chain.client.errors import ErrorsLink
from services.mesh.chain.client.metrics import MetricsLink
from services.mesh.chain.client.principal import PrincipalLink
from services.mesh.chain.client.request_id import RequestIdLink
from services.mesh.chain.client.retry import RetryLink
from services.mesh.chain.client.trace import TraceLink
from services.mesh.chain.method import Method
from services.mesh.errors import MeshError
from services.mesh.telemetry import Telemetry


class ClientChain:
    """The links of one target: those around the call as a whole, the retries, those around each attempt."""

    def __init__(
        self,
        target: str,
        telemetry: Telemetry,
        breaker: BreakerLink,
        retry: RetryLink,
        timeout_s: float | None,
    ) -> None:
        outer: list[ClientLink] = [
            TraceLink(telemetry),
            RequestIdLink(),
            PrincipalLink(),
            MetricsLink(telemetry),
            breaker,
        ]
        inner: list[ClientLink] = [DeadlineLink(), ErrorsLink()]
        names = [*(link.name for link in outer), retry.name, *(link.name for link in inner)]
        order.require(names, order.CLIENT, order.CLIENT_REASONS)
        self.target = target
        self.timeout_s = timeout_s
        self.outer: Around[ClientCall] = Around(outer, ClientLink)
        self.inner: Around[ClientCall] = Around(inner, ClientLink)
        self.whole: Around[ClientCall] = Around([*outer, *inner], ClientLink)
        self.breaker = breaker
        self.retry = retry

    def begin(self, method: Method, timeout: float | None, metadata: Any) -> ClientCall:
        """State of a new call. `timeout` is the caller's; unary calls without one get the chain's."""
        started = time.monotonic()
        if timeout is None and not method.response_streaming:
            timeout = self.timeout_s
        sent = Headers(metadata or ())
        return ClientCall(method, self.target, sent, started, None if timeout is None else started + timeout)


async def unary(chain: ClientChain, call: ClientCall, raw: Any, request: Any, options: Any) -> Any:
    """One response of the bare callable `raw`.

    The outer links run once, then attempts are made until one succeeds or is the last.
    """
    outer, inner, retry = chain.outer, chain.inner, chain.retry
    error = outer.enter(call)
    if error is not None:
        _mark_unsent(error)
        # A caller that tries again in a loop must not starve the others: nothing has been awaited so far.
        await asyncio.sleep(0)
        raise error
    response = None
    n = 0
    try:
        while True:
            error = inner.enter(call)
            if error is None:
                try:
                    response = await raw(request, timeout=call.granted_s, metadata=call.metadata, **options)
                except BaseException as raised:
                    error = raised
                error = inner.leave(call, error)
            if error is None:
                retry.success(n)
                break
            n += 1
            wait_s = retry.wait_s(call, error, n)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
    except asyncio.CancelledError as cancelled:  # while waiting
        error = cancelled
    error = outer.leave(call, error)
    if error is None:
        return response
    if not call.attempts:
        _mark_unsent(error)
    try:
        raise error
    finally:
        del error  # the traceback holds this frame; without this, each error is a cycle


def _mark_unsent(error: BaseException) -> None:
    if isinstance(error, MeshError):
        error.unsent = True
