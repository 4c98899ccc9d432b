"""`waymesh replay gps` of a small made recording: everything counted for what it is."""

import asyncio
import gzip
import json
import math
import random
import re
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.up_rig import GUARD_S, WAYMESH, Up, up

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module")]


def made_recording(folder: Path, *, people: int = 3, trips: int = 4, fixes: int = 150) -> Path:
    """Trips of a fix every 5 s with pauses of an hour between, and one piece too short to be a delivery."""
    rng = random.Random(1)
    lines = ["lat,lng,datetime,uid"]
    for person in range(people):
        time = datetime(2008, 10, 23, 5, tzinfo=UTC)
        lat, lon = 39.98 + person / 100, 116.32
        for trip in range(trips + 1):
            heading = rng.uniform(0, 2 * math.pi)
            for _ in range(fixes if trip < trips else 20):
                lat += 0.0003 * math.cos(heading)
                lon += 0.0003 * math.sin(heading)
                time += timedelta(seconds=5)
                lines.append(f"{lat:.6f},{lon:.6f},{time:%Y-%m-%d %H:%M:%S},{person:03}")
            time += timedelta(hours=1)
    path = folder / "made.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Up]:
    async with up() as running:
        yield running


async def test_injected_duplicates_and_disorder_are_found_exactly(mesh: Up, tmp_path: Path) -> None:
    path = made_recording(tmp_path)
    options = ("--inject-duplicates", "0.05", "--inject-disorder", "0.05", "--json", "--run", "one")
    code, out, err = await mesh.run("replay", "gps", str(path), *options)
    assert code == 0, err
    report = json.loads(out)
    assert report["exact"] is True
    assert report["expected"] == report["counted"]
    assert report["counted"] == {"fixes": 1860, "duplicates": 93, "conflicts": 0, "out_of_order": 93}
    assert (report["traces"], report["deliveries"]) == (15, 12)
    assert report["events_per_s"] > 0
    assert report["predictions"] == report["predictions_watched"] > 12
    assert report["eta"]["count"] > 12
    assert sum(bucket["count"] for bucket in report["eta_by_remaining_time"]) == report["eta"]["count"]

    # The same run once more is nothing but duplicates.
    code, out, err = await mesh.run("replay", "gps", str(path), "--json", "--run", "one")
    assert code == 1
    assert json.loads(out)["counted"] == {"fixes": 0, "duplicates": 1860, "conflicts": 0, "out_of_order": 0}
    assert "fixes 1860 expected, 0 counted" in err

    code, out, err = await mesh.run("replay", "gps", str(path), "--run", "two")
    assert code == 0, err
    assert "fixes/s" in out
    assert "arrival time against what happened" in out
    assert "P10-P90 held" in out


async def test_time_can_be_kept(mesh: Up, tmp_path: Path) -> None:
    path = made_recording(tmp_path, people=1, trips=1)
    code, out, err = await mesh.run("replay", "gps", str(path), "--speed", "300", "--couriers", "2", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["exact"]
    assert report["intake_s"] >= 149 * 5 / 300  # the trip's recorded time, three hundred times as fast


@pytest.mark.parametrize("before", ["", 'trap "" INT; '], ids=["as it is", "started with SIGINT ignored"])
async def test_ctrl_c_says_how_far_it_came(mesh: Up, tmp_path: Path, before: str) -> None:
    path = made_recording(tmp_path, people=1, trips=1)
    curl = await mesh.until_line("^  curl ")
    before_it = (await mesh.curl(curl))["result"]["fixes"]
    # SIGINT is ignored from the start in whatever a script runs in the background.
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f'{before}exec "$@"', "sh", *WAYMESH),
        *("replay", "gps", str(path), "--speed", "1"),
        env=mesh.environ,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(GUARD_S):
            while (await mesh.curl(curl))["result"]["fixes"] == before_it:
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    last = err.decode().splitlines()[-1]
    told = re.fullmatch(
        r"waymesh: interrupted: \d+ of 170 fixes were sent, (\d+) are durable, \d+ are processed", last
    )
    assert told, last
    # What is durable is processed, and none of it in the midst of the next test.
    async with asyncio.timeout(GUARD_S):
        while (await mesh.curl(curl))["result"]["fixes"] < before_it + int(told[1]):
            await asyncio.sleep(0.05)


async def test_a_refused_fix_is_told_with_its_line(mesh: Up, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    long = "b" * 200  # a driver_id has 128 characters at most
    path.write_text(f"lat,lng,datetime,uid\n1,2,2008-10-23 05:00:00,a\n1,2,2008-10-23 05:00:00,{long}\n")
    code, _, err = await mesh.run("replay", "gps", str(path))
    assert code == 1
    assert "1 fixes were refused, the first is that of line 3: driver_id " in err
    assert "Traceback" not in err
