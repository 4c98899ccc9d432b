"""A PostgreSQL server as somebody else runs it: on a port, with a password."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services.mesh.store import binaries
from services.mesh.store.account import unprivileged_account
from tools.ports import free_ports

PASSWORD = "canary-of-the-database"
USER = "waymesh"
_GUARD_S = 60.0


class TcpPostgres:
    """Made once in its folder, started and stopped as often as wanted. `port` stays."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self.settings = dict(settings)
        self._account = unprivileged_account()
        found = binaries.find()
        if self._account is not None:
            os.chown(folder, self._account.uid, self._account.gid)
            if not binaries.reachable(found, self._account):
                found = binaries.copy(found, folder / "install")
        self._programs = found.root / "bin"
        self._server: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres", *, password: str = PASSWORD, user: str = USER) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """An empty cluster."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.tool(
            *("initdb", f"--pgdata={self.folder}/data", f"--username={USER}", f"--pwfile={secret}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )

    def start(self) -> None:
        """With `settings`; returns when it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "64MB",
            "timezone": "UTC",
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "postgres.log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_account(),  # type: ignore[arg-type]
            )
        ends = time.monotonic() + _GUARD_S
        while subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self._server.poll() is None, (self.folder / "postgres.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)

    def stop(self) -> None:
        """Fast shutdown."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait()

    def tool(self, name: str, *arguments: str, **environ: str) -> str:
        """Runs a program of the installation as its account; what it printed. It must succeed."""
        return self.tool_outside(str(self._programs / name), *arguments, **environ)

    def tool_outside(self, *command: str, **environ: str) -> str:
        """The same of any program."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGPASSWORD": PASSWORD, **environ},
            **self._as_account(),  # type: ignore[arg-type]
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def programs(self) -> Path:
        """Folder of pg_dump, pg_restore, psql and the others."""
        return self._programs

    def _as_account(self) -> dict[str, object]:
        if self._account is None:
            return {"cwd": self.folder}
        return {
            "cwd": self.folder,
            "user": self._account.uid,
            "group": self._account.gid,
            "extra_groups": [],
        }


@contextlib.contextmanager
def tcp_postgres(**settings: str) -> Iterator[TcpPostgres]:
    """One that runs; its folder goes with the block."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-postgres-", dir="/tmp"))
    server = TcpPostgres(folder, **settings)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
