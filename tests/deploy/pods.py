"""Pods without Kubernetes: each process with the environment of its manifest, on an address of its own.

What differs from a pod is where files lie, and that a name of a Service is the pod's address.
"""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from manifests import Overlay, Workload

from tests.certificates import Authority

ROOT: Final = Path(__file__).resolve().parents[2]
WAYMESH: Final = [sys.executable, "-c", "from services.cli import main; main()"]
GUARD_S: Final = 120.0
_TLS: Final = "/etc/waymesh/tls"
_DATABASE: Final = "/etc/waymesh/database"


@dataclass
class Pod:
    """A running container of a workload."""

    workload: Workload
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def probe(self, kind: str) -> bool:
        """As a kubelet asks: by HTTP from 200 to 399, by gRPC SERVING, within the probe's time."""
        probe: dict[str, Any] = self.workload.container[kind]
        limit_s = float(probe.get("timeoutSeconds", 1)) * 10  # of a machine that does more than one thing
        if "grpc" in probe:
            where = f"{self.address}:{probe['grpc']['port']}"
            with grpc.insecure_channel(where) as channel:
                asked = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                try:
                    told = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=limit_s)
                except grpc.RpcError:
                    return False
            return bool(told.status == health_pb2.HealthCheckResponse.SERVING)
        (port, path) = self.workload.port(probe["httpGet"]["port"]), probe["httpGet"]["path"]
        return self.http(port, path)[0] in range(200, 400)

    def http(self, port: int, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 if nobody answers."""
        connection = http.client.HTTPConnection(self.address, port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def listening(self) -> set[int]:
        """Ports that it listens on where others can reach it."""
        processes = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        return {
            each.laddr.port
            for process in processes
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.ip.removeprefix("::ffff:") == self.address
        }

    def until(self, kind: str, holds: bool = True) -> None:
        """Asks again, as a kubelet does, until the probe says so."""
        guard = time.monotonic() + GUARD_S
        while self.probe(kind) is not holds:
            assert self.process.poll() is None, f"{self.workload.name}: {self.said()}"
            assert time.monotonic() < guard, f"{self.workload.name} {kind}: {self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@dataclass
class Cluster:
    """Pods of an overlay, each on an address of its own in `network`, such as `127.64.0.`."""

    rendering: Overlay
    folder: Path
    dsn: str
    authority: Authority
    network: str
    pods: dict[str, Pod] = field(default_factory=dict)

    def address(self, service: str) -> str:
        """Of the service's pod."""
        return f"{self.network}{1 + sorted(self.rendering.workloads).index(service)}"

    def environment(self, workload: Workload) -> dict[str, str]:
        """The container's, with its files and the addresses of pods where they are here."""
        mine = self.folder / workload.name
        self._mount_certificate(workload, mine / "tls")
        found = {"DATABASE_URL": self.dsn, "POD_NAME": f"{workload.name}-0"}
        for name, value in workload.environment.items():
            if value is None:
                continue  # what Secrets say
            value = value.replace(_TLS, str(mine / "tls"))
            value = value.replace(_DATABASE, str(self.folder / "database"))
            value = re.sub(r"dns:///(\w+):", lambda match: f"dns:///{self.address(match[1])}:", value)
            found[name] = value
        found["WAYMESH_DATA_DIR"] = str(mine / "data")
        for variable in ("WAYMESH_BIND_HOST", "WAYMESH_ADMIN_HOST"):
            assert found[variable] == "0.0.0.0", f"{variable} is {found[variable]}"
            found[variable] = self.address(workload.name)
        # A pod has a loopback of its own.
        found["WAYMESH_RUNTIME_HOST"] = f"{self.network}250"
        found.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
        return found

    def _mount_certificate(self, workload: Workload, folder: Path) -> None:
        spec = workload.certificate
        hosts = (*spec["dnsNames"], self.address(workload.name))
        self.authority.issue(workload.name, hosts=hosts, uris=tuple(spec["uris"])).mount(folder)

    def run(self, name: str) -> Pod:
        """Starts its container; the end of `running` ends it."""
        workload = self.rendering.workloads[name]
        environment = self.environment(workload)
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*WAYMESH, *workload.container["args"]],
                # Nothing of ours leaks in: a container has what its manifest says, and what its image sets.
                env={**environment, "PATH": os.environ["PATH"], "HOME": str(self.folder)},
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        pod = self.pods[name] = Pod(workload, self.address(name), process, log)
        return pod

    def job(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs a job's container to its end."""
        workload = self.rendering.workloads[name]
        return subprocess.run(
            [*WAYMESH, *workload.container["args"]],
            env={**self.environment(workload), "PATH": os.environ["PATH"], "HOME": str(self.folder)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )


@contextlib.contextmanager
def running(
    rendering: Overlay, folder: Path, dsn: str, authority: Authority, names: Iterable[str]
) -> Iterator[Cluster]:
    """Migrated by its job, then all of `names` started at once."""
    # Those of another run at the same time are others.
    pid = os.getpid()
    network = f"127.{64 + pid % 128}.{pid // 128 % 256}."
    cluster = Cluster(rendering, folder, dsn, authority, network)
    (folder / "database").mkdir()
    (folder / "database" / "ca.crt").write_bytes(authority.trusted)
    try:
        done = cluster.job("migrate")
        assert done.returncode == 0, done.stderr
        for name in names:
            cluster.run(name)
        yield cluster
    finally:
        for pod in cluster.pods.values():
            if pod.process.poll() is None:
                pod.process.send_signal(signal.SIGKILL)
        for pod in cluster.pods.values():
            pod.process.wait()
