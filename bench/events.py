"""Events: what feedback takes in, and how soon it is acknowledged, durable and to be queried.

With --outcomes, or nothing: 10,000 outcomes a second for a minute into a whole running mesh, through streams
(StreamOutcomes), then in calls (RecordOutcomes), with probes that ask for what was just acknowledged; audited
against the table and the log. Then as fast as it goes, beside the floor: the same rows by bare asyncpg
INSERTs, as many at a time, in the same PostgreSQL, fsync on.
"""

from __future__ import annotations

import sys
from typing import Any

from bench import _events_outcomes
from bench._command import command, seconds
from bench._mesh import report


def main() -> int:
    parser = command("events", __doc__)
    parser.add_argument("--outcomes", action="store_true", help="outcomes into feedback")
    parser.add_argument("--seconds", type=seconds, default=60.0, help="how long the steady run lasts")
    parser.add_argument("--rate", type=float, default=10_000.0, help="outcomes a second of the steady run")
    parser.add_argument("--size", type=int, default=100, help="outcomes of a batch in the steady run")
    arguments = parser.parse_args()

    async def measure() -> dict[str, Any]:
        outcomes = await _events_outcomes.outcomes(
            rate=arguments.rate, seconds=arguments.seconds, size=arguments.size
        )
        return {"outcomes": outcomes}

    return report(measure)


if __name__ == "__main__":
    sys.exit(main())
