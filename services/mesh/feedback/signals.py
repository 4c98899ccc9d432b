"""What a process of the mesh notices about itself and its peers, on its way to feedback.

Nothing here waits or fails: signals go into a bounded queue that a background task empties. A signal that
finds the queue full pushes out the oldest, for the newest says most. What goes on is told again now and then,
so that feedback need not take a process that died for one in which all has been well since.

A signal belongs to the tenant of its subject, and is sent for it; what a process notices about itself and its
peers belongs to the default tenant, which is the operators'.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import grpc
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.mesh import logs, principal, tenancy
from services.mesh.breaker import Breaker, State
from services.mesh.errors import MeshError
from services.mesh.feedback.clip import clip_text
from services.mesh.feedback.outcome import UNNAMED, recordable, recordable_name
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.redact import redact

Send = Callable[[Sequence[Signal]], Awaitable[object]]

_log = logging.getLogger(__name__)

_QUEUE: Final = 10_000
_BATCH: Final = 500
# What goes on is told again this often, in seconds; what feedback has not heard of for three times as long is
# over for it.
_REMIND_S: Final = 300.0
_LASTING: Final = 1_000
_BACKOFF_S: Final = (1.0, 30.0)
# What a signal does not become better for by trying again.
_REFUSED: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS})
# Texts of a signal and how long the contract lets them be. Not signal_id, which is its identity.
_NAME_LIMITS: Final = {"source": 128, "subject": 256}
_MAX_MESSAGE: Final = 1024
_MAX_LABELS: Final = 32
_MAX_NAME: Final = 64
_MAX_VALUE: Final = 512


class _Owned(NamedTuple):
    """A signal with plain ids, and whose it is."""

    tenant: str
    signal: Signal


class SignalSender:
    """Queue and sender of the signals of one process; run `run` in the background."""

    def __init__(
        self,
        source: str,
        send: Send,
        *,
        wall: Callable[[], float] = time.time,
        remind_s: float = _REMIND_S,
    ) -> None:
        self._source = recordable_name(source) or UNNAMED
        self._send = send
        self._wall = wall
        self._remind_s = remind_s
        # In containers every process has the same number.
        self._process = f"{socket.gethostname()[:_MAX_NAME]}-{os.getpid()}"
        self._lasting: dict[tuple[int, str], _Owned] = {}
        self._queue: deque[_Owned] = deque(maxlen=_QUEUE)
        self._some = asyncio.Event()

    @property
    def queued(self) -> Sequence[Signal]:
        """What has not been sent yet, oldest first."""
        return tuple(one.signal for one in self._queue)

    def breaker_changed(self, breaker: Breaker, old: State, new: State) -> None:
        """A listener of breakers: one that was closed opens, one that was not closes."""
        if new is State.HALF_OPEN or (old is State.HALF_OPEN and new is State.OPEN):
            return  # it is the same outage
        active = new is State.OPEN
        state = "open" if active else "closed"
        self.put(
            SignalKind.SIGNAL_KIND_BREAKER_OPEN,
            tenancy.qualify(DEFAULT_TENANT, f"{breaker.target}{breaker.method}"),
            Severity.SEVERITY_ERROR if active else Severity.SEVERITY_INFO,
            active=active,
            message=f"the breaker of {breaker.method} at {breaker.target} is {state}",
            labels={"target": breaker.target, "method": breaker.method, "process": self._process},
            lasts=True,
        )

    def check_changed(self, check: str, failure: str | None) -> None:
        """A listener of health checks: one fails, with this kind of error, or passes again."""
        active = failure is not None
        self.put(
            SignalKind.SIGNAL_KIND_HEALTH_FAILING,
            tenancy.qualify(DEFAULT_TENANT, check),
            Severity.SEVERITY_ERROR if active else Severity.SEVERITY_INFO,
            active=active,
            message=f"health check {check} of {self._source} {'fails' if active else 'passes again'}",
            labels={"check": check, "error": failure or "", "process": self._process},
            lasts=True,
        )

    def put(
        self,
        kind: SignalKind.ValueType,
        subject: str,
        severity: Severity.ValueType,
        *,
        active: bool,
        message: str,
        labels: Mapping[str, str],
        lasts: bool = False,
    ) -> None:
        """Queues a signal. Never raises, never waits; whoever noticed it has other things to do.

        `subject` is qualified; ids of its tenant in the other texts become plain.
        What `lasts` is told again every few minutes until it is told to be over. A label `process` says that
        each replica notices this for itself: it is over when it is over in all of them.
        """
        try:
            tenant, about = tenancy.split(subject)
            facts = {name: tenancy.plain_text(text, tenant) for name, text in labels.items()}
            said = {**facts, "request_id": logs.request_id.get()}
            signal = Signal(
                signal_id=str(uuid.uuid4()),
                kind=kind,
                source=self._source,
                subject=recordable_name(clip_text(about), _NAME_LIMITS["subject"]),
                severity=severity,
                active=active,
                message=recordable(clip_text(tenancy.plain_text(message, tenant)))[:_MAX_MESSAGE],
                labels=dict(islice(_labels(said), _MAX_LABELS)),
            )
            signal.timestamp.FromMicroseconds(round(self._wall() * 1e6))
            self._queue.append(_Owned(tenant, without_secrets(signal)))
            self._some.set()
            self._lasting.pop((kind, subject), None)
            if lasts and active and len(self._lasting) < _LASTING:
                self._lasting[kind, subject] = self._queue[-1]
        except Exception:
            _log.exception("a signal could not be made")

    async def run(self) -> None:
        """Sends what is queued, until cancelled."""
        pause_s = _BACKOFF_S[0]
        while True:
            await self._wait()
            tenant = self._queue[0].tenant
            batch = [one.signal for one in islice(self._queue, _BATCH) if one.tenant == tenant]
            try:
                with principal.acting(principal.Principal(tenant)):
                    await self._send(batch)
            except MeshError as error:
                if error.code not in _REFUSED:
                    _log.warning("feedback takes no signals: %s", error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _BACKOFF_S[1])
                    continue
                _log.error("feedback refuses signals: %s", error)
            pause_s = _BACKOFF_S[0]
            done = {signal.signal_id for signal in batch}
            left = [one for one in self._queue if one.signal.signal_id not in done]
            self._queue.clear()
            self._queue.extend(left)
            if not self._queue:
                self._some.clear()

    async def _wait(self) -> None:
        """Until there is something to send; what goes on becomes that when it was told long enough ago."""
        while not self._some.is_set():
            try:
                async with asyncio.timeout(self._remind_s / 4):
                    await self._some.wait()
            except TimeoutError:
                self._remind()

    def _remind(self) -> None:
        now = self._wall()
        for key, (tenant, signal) in self._lasting.items():
            if now - signal.timestamp.seconds < self._remind_s:
                continue
            again = Signal()
            again.CopyFrom(signal)
            again.signal_id = str(uuid.uuid4())
            again.timestamp.FromMicroseconds(round(now * 1e6))
            self._lasting[key] = _Owned(tenant, again)
            self._queue.append(self._lasting[key])
            self._some.set()


def _labels(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if value:
            yield recordable(clip_text(name))[:_MAX_NAME], recordable(clip_text(value))[:_MAX_VALUE]


def without_secrets(signal: Signal) -> Signal:
    """The signal, redacted. Done again, it changes nothing more."""
    clean = Signal()
    clean.CopyFrom(signal)
    for field, limit in _NAME_LIMITS.items():
        given = getattr(clean, field)
        name = recordable_name(given, limit) or UNNAMED
        if name != given:
            setattr(clean, field, name)
    clean.message = recordable(clean.message)[:_MAX_MESSAGE]
    labels = dict(signal.labels)
    hidden: Any = redact(labels)
    for name, text in labels.items():
        kept = recordable(name)[:_MAX_NAME]
        shown = recordable(str(hidden[name]))[:_MAX_VALUE]
        if kept != name:
            del clean.labels[name]
        if (kept, shown) != (name, text):
            clean.labels[kept] = shown
    return clean
