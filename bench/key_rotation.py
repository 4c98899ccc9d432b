"""Keys rotated under load: how many requests fail.

Two gateways on one PostgreSQL; eight clients send requests at a steady rate. `waymesh keys rotate` makes a
successor again and again, each client takes it at a moment of its own, then the old key is revoked.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._command import command
from services.mesh.store import EmbeddedPostgres
from tests.integration.gateway_rig import gateway
from tests.integration.key_rotation import rotate_under_load


async def measure(requests: int, rate_per_s: float) -> int:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    postgres = EmbeddedPostgres(folder)
    try:
        dsn = await postgres.start()
        limits: dict[str, Any] = {
            "rate_per_s": 1_000_000,
            "rate_burst": 1_000_000,
            "database_url": dsn,
            "tracing": False,
        }
        async with gateway(**limits) as one, gateway(api_key=None, **limits) as other:
            tally = await rotate_under_load(
                dsn, [one, other], rate_per_s=rate_per_s, rotations=2, requests=requests, spread_s=2.0
            )
    finally:
        await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for status, said in tally.failed[:20]:
        print(status, said, file=sys.stderr)
    cuts = statistics.quantiles(tally.took_s, n=100)
    result = {
        "requests": len(tally.took_s),
        "failed": len(tally.failed),
        "rotations": tally.rotations,
        "rate_per_s": round(len(tally.took_s) / (time.monotonic() - began), 1),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "wall_s": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))
    return int(bool(tally.failed))


if __name__ == "__main__":
    parser = command("key_rotation", __doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="at least so many are sent")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second, by all clients")
    options = parser.parse_args()
    sys.exit(asyncio.run(measure(options.requests, options.rate)))
