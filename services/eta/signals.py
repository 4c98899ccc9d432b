"""What eta notices and feedback should know: anomalies, silent couriers, orders that will be late.

Nothing here waits: signals go into a bounded queue that a background task empties. A signal that finds the
queue full pushes out the oldest, for the newest says most.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.feedback_service_pb2 import RecordSignalsRequest
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind
from waymesh.gps.v1.gps_pb2 import AnomalyFlag

from services.eta.answers import stamp
from services.eta.fixes import FLAGS, Fixes, Ints, bit
from services.eta.silence import Silence
from services.eta.tracks import Track
from services.mesh.errors import MeshError

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

log = logging.getLogger(__name__)

SOURCE: Final = "eta"
NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "signals.eta.waymesh")

_QUEUE: Final = 10_000
_BATCH: Final = 500
_SEND_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = (1.0, 30.0)
# The same finding about the same courier is news again after this long, and over after that long without it.
_AGAIN_S: Final = 30.0
_OVER_S: Final = 600.0
_SWEEP_S: Final = 10.0
# Below: at risk. Above: no longer.
_RISK: Final = 0.2
_SAFE: Final = 0.5
_AT_RISK: Final = 50_000

_FLAG_NAMES: Final = {flag: AnomalyFlag.Name(flag).removeprefix("ANOMALY_FLAG_").lower() for flag in FLAGS}
# Not a flag of the fix: it may be as it should, but the order is another courier's.
_FOREIGN: Final = "foreign_order"
_SEVERITY: Final = {
    AnomalyFlag.ANOMALY_FLAG_GPS_SPOOFING: Severity.SEVERITY_CRITICAL,
    AnomalyFlag.ANOMALY_FLAG_SPEED_ANOMALY: Severity.SEVERITY_WARNING,
    AnomalyFlag.ANOMALY_FLAG_LOCATION_JUMP: Severity.SEVERITY_WARNING,
}


class Signals:
    """The queue and what goes into it."""

    def __init__(
        self,
        feedback: "FeedbackServiceAsyncStub",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._feedback = feedback
        self._clock = clock
        self._wall = wall
        self._queue: deque[Signal] = deque(maxlen=_QUEUE)
        self._waiting = asyncio.Event()
        self._silence = Silence()
        # Courier to when its anomalies were last signalled, and last seen.
        self._anomalous: dict[str, tuple[float, float]] = {}
        self._at_risk: dict[str, None] = {}

    @property
    def queued(self) -> Sequence[Signal]:
        """What has not been sent yet, oldest first."""
        return tuple(self._queue)

    def anomalies(self, fixes: Fixes, flags: Ints, strangers: Sequence[int] = ()) -> None:
        """Findings on a batch: one signal per courier. `strangers` are places of fixes that tell of another
        courier's order.
        """
        rows = sorted({*np.flatnonzero(flags).tolist(), *strangers})
        if not rows:
            return
        found: dict[str, int] = {}
        last: dict[str, int] = {}
        for row in rows:
            driver = fixes.driver_id[row]
            found[driver] = found.get(driver, 0) | int(flags[row])
            last[driver] = int(fixes.at_us[row])
        foreign = {fixes.driver_id[row]: fixes.order_id[row] for row in strangers}
        now = self._clock()
        for driver, mask in found.items():
            said, _ = self._anomalous.get(driver, (float("-inf"), now))
            spoofed = mask & bit(AnomalyFlag.ANOMALY_FLAG_GPS_SPOOFING)
            if now - said < _AGAIN_S and not spoofed:
                self._anomalous[driver] = said, now
                continue
            self._anomalous[driver] = now, now
            names = [_FLAG_NAMES[flag] for flag in FLAGS if mask & bit(flag)]
            severities = [_SEVERITY.get(flag, Severity.SEVERITY_INFO) for flag in FLAGS if mask & bit(flag)]
            labels = {"flags": ",".join(names)}
            if driver in foreign:
                names.append(_FOREIGN)
                severities.append(Severity.SEVERITY_WARNING)
                labels = {"flags": ",".join(names), "order_id": foreign[driver]}
            self._put(
                SignalKind.SIGNAL_KIND_GPS_ANOMALY,
                driver,
                max(severities),
                active=True,
                message=f"fixes of courier {driver} show {', '.join(names)}",
                at_us=last[driver],
                labels=labels,
            )

    def predicted(self, predictions: Sequence[EtaPrediction]) -> None:
        """Orders that will probably miss their promise, and those that no longer will."""
        for prediction in predictions:
            if not prediction.HasField("promise_probability"):
                continue
            order_id, chance = prediction.order_id, prediction.promise_probability
            risky = order_id in self._at_risk
            over = prediction.delivery_eta_minutes == 0
            if not risky and not over and chance < _RISK:
                self._at_risk[order_id] = None
                if len(self._at_risk) > _AT_RISK:
                    # Orders that were cancelled are never heard of again.
                    del self._at_risk[next(iter(self._at_risk))]
            elif risky and (over or chance > _SAFE):
                del self._at_risk[order_id]
            else:
                continue
            self._put(
                SignalKind.SIGNAL_KIND_LATENESS_RISK,
                order_id,
                Severity.SEVERITY_WARNING,
                active=not risky,
                message=f"order {order_id} keeps its promised window with a chance of {chance:.0%}",
                at_us=prediction.timestamp.seconds * 1_000_000 + prediction.timestamp.nanos // 1000,
                labels={"driver_id": prediction.driver_id, "promise_probability": f"{chance:.3f}"},
            )

    def heard(self, tracks: Sequence[Track]) -> None:
        """Fixes of these orders came."""
        now_us = int(self._wall() * 1e6)
        for track in tracks:
            if self._silence.heard(track, now_us):
                self._silent(track.driver_id, track.order_id, now_us, active=False)

    def coverage(self, model: str, share: float, *, drifted: bool) -> None:
        """Intervals no longer hold what they promise, or do so again."""
        self._put(
            SignalKind.SIGNAL_KIND_COVERAGE_DRIFT,
            model,
            Severity.SEVERITY_WARNING,
            active=drifted,
            message=f"{share:.0%} of deliveries fell between P10 and P90; 80% should",
            at_us=int(self._wall() * 1e6),
            labels={"share": f"{share:.3f}"},
        )

    def sweep(self) -> None:
        """Report who has fallen silent, and end anomalies that have not been seen for long."""
        now_us = int(self._wall() * 1e6)
        for driver_id, order_id in self._silence.due(now_us):
            self._silent(driver_id, order_id, now_us, active=True)
        now = self._clock()
        for driver in [one for one, (_, seen) in self._anomalous.items() if now - seen > _OVER_S]:
            del self._anomalous[driver]
            self._put(
                SignalKind.SIGNAL_KIND_GPS_ANOMALY,
                driver,
                Severity.SEVERITY_INFO,
                active=False,
                message=f"fixes of courier {driver} are clean again",
                at_us=now_us,
                labels={},
            )

    def _silent(self, driver_id: str, order_id: str, now_us: int, *, active: bool) -> None:
        state = "has not been heard of for 5 minutes" if active else "is heard again"
        self._put(
            SignalKind.SIGNAL_KIND_COURIER_SILENT,
            driver_id,
            Severity.SEVERITY_ERROR,
            active=active,
            message=f"courier {driver_id} {state}",
            at_us=now_us,
            labels={"order_id": order_id},
        )

    def _put(
        self,
        kind: SignalKind.ValueType,
        subject: str,
        severity: Severity.ValueType,
        *,
        active: bool,
        message: str,
        at_us: int,
        labels: dict[str, str],
    ) -> None:
        identity = f"{kind}|{subject}|{at_us}|{active}|{severity}|{sorted(labels.items())}"
        self._queue.append(
            Signal(
                signal_id=str(uuid.uuid5(NAMESPACE, identity)),
                kind=kind,
                source=SOURCE,
                subject=subject,
                severity=severity,
                active=active,
                message=message[:1024],
                timestamp=stamp(at_us),
                labels=labels,
            )
        )
        self._waiting.set()

    async def run(self) -> None:
        """Send what is queued, and sweep now and then."""
        wait_s = _RETRY_S[0]
        while True:
            self.sweep()
            try:
                await self._send()
                wait_s = _RETRY_S[0]
            except MeshError as error:
                log.warning(
                    "feedback takes no signals", extra={"queued": len(self._queue), "error": str(error)}
                )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _RETRY_S[1])
                continue
            self._waiting.clear()
            if not self._queue:
                try:
                    async with asyncio.timeout(_SWEEP_S):
                        await self._waiting.wait()
                except TimeoutError:
                    continue

    async def _send(self) -> None:
        while self._queue:
            batch = [self._queue[place] for place in range(min(len(self._queue), _BATCH))]
            await self._feedback.RecordSignals(RecordSignalsRequest(signals=batch), timeout=_SEND_TIMEOUT_S)
            sent = {signal.signal_id for signal in batch}
            while self._queue and self._queue[0].signal_id in sent:
                self._queue.popleft()
