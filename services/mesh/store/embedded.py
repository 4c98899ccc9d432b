"""PostgreSQL as a child of this process: the embedded default of `waymesh up`.

Everything lies in `<data_dir>/postgres`, a folder of mode 0700 that belongs to whom PostgreSQL runs as:

    cluster/       the data (PGDATA), appears whole or not at all
    install/       a copy of the programs, only where that account cannot reach the wheel's own
    run/           the Unix socket; in /run or /tmp if its path were too long
    postgres.log   what the server says
    owner.lock     locked by the process that owns the server

There is no TCP listener and no password: who may enter the folder may connect.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from services.mesh.store import binaries as wheel
from services.mesh.store.account import Account, AccountError, is_home, unprivileged_account
from services.mesh.store.failures import is_transient
from services.mesh.store.pool import connect

_log = logging.getLogger(__name__)

DATABASE: Final = "waymesh"
_SUPERUSER: Final = "waymesh"
_SOCKET: Final = ".s.PGSQL.5432"
# sun_path of a Unix socket holds 108 bytes with the closing zero.
_SOCKET_PATH_BYTES: Final = 107
# Recovery after a crash replays at most max_wal_size of log; a first start on a slow disk takes seconds.
_START_S: Final = 120.0
_ORPHANS_S: Final = 20.0
_STOP_S: Final = 20.0
_LOG_BYTES: Final = 16 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1

# The mesh has 700 MB in all. Every statement it runs is an index look-up or a bulk insert: no parallel
# workers, no JIT. No replica reads the log, so it may be minimal. Durability is PostgreSQL's default.
_SETTINGS: Final = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "32MB",
    "effective_cache_size": "256MB",
    "wal_buffers": "8MB",
    "max_wal_size": "1GB",
    "min_wal_size": "64MB",
    "checkpoint_completion_target": "0.9",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    "max_logical_replication_workers": "0",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "2",
    "autovacuum_naptime": "15s",
    "io_method": "sync",
    "jit": "off",
    "random_page_cost": "1.1",
    "deadlock_timeout": "500ms",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
}


class EmbeddedPostgresError(Exception):
    """The server cannot be started. The text is one line that says what to do."""


class EmbeddedPostgres:
    """One PostgreSQL server as a supervised child.

    `start` may be called again after the server has died; `wait` tells when it does. The server stops by
    itself (fast shutdown) if the thread that started it ends without `stop`, as after a kill -9.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.folder = self.data_dir / "postgres"
        self._cluster = self.folder / "cluster"
        self._run = _socket_folder(self.folder)
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: concurrent.futures.Future[int] | None = None

    @property
    def dsn(self) -> str:
        """Address of the database, whether or not the server runs."""
        return _dsn(self._run, DATABASE)

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> str:
        """Starts the server, makes cluster and database the first time, and returns the DSN.

        EmbeddedPostgresError if it cannot, or if another live process owns the folder. Returns at once if
        it runs already.
        """
        if self.pid is not None:
            return self.dsn
        try:
            account = unprivileged_account()
            self._own(account)
            programs = await asyncio.to_thread(self._prepare, account)
            await self._wait_for_orphans()
            self._spawn(programs, account)
            await self._until_ready()
        except BaseException as error:
            await asyncio.shield(self.stop())
            if isinstance(error, AccountError | OSError | subprocess.SubprocessError):
                raise EmbeddedPostgresError(f"embedded PostgreSQL: {error}") from error
            raise
        return self.dsn

    async def wait(self) -> int:
        """Waits until the server has ended, for whatever reason; its return code (negative: the signal)."""
        if self._ended is None:
            raise RuntimeError("the server was never started")
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, the data is checkpointed. May be repeated."""
        process, ended = self._process, self._ended
        if process is not None and ended is not None:
            # SIGINT: fast; SIGQUIT: immediate, recovers at the next start; SIGKILL if even that is not heard.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                if ended.done():
                    break
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wait(), _STOP_S)
        self._process = None
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _own(self, account: Account | None) -> None:
        """Makes the folder and takes its lock."""
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if account is not None:
            self._let_pass(account)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        if account is not None:
            os.chown(self.folder, account.uid, account.gid)
        if self._lock is not None:
            return
        lock = (self.folder / "owner.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedPostgresError(
                f"another running process owns the PostgreSQL in {self.folder}; stop it, "
                "or set WAYMESH_DATA_DIR to another folder"
            ) from None
        self._lock = lock

    def _let_pass(self, account: Account) -> None:
        """Sees that the account can come to the folder. Opens our own data folder at most, never a home."""
        if not account.can_pass(self.data_dir) and not is_home(self.data_dir):
            self.data_dir.chmod(stat.S_IMODE(self.data_dir.stat().st_mode) | 0o001)
        blocked = account.blocked_by(self.folder)
        if blocked is not None:
            raise EmbeddedPostgresError(
                f"PostgreSQL runs as '{account.name}', who may not pass {blocked}; "
                "set WAYMESH_DATA_DIR to a folder outside of it"
            )

    def _prepare(self, account: Account | None) -> wheel.Binaries:
        """Programs, socket folder and cluster. Blocks: it copies files and runs initdb."""
        programs = wheel.find()
        if account is not None and not wheel.reachable(programs, account):
            programs = wheel.copy(programs, self.folder / "install")
        self._prepare_socket_folder(account)
        version = self._cluster / "PG_VERSION"
        if not version.exists():
            self._make_cluster(programs, account)
        elif version.read_text().strip() != str(wheel.MAJOR):
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {version.read_text().strip()} and this is "
                f"{wheel.MAJOR}; dump it with the old version, or set WAYMESH_DATA_DIR to another folder"
            )
        return programs

    def _prepare_socket_folder(self, account: Account | None) -> None:
        owner = account.uid if account is not None else os.geteuid()
        self._run.mkdir(mode=0o700, exist_ok=True)
        if account is not None and self._run.lstat().st_uid == 0:
            os.chown(self._run, account.uid, account.gid)
        status = self._run.lstat()
        # Somebody else may have made the folder in /tmp before us.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner:
            raise EmbeddedPostgresError(f"{self._run} belongs to somebody else; remove it")
        self._run.chmod(0o700)

    def _make_cluster(self, programs: wheel.Binaries, account: Account | None) -> None:
        """initdb beside the final place, then a rename: a crash in between leaves nothing half made."""
        unfinished = self.folder / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            str(programs.initdb),
            f"--pgdata={unfinished}",
            f"--username={_SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=_environment(),
            start_new_session=True,
            timeout=_START_S,
            user=account.uid if account is not None else None,
            group=account.gid if account is not None else None,
            extra_groups=[] if account is not None else None,
        )
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip().splitlines()
            raise EmbeddedPostgresError(f"initdb failed: {said[-1] if said else done.returncode}")
        unfinished.rename(self._cluster)

    async def _wait_for_orphans(self) -> None:
        """Sees that no server of an earlier owner is left, then removes what it left behind.

        PostgreSQL refuses to start over a postmaster.pid whose number another process of the same account
        has by now. All its processes work in the cluster's folder, so that tells orphans from strangers.
        """
        deadline = time.monotonic() + _ORPHANS_S
        while orphans := await asyncio.to_thread(_working_in, self._cluster):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"an earlier server still runs (process {orphans[0]}); end it")
            postmaster = _recorded_pid(self._cluster)
            if postmaster in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGINT)
            await asyncio.sleep(0.05)
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _spawn(self, programs: wheel.Binaries, account: Account | None) -> None:
        log_path = self.folder / "postgres.log"
        if log_path.exists() and log_path.stat().st_size > _LOG_BYTES:
            log_path.replace(log_path.with_suffix(".log.1"))
        command = [str(programs.postgres), "-D", str(self._cluster)]
        for name, value in {**_SETTINGS, "unix_socket_directories": str(self._run)}.items():
            command += ["-c", f"{name}={value}"]
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                # Ctrl-C in the terminal is ours alone: the services must drain before their store goes.
                start_new_session=True,
                preexec_fn=_stop_with_parent,
                user=account.uid if account is not None else None,
                group=account.gid if account is not None else None,
                extra_groups=[] if account is not None else None,
            )
        ended: concurrent.futures.Future[int] = concurrent.futures.Future()
        threading.Thread(
            target=lambda: ended.set_result(process.wait()), name="postgres-wait", daemon=True
        ).start()
        self._process, self._ended = process, ended

    async def _until_ready(self) -> None:
        """Until the server takes connections and the database exists."""
        deadline = time.monotonic() + _START_S
        while True:
            if self._ended is not None and self._ended.done():
                raise EmbeddedPostgresError(f"PostgreSQL ended while starting: {self._last_words()}")
            try:
                connection = await connect(_dsn(self._run, "postgres"), timeout=10)
            except Exception as error:
                if not is_transient(error):
                    raise
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError("PostgreSQL does not take connections") from error
                await asyncio.sleep(0.02)
                continue
            try:
                known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
                if known is None:
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()
            return

    def _last_words(self) -> str:
        log_path = self.folder / "postgres.log"
        lines = log_path.read_text(errors="replace").strip().splitlines() if log_path.exists() else []
        said = next((line for line in reversed(lines) if "FATAL" in line or "PANIC" in line), "")
        return said or f"see {log_path}"


def running_dsn(data_dir: Path) -> str | None:
    """DSN of the embedded server that another process runs in this data folder; None if none does."""
    folder = data_dir.absolute() / "postgres"
    cluster = folder / "cluster"
    try:
        pid = _recorded_pid(cluster)
        if pid is None or pid not in _working_in(cluster):
            return None
    except PermissionError:
        return None
    return _dsn(_socket_folder(folder), DATABASE)


def _dsn(run: Path, database: str) -> str:
    return f"postgresql://{_SUPERUSER}@/{database}?host={quote(str(run), safe='')}"


def _socket_folder(folder: Path) -> Path:
    run = folder / "run"
    if len(os.fsencode(run / _SOCKET)) <= _SOCKET_PATH_BYTES:
        return run
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path("/run" if os.geteuid() == 0 and os.path.isdir("/run") else "/tmp") / f"waymesh-{key}"


def _environment() -> dict[str, str]:
    """No variable of ours reaches the server: PG* ones would change it, keys would show in /proc."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _recorded_pid(cluster: Path) -> int | None:
    try:
        return int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _working_in(cluster: Path) -> list[int]:
    """Processes whose working folder is the cluster."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/cwd") == str(cluster):
                    found.append(int(name))
    return found


_libc = ctypes.CDLL(None, use_errno=True)


def _stop_with_parent() -> None:
    """In the child: fast shutdown when its parent ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
