"""Where the broker of the tests comes from, and what is said where it cannot come."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.kafka import jars

JAR = b"the broker"
ROOT = Path(jars.__file__).parents[2]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is all of PATH, and a pom.xml that pins a small jar."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(jars.CACHE, str(tmp_path / "cache"))
    pom = tmp_path / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><properties><kafka.version>9.9</kafka.version>'
        f"<kafka.sha256>{hashlib.sha256(JAR).hexdigest()}</kafka.sha256></properties></project>"
    )
    monkeypatch.setattr(jars, "POM", pom)
    jars._check_java.cache_clear()
    yield folder
    jars._check_java.cache_clear()


def program(folder: Path, name: str, lines: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


def java(folder: Path, version: str = "17.0.15") -> None:
    program(folder, "java", f"echo 'openjdk version \"{version}\"' >&2")


def maven(folder: Path, jar: bytes = JAR) -> None:
    fetch = (
        f'case "$arg" in -DoutputDirectory=*) printf %s "{jar.decode()}" > "${{arg#*=}}/kafka_2.13-9.9.jar";;'
    )
    program(folder, "mvn", f'for arg in "$@"; do {fetch} esac; done')


def test_they_are_fetched_once_and_lie_in_the_cache(programs: Path, tmp_path: Path) -> None:
    java(programs)
    maven(programs)
    place = Path(jars.classpath().removesuffix("/*"))
    assert place.parent == tmp_path / "cache"
    assert (place / "kafka_2.13-9.9.jar").read_bytes() == JAR
    program(programs, "mvn", "exit 1")
    assert jars.classpath() == f"{place}/*"
    assert [one.name for one in place.parent.iterdir()] == [place.name]


def test_a_jar_that_is_not_the_pinned_one_is_not_used(programs: Path, tmp_path: Path) -> None:
    java(programs)
    maven(programs, b"another")
    with pytest.raises(jars.KafkaUnavailableError, match=r"kafka_2\.13-9\.9\.jar is not the one"):
        jars.classpath()
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_missing_is_named(programs: Path) -> None:
    with pytest.raises(jars.KafkaUnavailableError, match=r"java \(17 or newer\) is not installed"):
        jars.classpath()
    java(programs, "11.0.2")
    with pytest.raises(jars.KafkaUnavailableError, match="java is 11, not 17"):
        jars.classpath()
    jars._check_java.cache_clear()
    java(programs)
    with pytest.raises(jars.KafkaUnavailableError, match=r"mvn \(Maven\).* is not installed"):
        jars.classpath()
    program(programs, "mvn", "echo '[ERROR] no route to the repository'; echo '[ERROR] more'; exit 1")
    with pytest.raises(jars.KafkaUnavailableError, match="could not fetch the broker: no route"):
        jars.classpath()


@pytest.mark.parametrize("required", [False, True])
def test_without_a_broker_tests_are_skipped_and_named_or_fail(required: bool, tmp_path: Path) -> None:
    module = tmp_path / "test_it.py"
    module.write_text("def test_it(kafka): pass\n")
    environ = {k: v for k, v in os.environ.items() if k not in ("KAFKA_BOOTSTRAP_SERVERS", "PATH")}
    environ |= {"PATH": str(tmp_path), "WAYMESH_REQUIRE_KAFKA": "1" if required else ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.kafka_brokers", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(module)],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if required else 0), done.stdout + done.stderr
    assert "no Kafka broker: java (17 or newer) is not installed" in done.stdout or not required
    if not required:
        assert "tests that did not run for want of a Kafka broker: 1" in done.stdout
        assert "test_it.py::test_it" in done.stdout
