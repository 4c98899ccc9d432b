"""Alerts and dashboard of the edge, on the real Envoy as it is deployed, scraped by a real Prometheus."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.edge.edge_rig import RunningEdge, running_edge, trusting
from tests.integration.gateway_rig import Client
from tests.observability.live_prometheus import Prometheus, prometheus
from tests.observability.promtool import program
from tests.observability.story import EDGE_NAMES, EDGE_PANELS, EDGE_RUNBOOK, Story, here
from tools.edge import write_sds

WEEKS = timedelta(days=60)


class Replica:
    """A gateway that says of itself what it is told to, and answers the rest as it is told to."""

    def __init__(self, *, well: bool, status: int) -> None:
        self.well, self.status, self.port = well, status, 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Replica"]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            ready = head.startswith(b"GET /health/ready ")
            status = (200 if self.well else 503) if ready else self.status
            writer.write(f"HTTP/1.1 {status} Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()


@asynccontextmanager
async def traffic(edge: RunningEdge, authority: Path) -> AsyncIterator[None]:
    """Requests from outside, one after the other."""

    client = Client(edge.public, tls=trusting(authority))

    async def ask() -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                await client.ask("GET", "/health")
            await asyncio.sleep(0.05)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


async def fires(watch: Prometheus, story: Story, name: str, **labels: str) -> None:
    await watch.until_firing(name, **labels)
    wanted = {"alertname": name, **labels}.items()
    story.fired[name] = next(each for each in await watch.alerts() if wanted <= each["labels"].items())


async def resolves(watch: Prometheus, story: Story, name: str) -> None:
    await watch.until_resolved(name)
    story.resolved.add(name)


async def suffered(
    edge: RunningEdge, watch: Prometheus, honest: Replica, liar: Replica, story: Story
) -> None:
    """What an edge can meet, one after the other."""
    honest.status = 500
    await fires(watch, story, "WaymeshEdgeErrors", service="edge")
    honest.status = 200
    await resolves(watch, story, "WaymeshEdgeErrors")

    liar.well = True
    await fires(watch, story, "WaymeshEdgeHostsEjected", envoy_cluster_name="gateway", service="edge")
    liar.well = False
    await resolves(watch, story, "WaymeshEdgeHostsEjected")

    edge.process.send_signal(signal.SIGSTOP)
    await fires(watch, story, "WaymeshEdgeDown", service="edge")
    edge.process.send_signal(signal.SIGCONT)
    await resolves(watch, story, "WaymeshEdgeDown")


async def tell(folder: Path) -> Story:
    story, authority = Story(), Authority()
    authority.issue("public", uris=()).mount(folder / "public")  # for a day
    authority.issue("edge", ends=WEEKS).mount(folder / "edge")
    write_sds(folder / "sds", public=folder / "public", mesh=folder / "edge")
    async with (
        Replica(well=True, status=200).serving() as honest,
        Replica(well=False, status=503).serving() as liar,
        running_edge(
            folder,
            {"gateway": [f"127.0.0.1:{honest.port}", f"127.0.0.1:{liar.port}"]},
            tls=True,
            sds=folder / "sds",
            # It is ejected again and again; a test need not wait for longer and longer.
            change={"base_ejection_time: 5s": "base_ejection_time: 1s"},
        ) as edge,
    ):
        await edge.until_hosts("gateway", **{f"p{honest.port}": "healthy"})
        with prometheus(folder, {"edge": [edge.ports["probe"]]}, edge=True) as watch:
            began = time.time()
            story.early = await watch.until_quiet(but="WaymeshEdgeCertificateExpiring")
            async with traffic(edge, folder / "public" / "ca.crt"):
                expiring = {"envoy_tls_certificate": "public", "service": "edge"}
                await fires(watch, story, "WaymeshEdgeCertificateExpiring", **expiring)
                authority.issue("public", uris=(), ends=WEEKS).mount(folder / "public")
                await resolves(watch, story, "WaymeshEdgeCertificateExpiring")
                await suffered(edge, watch, honest, liar, story)
                story.left = await watch.until_quiet()
                for query in {*EDGE_PANELS.values(), *EDGE_RUNBOOK}:
                    if not await watch.seen(here(query), began):
                        story.unseen.add(query)
    return story


@pytest.fixture(scope="module")
def edge_story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    program("prometheus")
    return asyncio.run(tell(tmp_path_factory.mktemp("edge")))


def test_no_alert_of_the_edge_fires_while_all_is_well_or_once_it_is_again(edge_story: Story) -> None:
    assert (edge_story.early, edge_story.left) == ([], [])


@pytest.mark.parametrize("name", EDGE_NAMES)
def test_each_alert_of_the_edge_fires_in_words_and_resolves(edge_story: Story, name: str) -> None:
    texts = edge_story.fired[name]["annotations"]
    told = texts["summary"] + texts["description"]
    assert not any(bad in told for bad in ("{{", "<no value>", "error expanding"))
    assert name in edge_story.resolved


@pytest.mark.parametrize("panel", EDGE_PANELS)
def test_each_query_of_the_dashboard_of_the_edge_has_an_answer(edge_story: Story, panel: str) -> None:
    assert EDGE_PANELS[panel] not in edge_story.unseen


@pytest.mark.parametrize("query", EDGE_RUNBOOK)
def test_each_query_of_the_runbook_about_the_edge_has_an_answer(edge_story: Story, query: str) -> None:
    assert query not in edge_story.unseen
