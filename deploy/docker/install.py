"""Makes what the images hold: a tree with Python packages, the same to the byte every time.

    install.py full PREFIX            everything that any image needs
    install.py reduce PREFIX IMAGE    leaves of it what one image needs

The Dockerfile runs this, and so do the tests, which have no container engine. Standard library alone; `uv` is
taken from --uv. The tree belongs where it was made: its command has the folder's name in its first line.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = ROOT / "requirements/product.txt"
IMAGES: Final = Path(__file__).with_name("images.toml")
# The packages of this repository, with what their wheels are made of.
SOURCES: Final = {
    ROOT / "gen/python": ("pyproject.toml", "waymesh", "buf"),
    ROOT: ("pyproject.toml", "README.md", "LICENSE", "services"),
}
# 1980-01-01, the earliest that the wheel format can tell.
EARLIEST: Final = 315532800
COMMAND: Final = "waymesh"
# Who installed it, from where and when: nothing that runs reads it, and it differs from build to build.
_TRACES: Final = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
# Their tests are a third of all modules, and 40 MB.
_TESTED_AT_HOME: Final = ("numpy", "scipy")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    full = commands.add_parser("full", help="make the tree")
    full.add_argument("prefix", type=Path)
    full.add_argument("--uv", default="uv", help="the program uv")
    full.set_defaults(run=lambda options: make(options.prefix, options.uv))
    less = commands.add_parser("reduce", help="leave what one image needs")
    less.add_argument("prefix", type=Path)
    less.add_argument("image", choices=images())
    less.set_defaults(run=lambda options: reduce(options.prefix, [options.image]))
    options = parser.parse_args(arguments)
    options.run(options)


def images() -> list[str]:
    """Names of all images."""
    return list(_table()["images"])


def needs(image: str) -> list[str]:
    """Distributions that the programs of an image import themselves."""
    table = _table()
    return [*table["base"]["needs"], *table["images"][image]["needs"]]


def make(prefix: Path, uv: str) -> None:
    """An environment at `prefix` that holds the lock, our two packages, and no more than images need."""
    if prefix.exists() and any(prefix.iterdir()):
        sys.exit(f"install.py: {prefix} is not empty")
    _make_environment(prefix)
    python = prefix / "bin/python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "--link-mode", "copy"]
    _run([*install, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)])
    with tempfile.TemporaryDirectory() as folder:
        wheels = [_wheel(source, parts, python, Path(folder)) for source, parts in SOURCES.items()]
        _run([*install, "--no-deps", "--no-index", *(str(wheel) for wheel in wheels)])
    _clean(prefix)
    reduce(prefix, images())
    _compile(prefix)
    _age(prefix)


def reduce(prefix: Path, wanted: Iterable[str]) -> None:
    """Removes every distribution that none of the images needs."""
    site = site_packages(prefix)
    there = {_name(one.name): one for one in importlib.metadata.distributions(path=[str(site)])}
    kept = _closure({_name(name) for image in wanted for name in needs(image)}, there, site)
    for name in sorted(there.keys() - kept):
        _remove(there[name], site)
    _remove_empty_folders(site)
    _age(prefix)


def site_packages(prefix: Path) -> Path:
    """Where packages are in the tree."""
    return prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _table() -> dict[str, Any]:
    return tomllib.loads(IMAGES.read_text())


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _epoch() -> int:
    return max(int(os.environ.get("SOURCE_DATE_EPOCH") or EARLIEST), EARLIEST)


def _run(command: list[str], **options: Any) -> None:
    subprocess.run(command, check=True, **options)


def _make_environment(prefix: Path) -> None:
    """What `python -m venv` makes, without the scripts that a shell would read and the way it was made."""
    home = Path(sys.base_prefix) / "bin"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (prefix / "bin").mkdir(parents=True)
    site_packages(prefix).mkdir(parents=True)
    for name in ("python", "python3", f"python{version}"):
        (prefix / "bin" / name).symlink_to(home / f"python{version}")
    (prefix / "pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\nversion = {version}\n"
    )


def _wheel(source: Path, parts: Iterable[str], python: Path, into: Path) -> Path:
    """Built from a copy of what belongs into it: nothing that lies about gets in, nothing is left behind."""
    copy, made = into / source.name, into / f"{source.name}-wheel"
    copy.mkdir()
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / part, copy / part)
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(_epoch())}
    command = [str(python), "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"install.py: {source.name} cannot be built: {done.stderr.strip()}")
    return next(made.glob("*.whl"))


def _clean(prefix: Path) -> None:
    """Only our command stays in bin/; traces of the installation go, and so do tests of others."""
    for script in (prefix / "bin").iterdir():
        if script.name != COMMAND and not script.name.startswith("python"):
            script.unlink()
    site = site_packages(prefix)
    for package in _TESTED_AT_HOME:
        for tests in [path for path in (site / package).rglob("tests") if path.is_dir()]:
            shutil.rmtree(tests)
    for cached in list(site.rglob("__pycache__")):
        shutil.rmtree(cached)
    for record in site.glob("*.dist-info/RECORD"):
        for trace in _TRACES:
            record.with_name(trace).unlink(missing_ok=True)
        lines = record.read_text().splitlines(keepends=True)
        there = [line for line in lines if (site / _path_of(line)).exists()]
        record.write_text("".join(sorted(there)))


def _path_of(line: str) -> str:
    """The path in a line of a RECORD: quoted where it holds a comma."""
    return line[1:].partition('"')[0] if line.startswith('"') else line.partition(",")[0]


def _closure(names: set[str], there: dict[str, importlib.metadata.Distribution], site: Path) -> set[str]:
    """The distributions with these names and all that they need here."""
    sys.path.append(str(site))
    from packaging.requirements import Requirement

    sys.path.remove(str(site))
    # Ours declares what a laptop needs too; what images need of that is in their table.
    ours = {COMMAND}
    kept: set[str] = set()
    pending = [(name, "") for name in names]
    done: set[tuple[str, str]] = set()
    while pending:
        name, extra = pending.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        if name not in there:
            sys.exit(f"install.py: {name} is not in {LOCK.name}")
        kept.add(name)
        for text in there[name].requires or () if name not in ours else ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                pending += [(_name(wanted.name), extra) for extra in ("", *wanted.extras)]
    return kept


def _remove(distribution: importlib.metadata.Distribution, site: Path) -> None:
    for file in distribution.files or ():
        path = site / file
        path.unlink(missing_ok=True)
        if path.suffix == ".py":
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()


def _remove_empty_folders(site: Path) -> None:
    for folder, _, _ in os.walk(site, topdown=False):
        if folder != str(site) and not os.listdir(folder):
            os.rmdir(folder)


def _compile(prefix: Path) -> None:
    """Bytecode beside each module, never looked at for being outdated: the tree does not change.

    In a fresh process with fixed hashes and one after the other: what lies in a .pyc depends on both.
    """
    program = (
        "import compileall, py_compile, sys; compileall.compile_dir(sys.argv[1], quiet=2, maxlevels=99,"
        " invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    environ = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "")}
    # Its answer is not asked for: some packages carry modules for other versions, which are never imported.
    _run(
        [str(prefix / "bin/python"), "-P", "-s", "-S", "-c", program, str(site_packages(prefix))], env=environ
    )


def _age(prefix: Path) -> None:
    """One time and the plainest modes for all."""
    epoch = _epoch()
    for folder, folders, files in os.walk(prefix):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                runs = os.path.isdir(path) or os.stat(path).st_mode & 0o100
                os.chmod(path, 0o755 if runs else 0o644)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.chmod(prefix, 0o755)
    os.utime(prefix, (epoch, epoch))


if __name__ == "__main__":
    main()
