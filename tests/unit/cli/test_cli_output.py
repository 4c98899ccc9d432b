"""Commands whose output goes nowhere."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.up_rig import mesh_ports
from tests.unit.cli.test_cli_main import PROGRAM


def redirected(
    arguments: list[str], where: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.run(
        ["sh", "-c", f'"$@" {where}', "sh", *PROGRAM, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **mesh_ports(), "WAYMESH_DATA_DIR": str(folder), **variables},
    )


@pytest.mark.parametrize(
    "arguments", [["dead-letters", "list"], ["topics", "list"], ["keys", "list"], ["up"]]
)
def test_a_closed_output_is_told_before_anything_is_done(tmp_path: Path, arguments: list[str]) -> None:
    done = redirected(arguments, ">&-", tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr == ("waymesh: the standard output is closed: give it a terminal, a file or a pipe\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["topics", "list"], ["topics", "create"], ["dead-letters", "list"]])
def test_a_full_output_is_told_in_a_line(database: str, tmp_path: Path, arguments: list[str]) -> None:
    done = redirected(arguments, ">/dev/full", tmp_path, DATABASE_URL=database)
    assert done.stderr == "waymesh: the output cannot be written: no space left on device\n"
    assert done.returncode == 1


def test_a_full_output_is_told_of_any_command(tmp_path: Path) -> None:
    done = redirected(["--version"], ">/dev/full", tmp_path)
    assert done.stderr == "waymesh: the output cannot be written: no space left on device\n"
    assert done.returncode == 1


def test_a_reader_that_has_seen_enough_is_no_trouble(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "--version"], check=False, stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
