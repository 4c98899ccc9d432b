"""`waymesh restart` of every service, and keys that come and go, under load: how many requests fail.

A whole `waymesh up` with embedded PostgreSQL; eleven clients send varied requests without a pause, on
connections that are kept, on new ones each time, with short pauses, to /execute and to /run; none of them
repeats anything. Beside the count: the times to the answer, which a mesh under full load has while one of its
processes starts.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

from bench._command import command
from tests.faults.restarting import restart_all
from tests.faults.up_rig import UNLIMITED, up


async def measure(requests: int) -> int:
    began = time.monotonic()
    async with up(**UNLIMITED) as mesh:
        tally = await restart_all(mesh, requests, pause_s=0)
    took = [answer.took_s * 1000 for answer in tally.answers]
    for answer in tally.failed[:20]:
        print(answer.told(), file=sys.stderr)
    cuts = statistics.quantiles(took, n=100)
    result = {
        "requests": len(took),
        "failed": len(tally.failed),
        "degraded": sum(answer.degraded for answer in tally.answers),
        "restarts": tally.restarts,
        "key_changes": tally.key_changes,
        "p50_ms": round(cuts[49], 1),
        "p99_ms": round(cuts[98], 1),
        "max_ms": round(max(took), 1),
        "wall_s": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))
    return int(bool(tally.failed))


if __name__ == "__main__":
    parser = command("restarts", __doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="at least so many are sent")
    sys.exit(asyncio.run(measure(parser.parse_args().requests)))
