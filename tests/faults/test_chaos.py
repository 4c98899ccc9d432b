"""A short run of `make chaos`: each kind of fault once, with a fixed seed, on a whole mesh under load."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.faults.chaos.plan import KAFKA_KINDS, Kind
from tools.kafka.jars import KafkaUnavailableError, classpath

pytestmark = pytest.mark.faults

# Only keeps a run that hangs from holding the others.
GUARD_S = 900.0


async def chaos(report: Path, bus: str, faults: int) -> tuple[int, dict[str, Any], str]:
    """Exit code, the line, and what there is to read if it is not 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.chaos"),
        *("--seed", "20", "--faults", str(faults), "--bus", bus, "--each-once", "--report", str(report)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(GUARD_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    lines = out.decode().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, err.decode() + findings(report)


def findings(report: Path) -> str:
    """What the run left in its report."""
    return "\n".join(found.read_text() for found in report.glob("*/findings.txt"))


def check(code: int, line: dict[str, Any], told: str, kinds: set[Kind]) -> None:
    assert code == 0, told
    assert (line["lost"], line["duplicates"]) == (0, 0)
    assert line["stored"] == line["acknowledged"] > 0
    assert set(line["kinds"]) == {str(kind) for kind in kinds}


async def test_no_fault_loses_or_repeats_anything_on_the_embedded_bus(tmp_path: Path) -> None:
    kinds = set(Kind) - KAFKA_KINDS
    code, line, told = await chaos(tmp_path, "embedded", len(kinds))
    check(code, line, told, kinds)


async def test_no_fault_loses_or_repeats_anything_on_kafka(tmp_path: Path) -> None:
    try:
        await asyncio.to_thread(classpath)
    except KafkaUnavailableError as error:
        absent(error)
    code, line, told = await chaos(tmp_path, "kafka", len(Kind))
    check(code, line, told, set(Kind))


def absent(error: KafkaUnavailableError) -> NoReturn:
    """As for other tests that want a real broker."""
    if os.environ.get("WAYMESH_REQUIRE_KAFKA"):
        pytest.fail(f"no Kafka broker: {error}", pytrace=False)
    pytest.skip(f"no Kafka broker: {error}")
