"""The edge of deploy/envoy, run by the real Envoy before real services: what restarts, faults and abuse cost.

  --rolling   every service restarted one after the other at 200 requests/s by HTTPS, and gRPC beside them
  --rotation  instead, certificates and API keys change all the time
              both as a fleet asks, or each task as often as any other (--evenly)
  --faults    three replicas, of which one is dead, silent, resets or errs, then all: p99 of those answered,
              and attempts a request
  --abuse     2,000 slow sockets (slowhttptest), HTTP/2 rapid reset, 64 KiB of headers, compressed bombs,
              smuggling, behind the edge and at the gateway itself: p99 of a client that does no harm, memory

Without a choice all four, at the lengths that the other options say.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from bench import _edge_abuse, _edge_faults, _edge_rolling
from bench._command import command, seconds
from bench._edge_load import RATE

PARTS = ("rolling", "rotation", "faults", "abuse")


async def measure(
    chosen: list[str], requests: int, rate: float, length_s: float, attacks: float, *, evenly: bool
) -> dict[str, Any]:
    """Figures by part."""
    found: dict[str, Any] = {}
    if "rolling" in chosen:
        found["rolling"] = await _edge_rolling.measure(requests, rate, rotation=False, evenly=evenly)
    if "rotation" in chosen:
        found["rotation"] = await _edge_rolling.measure(requests, rate, rotation=True, evenly=evenly)
    if "faults" in chosen:
        found["faults"] = await _edge_faults.measure(length_s, rate)
    if "abuse" in chosen:
        found["abuse"] = await _edge_abuse.measure(length_s, attacks)
    return found


def main() -> int:
    parser = command("edge", __doc__)
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true", help=f"{part} alone")
    parser.add_argument("--requests", type=int, default=50_000, help="of --rolling and --rotation, at least")
    parser.add_argument("--rate", type=seconds, default=RATE, help="requests a second")
    parser.add_argument(
        "--evenly", action="store_true", help="of --rolling and --rotation: each task as often as any other"
    )
    parser.add_argument("--seconds", type=seconds, default=20.0, help="of each case of --faults and --abuse")
    parser.add_argument(
        "--attacks",
        type=seconds,
        default=100.0,
        help="of --abuse: connections a second that do harm (of rapid reset, with 250 streams each, a "
        "twentieth), beside 100 requests that do none",
    )
    given = parser.parse_args()
    chosen = [part for part in PARTS if getattr(given, part)] or list(PARTS)
    found = asyncio.run(
        measure(chosen, given.requests, given.rate, given.seconds, given.attacks, evenly=given.evenly)
    )
    print(json.dumps(found))
    failed = sum(found[part]["failed"] for part in ("rolling", "rotation") if part in found)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
