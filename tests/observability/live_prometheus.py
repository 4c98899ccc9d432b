"""A Prometheus that scrapes a running mesh every second and goes by our rules, hastened."""

import asyncio
import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.observability import hastened
from tests.observability.promtool import program
from tools.observability import derived
from tools.ports import free_ports

GUARD_S = 120.0


class Prometheus:
    """Asked by its HTTP API, as Grafana and people do."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    async def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer; an assertion with its error otherwise."""
        return await asyncio.to_thread(self._get, path, parameters)

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self._address}{path}{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def scraped(self) -> int:
        """How many targets have answered; none as long as Prometheus itself does not."""
        with contextlib.suppress(OSError, AssertionError):
            targets = self._get("/api/v1/targets", {"state": "active"})["activeTargets"]
            return sum(target["health"] == "up" for target in targets)
        return 0

    async def seen(self, expression: str, since: float) -> bool:
        """Whether it had any value since then, which is a Unix time. Fails if it cannot be parsed."""
        data = await self.get(
            "/api/v1/query_range", query=expression, start=str(since), end=str(time.time()), step="1"
        )
        return bool(data["result"])

    async def alerts(self) -> list[dict[str, Any]]:
        """Those that fire, with their texts."""
        told = (await self.get("/api/v1/alerts"))["alerts"]
        return [alert for alert in told if alert["state"] == "firing"]

    async def until_firing(self, name: str, **labels: str) -> None:
        """Returns when the alert fires with these labels."""
        await self._until(name, labels, fires=True)

    async def until_resolved(self, name: str, **labels: str) -> None:
        """Returns when it no longer does."""
        await self._until(name, labels, fires=False)

    async def until_quiet(self, but: str = "") -> list[str]:
        """Names of what still fires when patience ends; none as soon as nothing does, one alert apart."""
        deadline = time.monotonic() + GUARD_S
        while True:
            firing = [alert["labels"]["alertname"] for alert in await self.alerts()]
            loud = [name for name in firing if name != but]
            if not loud or time.monotonic() > deadline:
                return loud
            await asyncio.sleep(0.3)

    async def _until(self, name: str, labels: Mapping[str, str], *, fires: bool) -> None:
        wanted = {"alertname": name, **labels}
        deadline = time.monotonic() + GUARD_S
        while True:
            firing = await self.alerts()
            if any(wanted.items() <= alert["labels"].items() for alert in firing) is fires:
                return
            assert time.monotonic() < deadline, (
                f"{wanted} {'never fired' if fires else 'did not resolve'}; "
                f"firing: {[alert['labels'] for alert in firing]}"
            )
            await asyncio.sleep(0.3)


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, Sequence[int]], *, edge: bool = False
) -> Iterator[Prometheus]:
    """`targets`: ports on loopback by service; all of them answer when the block begins.

    It goes by the rules of the services, or by those of the edge.
    """
    (port,) = free_ports(1)
    (folder / "rules").mkdir()
    hastened.write(derived.FOLDER / "prometheus" / "rules", folder / "rules", edge=edge)
    every = f"{hastened.SCRAPE_S}s"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules/*.yaml"],
        "scrape_configs": [
            {
                "job_name": "waymesh-edge" if edge else "waymesh",
                "static_configs": [
                    {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"service": service}}
                    for service, ports in targets.items()
                ],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        found = Prometheus(port)
        wanted = sum(map(len, targets.values()))
        deadline = time.monotonic() + GUARD_S
        while found.scraped() < wanted:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "a target never answered"
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait()
