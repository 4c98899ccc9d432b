"""The jars of the broker, fetched once from Maven Central into a cache folder."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Final

POM: Final = Path(__file__).with_name("pom.xml")
CACHE: Final = "WAYMESH_KAFKA_CACHE"
"""Environment variable that names another cache folder than `.tools/kafka` of the repository."""

_ROOT: Final = Path(__file__).resolve().parents[2]
_GOAL: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
_NAMESPACE: Final = "{http://maven.apache.org/POM/4.0.0}"
_JAVA: Final = 17
# 45 MB; a slow mirror takes a minute or two.
_FETCH_S: Final = 600.0


class KafkaUnavailableError(Exception):
    """There is no broker to be had here; the text is one line that names what is missing."""


def classpath() -> str:
    """What `java -cp` wants; fetches the jars the first time. KafkaUnavailableError."""
    _check_java()
    version, digest = _pinned()
    place = Path(os.environ.get(CACHE) or _ROOT / ".tools" / "kafka") / f"{version}-{_digest(POM)[:8]}"
    if not place.is_dir():
        _fetch(place, version, digest)
    return f"{place}/*"


@cache
def _check_java() -> None:
    try:
        told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        raise KafkaUnavailableError(f"java ({_JAVA} or newer) is not installed") from None
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found[1]) < _JAVA:
        raise KafkaUnavailableError(f"java is {found[1] if found else 'of unknown version'}, not {_JAVA}")


def _pinned() -> tuple[str, str]:
    """Version of the broker and SHA-256 of its main jar, as pom.xml says."""
    root = ET.parse(POM).getroot()
    version, digest = (
        root.findtext(f"{_NAMESPACE}properties/{_NAMESPACE}{name}", "")
        for name in ("kafka.version", "kafka.sha256")
    )
    return version, digest


def _fetch(place: Path, version: str, digest: str) -> None:
    """Into a folder of its own first, so that two who fetch at once do not see each other's halves."""
    if shutil.which("mvn") is None:
        raise KafkaUnavailableError("mvn (Maven), which fetches the broker, is not installed")
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".fetch-", dir=place.parent))
    try:
        command = ["mvn", "-q", "-B", "-f", str(POM), _GOAL]
        options = [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, timeout=_FETCH_S
        )
        if done.returncode:
            raise KafkaUnavailableError(f"mvn could not fetch the broker: {_first_error(done.stdout)}")
        if _digest(folder / f"kafka_2.13-{version}.jar") != digest:
            raise KafkaUnavailableError(f"kafka_2.13-{version}.jar is not the one that pom.xml pins")
        folder.chmod(0o755)
        try:
            folder.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    except subprocess.TimeoutExpired:
        raise KafkaUnavailableError(f"mvn did not fetch the broker within {_FETCH_S:.0f} s") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "ERROR" in line] or ["no word of it"]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[0]).removeprefix("[ERROR] ")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
