"""All services and the gateway as processes of their own on one database, like under `waymesh up`."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
KEY = "wm_contract"
SERVICES = ("feedback", "eta", "route", "agents")
# Only keeps a mesh that does not start from holding the run.
GUARD_S = 180.0


@dataclass(frozen=True, slots=True)
class RunningMesh:
    """Where it listens, and where it writes."""

    gateway: int
    targets: dict[str, str]
    folder: Path
    dsn: str
    admins: dict[str, int]
    """Ports of metrics and health, by service; the gateway has them on its public one."""
    settings: dict[str, str]
    """What its processes are told."""
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def address(self) -> str:
        """Of the gateway."""
        return f"http://127.0.0.1:{self.gateway}"

    @property
    def environ(self) -> dict[str, str]:
        """What a client of this mesh finds it by."""
        named = {f"WAYMESH_{name.upper()}_TARGET": target for name, target in self.targets.items()}
        return {"WAYMESH_GATEWAY": self.address, "WAYMESH_API_KEY": KEY, **named}

    def admin_ports(self) -> list[tuple[int, str]]:
        """Where services tell of themselves."""
        return [(port, name) for name, port in self.admins.items()]

    def begin(self, name: str) -> None:
        """Starts a service, for the first time or again; its log goes on."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env=self.settings,
                cwd=ROOT,
                stderr=log,
                stdout=log,
            )

    def wait_ready(self, name: str) -> None:
        """Fails with what the service wrote if it ends, or never gets ready."""
        deadline = time.monotonic() + GUARD_S
        process = self.processes[name]
        while not _ready(self.admins.get(name, self.gateway)):
            written = (self.folder / f"{name}.log").read_text()[-2000:]
            assert process.poll() is None, written
            assert time.monotonic() < deadline, f"{name} is not ready within {GUARD_S} s\n{written}"
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """At once, as a crash does."""
        self.processes[name].kill()
        self.processes[name].wait()

    def logs(self) -> list[tuple[str, str]]:
        """Service and line of everything they wrote."""
        return [
            (log.stem, line)
            for log in sorted(self.folder.glob("*.log"))
            for line in log.read_text(errors="replace").splitlines()
        ]

    def faults(self) -> str:
        """What the services say of their own errors."""
        found = []
        for service, line in self.logs():
            try:
                told: dict[str, Any] = json.loads(line)
            except ValueError:
                found.append(f"{service}: {line}")
                continue
            if told.get("error"):
                found.append(f"{service}: {told['message']} {told['error'][-300:]}")
        return "\n".join(found[:10])


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


@contextlib.contextmanager
def running_mesh(dsn: str, folder: Path, **environ: str) -> Iterator[RunningMesh]:
    """A mesh that is ready; it ends with the block. `environ` goes to every service."""
    public, demo, custom, *rest = free_ports(3 + 2 * len(SERVICES))
    names = {name: (port, admin) for name, port, admin in zip(SERVICES, rest[::2], rest[1::2], strict=True)}
    settings = {
        **os.environ,
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_DRAIN_S": "0",
        "FASTAPI_API_KEY": KEY,
        "WAYMESH_RATE_PER_S": "1000000",
        "WAYMESH_RATE_BURST": "1000000",
        "PORT": str(public),
        "WAYMESH_AGENT_DEMO_PORT": str(demo),
        "WAYMESH_AGENT_CUSTOM_PORT": str(custom),
        **environ,
    }
    for name, (port, admin) in names.items():
        settings[f"WAYMESH_{name.upper()}_PORT"] = str(port)
        settings[f"WAYMESH_{name.upper()}_ADMIN_PORT"] = str(admin)
        settings[f"WAYMESH_{name.upper()}_TARGET"] = f"127.0.0.1:{port}"
    mesh = RunningMesh(
        gateway=public,
        targets={name: f"127.0.0.1:{port}" for name, (port, _) in names.items()},
        folder=folder,
        dsn=dsn,
        admins={name: admin for name, (_, admin) in names.items()},
        settings=settings,
        processes={},
    )
    try:
        for name in (*SERVICES, "gateway"):
            mesh.begin(name)
        for name in mesh.processes:
            mesh.wait_ready(name)
        yield mesh
    finally:
        for process in mesh.processes.values():
            process.terminate()
        for process in mesh.processes.values():
            process.wait()
