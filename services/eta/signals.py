"""What eta notices and feedback should know: anomalies, silent couriers, orders that will be late.

They go into the queue of the process's own signals, which waits for nobody. Each says when it was noticed:
what a recording that is played back tells is news as well.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import SignalKind
from waymesh.gps.v1.gps_pb2 import AnomalyFlag

from services.eta.fixes import FLAGS, Fixes, Ints, bit
from services.eta.silence import Silence
from services.eta.tracks import Track
from services.mesh.feedback.signals import SignalSender

# The same finding about the same courier is news again after this long, and over after that long without it.
_AGAIN_S: Final = 30.0
_OVER_S: Final = 600.0
_SWEEP_S: Final = 10.0
# Below: at risk. Above: no longer.
_RISK: Final = 0.2
_SAFE: Final = 0.5
_AT_RISK: Final = 50_000
# An order that is predicted to be late is told again after this long, for as long as it is predicted.
_STILL_AT_RISK_S: Final = 300.0

_FLAG_NAMES: Final = {flag: AnomalyFlag.Name(flag).removeprefix("ANOMALY_FLAG_").lower() for flag in FLAGS}
# Not a flag of the fix: it may be as it should, but the order is another courier's.
_FOREIGN: Final = "foreign_order"
_SEVERITY: Final = {
    AnomalyFlag.ANOMALY_FLAG_GPS_SPOOFING: Severity.SEVERITY_CRITICAL,
    AnomalyFlag.ANOMALY_FLAG_SPEED_ANOMALY: Severity.SEVERITY_WARNING,
    AnomalyFlag.ANOMALY_FLAG_LOCATION_JUMP: Severity.SEVERITY_WARNING,
}


class Signals:
    """What was told of whom, and what is worth telling next."""

    def __init__(
        self,
        sender: SignalSender,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._wall = wall
        self._silence = Silence()
        # Courier to when its anomalies were last signalled, and last seen.
        self._anomalous: dict[str, tuple[float, float]] = {}
        # Order to when it was last signalled.
        self._at_risk: dict[str, float] = {}

    def anomalies(self, fixes: Fixes, flags: Ints, strangers: Sequence[int] = ()) -> None:
        """Findings on a batch: one signal per courier. `strangers` are places of fixes that tell of another
        courier's order.
        """
        rows = sorted({*np.flatnonzero(flags).tolist(), *strangers})
        if not rows:
            return
        found: dict[str, int] = {}
        for row in rows:
            driver = fixes.driver_id[row]
            found[driver] = found.get(driver, 0) | int(flags[row])
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
            self._sender.put(
                SignalKind.SIGNAL_KIND_GPS_ANOMALY,
                driver,
                max(severities),
                active=True,
                message=f"fixes of courier {driver} show {', '.join(names)}",
                labels=labels,
            )

    def predicted(self, predictions: Sequence[EtaPrediction]) -> None:
        """Orders that will probably miss their promise, and those that no longer will."""
        now = self._clock()
        for prediction in predictions:
            if not prediction.HasField("promise_probability"):
                continue
            order_id, chance = prediction.order_id, prediction.promise_probability
            said = self._at_risk.get(order_id)
            over = prediction.delivery_eta_minutes == 0
            late = not over and chance < _RISK
            if said is None:
                if not late:
                    continue
            elif over or chance > _SAFE:
                late = False
            elif now - said < _STILL_AT_RISK_S:
                continue
            else:
                late = True
            self._at_risk.pop(order_id, None)
            if late:
                self._at_risk[order_id] = now
                if len(self._at_risk) > _AT_RISK:
                    # Orders that were cancelled are never heard of again.
                    del self._at_risk[next(iter(self._at_risk))]
            self._sender.put(
                SignalKind.SIGNAL_KIND_LATENESS_RISK,
                order_id,
                Severity.SEVERITY_WARNING,
                active=late,
                message=f"order {order_id} keeps its promised window with a chance of {chance:.0%}",
                labels={"driver_id": prediction.driver_id, "promise_probability": f"{chance:.3f}"},
            )

    def heard(self, tracks: Sequence[Track]) -> None:
        """Fixes of these orders came."""
        now_us = int(self._wall() * 1e6)
        for track in tracks:
            if self._silence.heard(track, now_us):
                self._silent(track.driver_id, track.order_id, active=False)

    def coverage(self, model: str, share: float, *, drifted: bool) -> None:
        """Intervals no longer hold what they promise, or do so again."""
        self._sender.put(
            SignalKind.SIGNAL_KIND_COVERAGE_DRIFT,
            model,
            Severity.SEVERITY_WARNING,
            active=drifted,
            message=f"{share:.0%} of deliveries fell between P10 and P90; 80% should",
            labels={"share": f"{share:.3f}"},
        )

    def sweep(self) -> None:
        """Report who has fallen silent, and end anomalies that have not been seen for long."""
        now_us = int(self._wall() * 1e6)
        for driver_id, order_id in self._silence.due(now_us):
            self._silent(driver_id, order_id, active=True)
        now = self._clock()
        for driver in [one for one, (_, seen) in self._anomalous.items() if now - seen > _OVER_S]:
            del self._anomalous[driver]
            self._sender.put(
                SignalKind.SIGNAL_KIND_GPS_ANOMALY,
                driver,
                Severity.SEVERITY_INFO,
                active=False,
                message=f"fixes of courier {driver} are clean again",
                labels={},
            )

    def _silent(self, driver_id: str, order_id: str, *, active: bool) -> None:
        state = "has not been heard of for 5 minutes" if active else "is heard again"
        self._sender.put(
            SignalKind.SIGNAL_KIND_COURIER_SILENT,
            driver_id,
            Severity.SEVERITY_ERROR,
            active=active,
            message=f"courier {driver_id} {state}",
            labels={"order_id": order_id},
        )

    async def run(self) -> None:
        """Looks now and then for what nobody tells: who is not heard any more, what is over."""
        while True:
            self.sweep()
            await asyncio.sleep(_SWEEP_S)
