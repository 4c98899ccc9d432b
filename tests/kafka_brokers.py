"""A real Kafka for the tests that want one: a running one that the environment names, else one of our own.

`WAYMESH_REQUIRE_KAFKA=1` makes it a failure that there is none to be had.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import pytest

from tools.kafka.cluster import KafkaCluster
from tools.kafka.jars import KafkaUnavailableError
from tools.kafka.look import Look

WANTED = "no Kafka broker"
_SERVERS = "KAFKA_BOOTSTRAP_SERVERS"
_REQUIRE = "WAYMESH_REQUIRE_KAFKA"


@dataclass(frozen=True, slots=True)
class Kafka:
    """A cluster that tests share: each uses topics of its own."""

    bootstrap_servers: str

    @property
    def look(self) -> Look:
        """What lies in it."""
        return Look(bootstrap_servers=self.bootstrap_servers)


class Brokers:
    """What there is, looked for when it is first wanted."""

    def __init__(self, named: str | None) -> None:
        self._named = named
        self._loop = asyncio.new_event_loop()
        self._cluster: KafkaCluster | None = None
        self._missing: str | None = None
        self._broken: Exception | None = None

    def shared(self) -> Kafka | None:
        """One that the tests share, None if there is none."""
        if self._named is not None:
            return Kafka(self._named)
        cluster = self.own()
        return Kafka(cluster.bootstrap_servers) if cluster is not None else None

    def own(self) -> KafkaCluster | None:
        """One that tests may break, None if there is none."""
        if self._broken is not None:  # to try again for each test would take hours
            raise RuntimeError("the brokers did not start for an earlier test") from self._broken
        if self._cluster is None and self._missing is None:
            cluster = KafkaCluster()
            try:
                self._loop.run_until_complete(cluster.start())
            except KafkaUnavailableError as error:
                self._missing = str(error)
            except Exception as error:
                self._broken = error
                raise
            else:
                self._cluster = cluster
            finally:
                if self._cluster is None:
                    self._loop.run_until_complete(cluster.close())
        return self._cluster

    def absent(self, missing: str = "") -> NoReturn:
        """Ends the test that wants one: as skipped, or as failed where it has to be there."""
        reason = f"{WANTED}: {missing or self._missing}; {_SERVERS} can name a running one"
        if os.environ.get(_REQUIRE):
            pytest.fail(f"{reason}; {_REQUIRE} is set", pytrace=False)
        pytest.skip(reason)

    @property
    def required(self) -> bool:
        """Whether nothing else will do."""
        return bool(os.environ.get(_REQUIRE))

    def close(self) -> None:
        """Ends the own one."""
        if self._cluster is not None:
            self._loop.run_until_complete(self._cluster.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def mend(self) -> None:
        """Starts again what a test has ended or held."""
        if self._cluster is not None:
            self._cluster.resume()
            self._loop.run_until_complete(self._cluster.start())
            self._loop.run_until_complete(self._cluster.in_sync())


_named = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """The running one is for those who ask for it: services under test take their settings from the test."""
    config.stash[_named] = os.environ.pop(_SERVERS, None)


@pytest.fixture(scope="session")
def kafka_brokers(pytestconfig: pytest.Config) -> Iterator[Brokers]:
    """For tests that make do with something else where there is no real one."""
    brokers = Brokers(pytestconfig.stash[_named])
    yield brokers
    brokers.close()


@pytest.fixture
def kafka(kafka_brokers: Brokers) -> Kafka:
    """A real Kafka, shared by the tests of the run."""
    return kafka_brokers.shared() or kafka_brokers.absent()


@pytest.fixture
def kafka_cluster(kafka_brokers: Brokers) -> Iterator[KafkaCluster]:
    """Three nodes that the test may kill, stop and hold; whole again after it."""
    yield kafka_brokers.own() or kafka_brokers.absent()
    kafka_brokers.mend()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which tests did not run for want of a broker."""
    lacking = [
        report.nodeid
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and WANTED in report.longrepr[2]
    ]
    if lacking:
        terminalreporter.section(f"tests that did not run for want of a Kafka broker: {len(lacking)}")
        for name in lacking:
            terminalreporter.write_line(name)
