"""What README.md and examples/ show is what a user gets: each is run, as a process, on a running mesh."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.up_rig import up
from tests.processes import until
from tests.running_mesh import KEY, ROOT, RunningMesh, running_mesh

README = (ROOT / "README.md").read_text()
# Language and text.
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
# A command after the prompt, over as many lines as it takes, and the JSON printed under it.
SHOWN = [
    (command, json.loads(answer))
    for _, text in BLOCKS
    for command, answer in re.findall(r"^\$ (curl .*?)\n(\{.*?)(?=^\$|\Z)", text, re.DOTALL | re.MULTILINE)
]
# Another value each time, of the same type.
VARYING = {"request_id", "duration_ms", "attempt"}
EXAMPLES = {
    "stub_client.py": r"\d+\.\d min; 80%: \d+\.\d to \d+\.\d\n",
    "http_client.py": r"200 \{.*'status': 'success'.*\}\n400 \{.*'parameters\.location\.lat'.*\}\n",
    "outcome_service.py": r"(?s:.*\n  success\n.*)5 outcomes delivered, 0 in the spool\n",
}
# The stub client's question, to know when it can be answered.
PREDICT = (
    SHOWN[0][0].partition(" -d ")[0]
    + """ -d '{"task": "predict_eta", "parameters": {"order_id": "order_456"}}'"""
)
# A row of the table that `make run` prints.
ROW = r"^  \d\d:\d\d:\d\d( +\d+){6} +(-|[\d.]+ min) +(-|\d+%)( +\d+/\d+){3}$"
# Only keeps what does not answer from holding the run.
GUARD_S = 60


@pytest.fixture(scope="module")
def mesh(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(module_database, tmp_path_factory.mktemp("examples")) as running:
        yield running


def run(command: list[str], mesh: RunningMesh) -> subprocess.CompletedProcess[str]:
    """As a user of this mesh runs it, from the repository's root."""
    return subprocess.run(
        command,
        env={**os.environ, **mesh.environ, "WAYMESH_DATA_DIR": str(mesh.folder / "user"), "KEY": KEY},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )


def here(text: str, mesh: RunningMesh) -> str:
    """The text with the addresses of this mesh for the usual ones, and a key for the one left out."""
    for shown, real in (
        ("127.0.0.1:8000", f"127.0.0.1:{mesh.gateway}"),
        ("127.0.0.1:50051", mesh.targets["eta"]),
        ("wm_…", KEY),
    ):
        text = text.replace(shown, real)
    return text


def curl(command: str, mesh: RunningMesh) -> Any:
    done = run(["bash", "-c", here(command, mesh)], mesh)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lasting(answer: Any) -> dict[str, Any]:
    """The answer, with the type alone of what is different each time."""
    return {name: type(value) if name in VARYING else value for name, value in answer.items()}


def told(line: str) -> str:
    """A printed line without what is different each time."""
    for varying, name in (
        (ROW, "ROW"),
        (r"(?<=^  data      )\S+   logs in \S+/logs$", "FOLDER"),
        (r"wm_[\w…-]+", "KEY"),
        (r"ready     .*", "ready AT"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"^\d\d:\d\d:\d\d", "TIME"),
    ):
        line = re.sub(varying, name, line)
    return line


@pytest.fixture(scope="module")
def answers(mesh: RunningMesh) -> list[Any]:
    """What each command of the README is answered, in its order."""
    return [curl(command, mesh) for command, _ in SHOWN]


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_a_curl_of_the_readme_is_answered_as_printed_under_it(number: int, answers: list[Any]) -> None:
    assert lasting(answers[number]) == lasting(SHOWN[number][1])
    assert list(answers[number]) == list(SHOWN[number][1]), "in the same order"


async def test_the_key_that_the_readme_makes_is_taken(mesh: RunningMesh) -> None:
    [block] = [text for _, text in BLOCKS if "KEY=$(" in text]
    block = block.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    told = run(["bash", "-ec", f"export DATABASE_URL={shlex.quote(mesh.dsn)}\n{block}\nprintf %s $KEY"], mesh)
    assert told.returncode == 0, told.stderr
    command = SHOWN[0][0].replace("$KEY", told.stdout)
    await until(lambda: curl(command, mesh).get("status") == "success", "the gateway hears of the key")


def test_every_curl_of_the_readme_is_tried() -> None:
    assert README.count("curl ") == len(SHOWN) + 2


def test_the_curls_that_make_run_is_shown_to_print_succeed(mesh: RunningMesh) -> None:
    [commands] = re.findall(r"^READY\. Try:\n((?:  curl .*\n)+)", README, re.MULTILINE)
    for command in commands.splitlines():
        assert curl(command, mesh)["status"] == "success"


async def test_make_run_prints_what_the_readme_shows() -> None:
    async with up("--demo") as mesh:
        await mesh.until_line(ROW)
        printed = list(mesh.lines)
    [shown] = [text.splitlines() for _, text in BLOCKS if "READY. Try:" in text]
    # Services become ready in any order; rows left out of the middle are a line of their own.
    assert {told(line) for line in shown} - {"  …"} == {told(line) for line in printed}


async def test_the_stub_client_of_the_readme_prints_an_arrival_time(
    mesh: RunningMesh, answers: list[Any]
) -> None:
    [client] = [text for kind, text in BLOCKS if kind == "python"]
    await until(lambda: "error" not in curl(PREDICT, mesh), "eta hears of the order by the event bus")
    done = run([sys.executable, "-c", here(client, mesh)], mesh)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d min, 80% between \d+\.\d and \d+\.\d\n", done.stdout)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_prints_what_it_is_for(mesh: RunningMesh, name: str) -> None:
    done = run([sys.executable, str(Path("examples") / name)], mesh)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(EXAMPLES[name], done.stdout), done.stdout


def test_the_http_client_says_what_it_misses(mesh: RunningMesh) -> None:
    command = [sys.executable, "examples/http_client.py"]
    missing = run(["env", "-u", "WAYMESH_API_KEY", *command], mesh)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("set WAYMESH_API_KEY to the key that `waymesh up` prints")
    assert missing.stderr.count("\n") == 1
    away = run(["env", "WAYMESH_GATEWAY=http://127.0.0.1:1", *command], mesh)
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr.startswith("no gateway answers at http://127.0.0.1:1 (")
    assert away.stderr.count("\n") == 1


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == set(EXAMPLES)
