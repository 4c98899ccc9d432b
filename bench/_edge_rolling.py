"""Part of bench/edge.py: all services behind the edge restarted, or keys and certificates changed."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import grpc
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest
from waymesh.feedback.v1.feedback_service_pb2 import ListFailureCountsRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from bench._edge_load import Answer, Load, quantile_ms, statuses
from bench._mesh import say
from tests.certificates import Authority
from tests.edge.edge_rig import RunningEdge, running_edge, trusting
from tests.faults.restarting import SERVICES
from tests.faults.up_rig import UNLIMITED, Up, a_folder, up
from tests.faults.varied import Varied
from tools.edge import write_sds

_CALLS_PER_S: Final = 10.0
_CALL_S: Final = 20.0
# What starts has half of this machine for seconds: so long until the next one, or the rate cannot be kept.
BETWEEN_S: Final = 8.0
# What deploy/envoy/README.md asks of services behind the edge; `waymesh up` alone waits for less.
_DRAIN_S: Final = "3"
# A gRPC server that ends cancels, unread, what reaches it before its GOAWAY has reached the caller. Clients
# of the mesh try such a call again; a bare stub is told to, of these reads.
_AGAIN: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 2,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["CANCELLED", "UNAVAILABLE"],
                },
            }
        ]
    }
)

# How often a listener has taken other certificates.
_TAKEN: Final = "listener.127.0.0.1_{}.server_ssl_socket_factory.ssl_context_update_by_sds"


class Calls:
    """Two typed services asked by gRPC through the edge, beside what is asked by HTTP."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._eta: Any = EtaServiceStub(channel)
        self._feedback: Any = FeedbackServiceStub(channel)
        self.stop = False
        self.made = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        """Until told to stop."""
        while not self.stop:
            began = time.monotonic()
            try:
                if self.made % 2:
                    await self._eta.GetGpsStats(GetGpsStatsRequest(), timeout=_CALL_S)
                else:
                    await self._feedback.ListFailureCounts(ListFailureCountsRequest(), timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                self.failed.append(f"gRPC: {error.code().name} {error.details()}")
            self.made += 1
            await asyncio.sleep(max(0.0, 1 / _CALLS_PER_S - (time.monotonic() - began)))


def taken(answer: Answer) -> bool:
    """Whether it is the success of this very request."""
    if answer.status != 200 or answer.body.get("status") != "success":
        return False
    result = answer.body["result"]
    if answer.task == "report_gps":
        return bool(result["event_id"] == answer.parameters["event_id"])
    if answer.task == "get_order":
        return bool(result["order"]["order_id"] == answer.parameters["order_id"])
    return True


async def measure(
    requests: int, rate: float, *, rotation: bool, between_s: float = BETWEEN_S, evenly: bool = False
) -> dict[str, Any]:
    """The part's figures. With `rotation`, keys and certificates change; without, services restart, with so
    long between two of them. Requests are a fleet's or, with `evenly`, of each task as many."""
    began = time.monotonic()
    async with up(**UNLIMITED, WAYMESH_DRAIN_S=_DRAIN_S) as mesh:
        with a_folder() as folder:
            authority = Authority("public")
            shown = authority.issue("edge", uris=()).mount(folder / "public")
            write_sds(folder / "sds", public=shown.folder, mesh=shown.folder)
            addresses = {
                name: [f"127.0.0.1:{mesh.state.services[name].port}"]
                for name in ("gateway", "eta", "route", "feedback", "agents")
            }
            async with running_edge(folder, addresses, tls=True, sds=folder / "sds", concurrency=2) as edge:
                for name, [address] in addresses.items():
                    await edge.until_hosts(name, **{f"p{address.rpartition(':')[2]}": "healthy"})
                found = await _under_load(
                    mesh, edge, shown.folder, authority, requests, rate, rotation, between_s, evenly
                )
    return {**found, "wall_s": round(time.monotonic() - began, 1)}


async def _under_load(
    mesh: Up,
    edge: RunningEdge,
    public: Path,
    authority: Authority,
    requests: int,
    rate: float,
    rotation: bool,
    between_s: float,
    evenly: bool,
) -> dict[str, Any]:
    varied = Varied()

    def told(answer: Answer) -> None:
        if answer.task == "upsert_orders" and taken(answer):
            varied.known.append(answer.parameters["orders"][0]["order_id"])

    def credentials() -> grpc.ChannelCredentials:
        own = authority.issue("caller")
        return grpc.ssl_channel_credentials(authority.trusted, own.key, own.certificate)

    changes = 0
    load = Load(
        edge.public,
        mesh.key,
        iter(varied) if evenly else varied.of_a_fleet(),
        rate,
        tls=trusting(public / "ca.crt"),
        told=told,
    )
    target = edge.internal.replace("127.0.0.1", "localhost")
    async with grpc.aio.secure_channel(target, credentials(), [("grpc.service_config", _AGAIN)]) as channel:
        calls = Calls(channel)
        calling = asyncio.create_task(calls.run())
        async with load:
            await load.until(int(2 * rate))
            while changes == 0 or len(load.answers) < requests:
                if rotation:
                    changes += await _rotate(mesh, load, public, authority, edge)
                else:
                    changes += await _restart(mesh, load, between_s)
                wrong = [answer for answer in load.answers if not taken(answer)]
                say(f"{len(load.answers)} answers, {len(wrong)} failed {statuses(wrong)}, {changes} changes")
            await load.until(len(load.answers) + int(2 * rate))
        calls.stop = True
        await calling
    failed = [answer for answer in load.answers if not taken(answer)]
    for answer in failed[:20]:
        why = answer.why or answer.body.get("error", "")
        print(f"{answer.task}: {answer.status} in {answer.took_s:.3f} s {why}", file=sys.stderr)
    for text in calls.failed[:20]:
        print(text, file=sys.stderr)
    for line in [each for each in edge.accessed() if each.get("status", 0) >= 500][:20]:
        print(f"the edge: {line}", file=sys.stderr)
    counted = await edge.stats()
    return {
        "requests": len(load.answers) + calls.made,
        "failed": len(failed) + len(calls.failed),
        "degraded": sum("degraded" in answer.body for answer in load.answers),
        "by_grpc": calls.made,
        "changes": changes,
        "statuses": statuses(load.answers),
        "handshakes": counted.get(f"listener.127.0.0.1_{edge.public}.ssl.handshake", 0),
        "rate": round(len(load.answers) / (load.answers[-1].due - load.answers[0].due), 1),
        "p50_ms": quantile_ms(load.answers, 0.5),
        "p99_ms": quantile_ms(load.answers, 0.99),
    }


async def _restart(mesh: Up, load: Load, between_s: float) -> int:
    """Each service once: a successor on its port, then the end of the old process."""
    for service in SERVICES:
        await load.until(len(load.answers) + int(between_s * load.rate))
        code, _, err = await mesh.run("restart", service)
        if code:
            raise RuntimeError(err)
    return len(SERVICES)


async def _rotate(mesh: Up, load: Load, public: Path, authority: Authority, edge: RunningEdge) -> int:
    """A certificate in place of the one before, and a key that comes, is used and goes."""
    taken_over = _TAKEN.format(edge.public)
    before = (await edge.stats()).get(taken_over, 0)
    authority.issue("edge", uris=()).mount(public)
    await edge.until_more(taken_over, before)
    load.forget()  # new connections meet the new certificate
    code, key, err = await mesh.run("keys", "add", "partner", "--rate", "1000000", "--burst", "1000000")
    if code:
        raise RuntimeError(err)
    old, load.key = load.key, key.strip()
    await load.until(len(load.answers) + int(load.rate))
    load.key = old
    await load.until(len(load.answers) + int(load.rate))  # nobody uses it any more
    code, _, err = await mesh.run("keys", "revoke", "partner")
    if code:
        raise RuntimeError(err)
    return 3
