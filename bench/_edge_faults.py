"""Part of bench/edge.py: replicas behind the edge that are dead, slow or lie."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from bench._edge_load import Answer, Load, compared, quantile_ms, statuses
from bench._mesh import a_folder, say
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.edge.replicas import Liar, fails, gateway_process, is_silent, kill, liar, resets
from tests.edge.replicas import eta_service as service
from tests.faults.varied import Request
from tests.integration.gateway_rig import GPS, KEY
from tools.ports import free_ports

_HEALTHY: Final = 2
_ERRS: Final = 0.1
# From the beginning of a fault to when the edge has had time to see it.
_SETTLE_S: Final = 5.0


async def _errs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers nine of ten requests, and fails the tenth."""
    await (fails if random.random() < _ERRS else _answers)(reader, writer)


async def _answers(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = b'{"status":"success","result":{"event_id":"event_1"}}'
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def _fixes() -> Iterator[Request]:
    for number in itertools.count():
        yield "report_gps", {**GPS, "driver_id": f"driver_{number % 50}"}


async def measure(length_s: float, rate: float) -> dict[str, Any]:
    """Figures by fault, each beside what was normal in the same seconds before it."""
    found: dict[str, Any] = {}
    with a_folder() as folder:
        async with service() as eta:
            for name in ("dead", "silent", "silent_but_well", "resets", "errs"):
                found[name] = await _case(folder, eta, name, length_s, rate)
                say(f"{name}: {found[name]}")
        for name in ("all_dead", "all_reset", "all_fail"):
            found[name] = await _outage(folder, name, length_s, rate)
            say(f"{name}: {found[name]}")
    return {
        **found,
        "worst_p99_by_5s_over_normal": max(c.get("p99_by_5s_over_normal", 0.0) for c in found.values()),
        "most_attempts_per_request": max(case.get("attempts_per_request", 0.0) for case in found.values()),
    }


async def _case(folder: Path, eta: str, name: str, length_s: float, rate: float) -> dict[str, Any]:
    """Two replicas that are well and a third one, which gets the fault once it is known what is normal."""
    kinds = {"silent": is_silent, "silent_but_well": is_silent, "resets": resets, "errs": _errs}
    async with AsyncExitStack() as stack:
        ports = free_ports(_HEALTHY + 1)
        replicas = await asyncio.gather(
            *(gateway_process(folder, port, eta) for port in ports[: _HEALTHY + (name == "dead")])
        )
        for process in replicas:
            stack.push_async_callback(kill, process)
        bad: Liar | None = None
        if name in kinds:
            bad = await stack.enter_async_context(liar(_answers))
            ports[-1] = bad.port
        edge = await stack.enter_async_context(
            running_edge(folder, {"gateway": [f"127.0.0.1:{port}" for port in ports]})
        )
        await edge.until_hosts("gateway", **{f"p{port}": "healthy" for port in ports})
        async with Load(edge.public, KEY, _fixes(), rate, timeout_ms=5000) as load:
            await load.until(int(rate))
            normal = await load.last(length_s)
            if bad is None:
                await kill(replicas[-1])
            else:
                bad.behaviour, bad.well = kinds[name], name != "silent"
            seeing = await load.last(_SETTLE_S)
            answers = await load.last(length_s)
            stuck = load.sent - len(load.answers)
            if bad is not None:
                bad.hang_up()
        return {
            **_told(answers),
            **compared(_well(answers), _well(normal)),
            "while_it_is_seen": statuses(seeing),
            "stuck_at_it": stuck,
        }


async def _outage(folder: Path, name: str, length_s: float, rate: float) -> dict[str, Any]:
    """Three replicas, none of which answers."""
    async with AsyncExitStack() as stack:
        bad: list[Liar] = []
        ports = free_ports(_HEALTHY + 1)
        if name != "all_dead":
            kind = resets if name == "all_reset" else fails
            bad = [await stack.enter_async_context(liar(kind)) for _ in ports]
            ports = [each.port for each in bad]
        edge: RunningEdge = await stack.enter_async_context(
            running_edge(folder, {"gateway": [f"127.0.0.1:{port}" for port in ports]})
        )
        before = await edge.stats()
        async with Load(edge.public, KEY, _fixes(), rate, timeout_ms=5000) as load:
            answers = await load.last(length_s)
        after = await edge.stats()
        # Where nobody listens a connection that was tried is an attempt.
        counter = "cluster.gateway.upstream_cx_total" if not bad else "cluster.gateway.upstream_rq_total"
        tried = after[counter] - before.get(counter, 0)
        came = sum(each.requests for each in bad)
        return {
            **_told(answers),
            "attempts_per_request": round(max(tried, came) / max(1, load.sent), 3),
        }


def _told(answers: list[Answer]) -> dict[str, Any]:
    """Quantiles are of those with an answer; where all fail, of all."""
    well = _well(answers)
    return {
        "statuses": statuses(answers),
        "p50_ms": quantile_ms(well, 0.5),
        "p99_ms": quantile_ms(well, 0.99),
    }


def _well(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 200] or answers
