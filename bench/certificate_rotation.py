"""Certificates rotated under load in a whole mesh with TLS: how many requests fail.

`waymesh up` with certificates at every end. Requests of every task go to the gateway at a steady rate, as the
edge sends them, on connections that are kept; the services call each other meanwhile. All certificates change
again and again by the swap of a link, and every third time their authority changes too: both trusted, the new
one's shown, the new one alone trusted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from bench._command import command, seconds
from bench._edge_load import RATE, Answer, Load, quantile_ms, statuses
from bench._edge_rolling import taken
from bench._mesh import say
from tests.certificates import Authority
from tests.faults.up_rig import UNLIMITED, a_folder, up
from tests.faults.varied import Varied
from tests.integration.tls_mesh import client_context, put, succession, until_shown, variables

# Of each change of authority, how many of certificates alone come before it.
_ALONE = 2


async def measure(requests: int, rate: float) -> dict[str, Any]:
    began = time.monotonic()
    with a_folder() as folder:
        authority = Authority()
        put(authority, folder, authority.trusted)
        async with up(**{**UNLIMITED, **variables(folder)}) as mesh:
            varied = Varied()

            def told(answer: Answer) -> None:
                if answer.task == "upsert_orders" and taken(answer):
                    varied.known.append(answer.parameters["orders"][0]["order_id"])

            tls = client_context(folder, "edge")
            load = Load(mesh.gateway_port, mesh.key, iter(varied), rate, tls=tls, told=told)
            changes = authorities = 0
            async with load:
                await load.until(int(2 * rate))
                while len(load.answers) < requests or not authorities:
                    steps = [(authority, authority.trusted)] * _ALONE
                    successor = Authority()
                    steps += succession(authority, successor)
                    for signs, trusted in steps:
                        certificates = put(signs, folder, trusted)
                        await until_shown(mesh, folder, certificates)
                        load.tls = client_context(folder, "edge")
                        await load.until(len(load.answers) + int(rate))
                        changes += 1
                    authority, authorities = successor, authorities + 1
                    wrong = sum(not taken(answer) for answer in load.answers)
                    say(f"{len(load.answers)} answers, {wrong} failed, {changes} changes of certificates")
    failed = [answer for answer in load.answers if not taken(answer)]
    for answer in failed[:20]:
        why = answer.why or answer.body.get("error", "")
        print(f"{answer.task}: {answer.status} in {answer.took_s:.3f} s {why}", file=sys.stderr)
    return {
        "requests": len(load.answers),
        "failed": len(failed),
        "changes": changes,
        "authorities": authorities,
        "statuses": statuses(load.answers),
        "rate": round(len(load.answers) / (load.answers[-1].due - load.answers[0].due), 1),
        "p50_ms": quantile_ms(load.answers, 0.5),
        "p99_ms": quantile_ms(load.answers, 0.99),
        "wall_s": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = command("certificate_rotation", __doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="at least so many are sent")
    parser.add_argument("--rate", type=seconds, default=RATE, help="requests a second")
    given = parser.parse_args()
    found = asyncio.run(measure(given.requests, given.rate))
    print(json.dumps(found))
    return int(found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
