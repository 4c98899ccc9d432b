"""Events: what feedback takes in and how soon it is durable, and what becomes of events on Kafka.

--outcomes: 10,200 outcomes a second for a minute into a whole running mesh, through streams
(StreamOutcomes), then in calls (RecordOutcomes), with probes that ask for what was just acknowledged;
audited against the table and the log. That is a little more than 10,000, so that each single second can
show that many acknowledged; the slowest one is told. With --seconds 900 it tells of memory over time (and
needs 30 GB of disk). Then as fast as it goes, beside the floor: the same rows by bare asyncpg INSERTs, as
many at a time, in the same PostgreSQL, fsync on.

--publish: our bus on Kafka beside raw aiokafka, on the same brokers in turns. --gps: fixes on Kafka to
predictions on Kafka through one process of eta. --outage: what callers of feedback notice while a leader is
killed and while all brokers are away, and how fast the backlog drains. These start three brokers of their own
and need Java 17 and Maven. Without any of the four, all are measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from bench import _events_outcomes
from bench._command import command, seconds
from bench._events_gps import through_kafka
from bench._events_kafka import ground
from bench._events_outage import outage
from bench._events_publish import publishing
from bench._mesh import report, say
from bench.eta_pipeline import GEOLIFE, made_up
from services.sim.traces import read_traces
from tools.kafka.jars import KafkaUnavailableError

_PARTS: Final = ("outcomes", "publish", "gps", "outage")


def main() -> int:
    parser = command("events", __doc__)
    parser.add_argument("--outcomes", action="store_true", help="outcomes into feedback")
    parser.add_argument("--publish", action="store_true", help="publishing beside raw aiokafka")
    parser.add_argument("--gps", action="store_true", help="fixes on Kafka to predictions on Kafka")
    parser.add_argument("--outage", action="store_true", help="a leader killed, all brokers away")
    parser.add_argument("--seconds", type=seconds, default=60.0, help="how long a steady run or outage lasts")
    parser.add_argument("--rate", type=float, default=10_200.0, help="outcomes a second of the steady run")
    parser.add_argument("--size", type=int, default=100, help="outcomes of a batch in the steady run")
    parser.add_argument("--events", type=int, default=100_000, help="events of a round of publishing")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of publishing, ours and raw in turns")
    arguments = parser.parse_args()
    chosen = [part for part in _PARTS if getattr(arguments, part)] or list(_PARTS)

    async def measure() -> dict[str, Any]:
        result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}
        if "outcomes" in chosen:
            result["outcomes"] = await _events_outcomes.outcomes(
                rate=arguments.rate, seconds=arguments.seconds, size=arguments.size
            )
        try:
            if "publish" in chosen:
                async with ground() as on:
                    result["publish"] = await publishing(
                        on.cluster.bootstrap_servers,
                        on.dsn,
                        events=arguments.events,
                        rounds=max(1, arguments.rounds),
                    )
            if "gps" in chosen:
                data = Path(os.environ.get("WAYMESH_BENCH_DATA", "")) / GEOLIFE
                traces = read_traces(data) if data.is_file() else made_up(500, 400)
                async with ground() as on:
                    through = await through_kafka(
                        on.cluster.bootstrap_servers, on.dsn, on.postgres_pid, traces, on.folder
                    )
                result["gps"] = {"traces": "geolife" if data.is_file() else "made up", **through}
            if "outage" in chosen:
                async with ground(background=True) as on:
                    result["outage"] = await outage(
                        on.cluster, on.dsn, on.folder, per_s=1_000, calm_s=30.0, away_s=arguments.seconds
                    )
        except KafkaUnavailableError as error:
            say(f"nothing was measured on Kafka: {error}")
            result["kafka"] = str(error)
        return result

    return report(measure)


if __name__ == "__main__":
    sys.exit(main())
