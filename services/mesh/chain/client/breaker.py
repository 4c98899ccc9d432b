"""Refuses calls to a target and method that fails, and tells its breaker how calls end."""

import logging
import time

from services.mesh.breaker import Breaker, BreakerPolicy, Listener, State
from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.deadline import Clock
from services.mesh.telemetry import Telemetry

_log = logging.getLogger(__name__)


class BreakerLink(ClientLink):
    """One breaker per method of one target. `changed(breaker, old, new)` is called after each change."""

    name = "breaker"

    def __init__(
        self,
        policy: BreakerPolicy,
        telemetry: Telemetry,
        clock: Clock,
        changed: Listener,
    ) -> None:
        self._policy = policy
        self._telemetry = telemetry
        self._clock = clock
        self._told = changed
        self._breakers: dict[str, Breaker] = {}

    @property
    def breakers(self) -> list[Breaker]:
        """Those of all methods called so far."""
        return list(self._breakers.values())

    def of(self, call: ClientCall) -> Breaker:
        """The breaker of the call's method."""
        breaker = self._breakers.get(call.method.path)
        if breaker is None:
            breaker = Breaker(call.method.target_name, call.method.path, self._policy, clock=self._clock)
            breaker.on_change(self._changed)
            self._telemetry.breaker_state.labels(breaker.target, breaker.method).set(State.CLOSED)
            self._telemetry.breaker_opened.labels(breaker.target, breaker.method)  # seen at 0 before it grows
            self._breakers[call.method.path] = breaker
        return breaker

    def before(self, call: ClientCall) -> None:
        call.permit = self.of(call).admit()

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        self._settle(call, error)
        return error

    def answered(self, call: ClientCall) -> None:
        """A response stream brought its first message: the target is well, whatever ends the stream later."""
        self._settle(call, None)

    def _settle(self, call: ClientCall, error: BaseException | None) -> None:
        permit, call.permit = call.permit, None
        if permit is not None:
            # A call that was never sent, for want of time, says nothing.
            budget_s = call.budget_s if call.attempts else 0.0
            self.of(call).settle(permit, error, budget_s, time.monotonic() - call.started)

    def _changed(self, breaker: Breaker, old: State, new: State) -> None:
        self._telemetry.breaker_state.labels(breaker.target, breaker.method).set(new)
        if new is State.OPEN:
            self._telemetry.breaker_opened.labels(breaker.target, breaker.method).inc()
        _log.log(
            logging.WARNING if new is State.OPEN else logging.INFO,
            "breaker of %s is %s",
            breaker.method,
            new.name.lower().replace("_", "-"),
            extra={"fields": {"target": breaker.target, "from": old.name.lower()}},
        )
        self._told(breaker, old, new)
