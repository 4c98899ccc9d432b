"""Short runs of `make chaos` with fixed seeds: each kind of fault once, on a whole mesh under load."""

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


# Those that a bus of brokers may bear otherwise; the seeds hit feedback, a reader, and all brokers at once.
ON_KAFKA = {
    *KAFKA_KINDS,
    Kind.KILL,
    Kind.KILL_DATABASE,
    Kind.STALL,
    Kind.HALF_OPEN,
    Kind.CUT,
}
ON_EMBEDDED = set(Kind) - KAFKA_KINDS


async def chaos(report: Path, bus: str, kinds: set[Kind], seed: int) -> tuple[int, dict[str, Any], str]:
    """Exit code, the line, and what there is to read if it is not 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.chaos"),
        *("--seed", str(seed), "--faults", str(len(kinds)), "--bus", bus, "--report", str(report)),
        *("--each-once", "--only", ",".join(kinds)),
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
    assert (line["lost"], line["duplicates"], line["out_of_order"]) == (0, 0, 0)
    assert line["stored"] == line["acknowledged"] > 0
    assert set(line["kinds"]) == {str(kind) for kind in kinds}


async def test_no_fault_loses_or_repeats_anything_on_the_embedded_bus(tmp_path: Path) -> None:
    check(*await chaos(tmp_path, "embedded", ON_EMBEDDED, 678), ON_EMBEDDED)


async def test_no_fault_loses_or_repeats_anything_on_kafka(tmp_path: Path) -> None:
    try:
        await asyncio.to_thread(classpath)
    except KafkaUnavailableError as error:
        absent(error)
    check(*await chaos(tmp_path, "kafka", ON_KAFKA, 2260), ON_KAFKA)


def absent(error: KafkaUnavailableError) -> NoReturn:
    """As for other tests that want a real broker."""
    if os.environ.get("WAYMESH_REQUIRE_KAFKA"):
        pytest.fail(f"no Kafka broker: {error}", pytrace=False)
    pytest.skip(f"no Kafka broker: {error}")
