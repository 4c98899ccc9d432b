"""Ports given to tests: to each process its own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools import ports

PICK = "import sys; from tools.ports import free_ports; print(*free_ports(40), flush=True); sys.stdin.read()"


def test_processes_that_ask_at_once_are_given_different_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", PICK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        given = [number for asker in askers if asker.stdout for number in asker.stdout.readline().split()]
    finally:
        for asker in askers:
            asker.communicate()
    assert len(given) == len(set(given)) == 160


def test_threads_that_ask_at_once_are_given_different_ports() -> None:
    with ThreadPoolExecutor(8) as pool:
        given = [port for found in pool.map(ports.free_ports, [5] * 8) for port in found]
    assert len(set(given)) == 40


def test_what_a_process_had_is_given_again_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(ports, "_GIVEN", tmp_path / "given")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "given").write_text("".join(f"{port} {ended.pid}\n" for port in range(10_000, 40_000)))
    assert len(ports.free_ports(3)) == 3
    assert len((tmp_path / "given").read_text().splitlines()) == 3
