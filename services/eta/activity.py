"""What the consumer did, as outcomes: one for many batches that went well, one for each that failed."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from services.mesh.feedback import FeedbackPipeline
from services.mesh.feedback.outcome import FAILURE, SUCCESS, outcome

ACTION: Final = "process_fixes"
_AGENT_TYPE: Final = "engine"
_EVERY_S: Final = 10.0


class Activity:
    """Sums up batches, so that recording them costs nothing that grows with them."""

    def __init__(self, pipeline: FeedbackPipeline, agent: str) -> None:
        self._pipeline = pipeline
        self._agent = agent
        self._since = datetime.now(UTC)
        self._batches = self._records = self._predictions = self._strangers = 0
        self._busy_s = self._longest_s = 0.0

    def done(self, records: int, predictions: int, took_s: float) -> None:
        """A batch went well."""
        self._batches += 1
        self._records += records
        self._predictions += predictions
        self._busy_s += took_s
        self._longest_s = max(self._longest_s, took_s)

    def strangers(self, fixes: int) -> None:
        """So many fixes told of another courier's order."""
        self._strangers += fixes

    def failed(self, records: int, error: Exception) -> None:
        """A batch failed; it will be tried again."""
        self._pipeline.record_clean(
            outcome(
                agent_name=self._agent,
                agent_type=_AGENT_TYPE,
                action_type=ACTION,
                started=datetime.now(UTC),
                duration_ms=0.0,
                status=FAILURE,
                error=error,
                metadata={"records": records},
            )
        )

    def flush(self) -> None:
        """Record what went well since the last time; the duration is that of the average batch."""
        if self._batches:
            self._pipeline.record_clean(
                outcome(
                    agent_name=self._agent,
                    agent_type=_AGENT_TYPE,
                    action_type=ACTION,
                    started=self._since,
                    duration_ms=self._busy_s / self._batches * 1000,
                    status=SUCCESS,
                    metadata={
                        "batches": self._batches,
                        "records": self._records,
                        "predictions": self._predictions,
                        "fixes_of_strangers": self._strangers,
                        "longest_ms": round(self._longest_s * 1000, 3),
                    },
                )
            )
        self._since = datetime.now(UTC)
        self._batches = self._records = self._predictions = self._strangers = 0
        self._busy_s = self._longest_s = 0.0

    async def run(self) -> None:
        """Flush for ever, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(_EVERY_S)
                self.flush()
        finally:
            self.flush()
