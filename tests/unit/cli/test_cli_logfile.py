"""The services' log files."""

import asyncio
import json
import os
from pathlib import Path

from services.cli.logfile import LogPump, ServiceLog


async def pumped(log: ServiceLog, *pieces: bytes) -> LogPump:
    """A pump through which a process has written the pieces and ended."""
    pump = LogPump(log)
    writing = os.dup(pump.write_end)
    pump.start()
    for piece in pieces:
        os.write(writing, piece)
        await asyncio.sleep(0)
    os.close(writing)
    pump.close()
    return pump


async def test_lines_arrive_whole_however_they_were_cut(tmp_path: Path) -> None:
    seen: list[bytes] = []
    log = ServiceLog(tmp_path / "eta.log", lambda _, line: seen.append(line))
    await pumped(log, b"on", b"e\ntw", b"o\nthree")
    assert (tmp_path / "eta.log").read_bytes() == b"one\ntwo\nthree\n"
    assert seen == [b"one", b"two", b"three"]
    log.close()


def test_a_full_file_moves_aside_and_three_are_kept(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "eta.log", max_bytes=10)
    for number in range(6):
        log.write(f"line {number}\n".encode())
    log.close()
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {
        "eta.log": "line 5\n",
        "eta.log.1": "line 4\n",
        "eta.log.2": "line 3\n",
        "eta.log.3": "line 2\n",
    }
    assert (tmp_path / "eta.log").stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    for number in range(2):
        log = ServiceLog(tmp_path / "eta.log")
        log.write(f"{number}\n".encode())
        log.close()
    assert (tmp_path / "eta.log").read_text() == "0\n1\n"


async def test_last_words_are_the_last_error(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "eta.log")

    def line(level: str, message: str, **more: str) -> bytes:
        return json.dumps({"level": level, "message": message, **more}).encode() + b"\n"

    error = line("ERROR", "could not start", error="Traceback\n  ...\nOSError: the disk is full\n")
    assert (await pumped(log, error, line("INFO", "bye"))).last_words() == (
        "could not start: OSError: the disk is full"
    )
    ours = line("ERROR", "no start", error="Traceback\n  x\nservices.mesh.errors.Unavailable: no answer")
    assert (await pumped(log, ours)).last_words() == "no start: no answer"
    assert (await pumped(log, line("INFO", "bye"))).last_words() == "bye"
    assert (await pumped(log, b"Traceback\n  x\nImportError: no\n")).last_words() == "ImportError: no"
    assert (await pumped(log)).last_words() == ""
    log.close()
