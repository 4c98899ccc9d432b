"""The trees of the images, made as the Dockerfile makes them, and their programs run as a container would.

As root, a program sees a file system that is read-only but for /tmp and its data folder, in a mount
namespace of its own; it is user 65532 and has no capability. Where that is not allowed, only the modes of
files keep the tree as it is.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import Marker

from tests.images import dockerfile

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "deploy/docker/install.py"
USER = 65532
# $1 Python's home, $2 what on the way there that user may not pass (or nothing), $3 a mount point, $4 the
# folder of the trees, $5 the data folder in it.
_READ_ONLY = r"""
set -eu
if [ -n "$2" ]; then
  mount --bind "$1" "$3"
  mount -t tmpfs -o mode=755 none "$2"
  mkdir -p "$1"
  mount --move "$3" "$1"
  mount -o remount,ro,bind "$1"
  mount -o remount,ro,mode=755 "$2"
fi
mount --bind "$4" "$4"
mount -o remount,ro,bind "$4"
mount --bind "$5" "$5"
mount -o remount,rw,bind "$5"
mount -t tmpfs -o mode=1777,size=16m none /tmp
mount -o remount,ro,bind /
cd /
shift 5
exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs \
  --inh-caps=-all --bounding-set=-all -- "$@"
"""


def uv() -> str:
    """As the Makefile finds it."""
    found = shutil.which("uv")
    if found is None:
        subprocess.run(["make", "--quiet", ".tools/uv/bin/uv"], cwd=ROOT, check=True)
    return found or str(ROOT / ".tools/uv/bin/uv")


def context(into: Path) -> Path:
    """What a build is given: the repository as .dockerignore lets it through."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in rules if line.startswith("!")]
    ignored = [line.removeprefix("**/") for line in rules if line.startswith("**/")]
    for name in kept:
        source, target = ROOT / name, into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored))
        else:
            shutil.copy2(source, target)
    return into


def install(stage: dockerfile.Stage, source: Path, prefix: Path) -> None:
    """Runs the last step of a stage on `source`, with another prefix than /opt/waymesh."""
    command = stage.last("RUN").words
    assert command[:2] == ["python", "deploy/docker/install.py"]
    arguments = [str(prefix) if word == "/opt/waymesh" else word for word in command[2:]]
    if arguments[0] == "full":
        arguments += ["--uv", uv()]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": epoch()}
    subprocess.run([_python(), source / command[1], *arguments], check=True, env=environ, cwd=source)


def epoch() -> str:
    """The time that all files have."""
    told = next(one.text for one in dockerfile.stages()["full"].all("ARG") if "EPOCH" in one.text)
    return told.partition("=")[2]


def _python() -> str:
    """The interpreter below the environment that the tests run in."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


@dataclass(frozen=True)
class Container:
    """One image's tree, and a data folder."""

    image: str
    prefix: Path
    data: Path

    def start(self, command: list[str], **environ: str) -> subprocess.Popen[str]:
        """A program of the image, found by the image's PATH, with its environment and nothing else."""
        stage = dockerfile.stages()[self.image]
        settings = {
            **dockerfile.environment(stage),
            "HOME": "/",
            "WAYMESH_DATA_DIR": str(self.data),
            **environ,
        }
        settings["PATH"] = settings["PATH"].replace("/opt/waymesh", str(self.prefix))
        program = [word.replace("/opt/waymesh", str(self.prefix)) for word in command]
        program[0] = shutil.which(program[0], path=settings["PATH"]) or program[0]
        return subprocess.Popen(
            [*_as_in_a_container(self.prefix, self.data), *program],
            env=settings,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(command, **environ)
        said, _ = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, said)


def container(image: str, full: Path, folder: Path) -> Container:
    """An image's tree beside the full one; its files are the same until one of them is changed."""
    prefix, data = folder / image, folder / f"{image}-data"
    subprocess.run(["cp", "-al", str(full), str(prefix)], check=True)
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, USER, USER)
    return Container(image, prefix, data)


def _as_in_a_container(prefix: Path, data: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    home = Path(sys.base_prefix)
    closed = [str(each) for each in reversed(home.parents) if not os.stat(each).st_mode & 0o1]
    if not _may_mount():
        if closed:
            pytest.skip(f"user {USER} may not pass {closed[0]}, where Python is, and nothing may be mounted")
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--"]
    mount_point = prefix.parent / "mounted"
    mount_point.mkdir(exist_ok=True)
    names = (home, closed[0] if closed else "", mount_point, prefix.parent, data)
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", _READ_ONLY, "sh", *map(str, names)]


@functools.cache
def _may_mount() -> bool:
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "mount", "-t", "tmpfs", "none", "/tmp"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def closed_to_everyone(prefix: Path) -> None:
    """Modes for where no namespace does it."""
    for folder, folders, files in os.walk(prefix):
        for name in (*folders, *files):
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)


def lock_names() -> dict[str, str]:
    """Version of each package of the product's lock that is meant for this Python."""
    text = (ROOT / "requirements/product.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\]+))?", text, re.M)
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version, marker in found
        if not marker or Marker(marker.strip()).evaluate()
    }
