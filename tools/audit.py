"""`make audit`: whether a package of the locks has a known vulnerability, by pip-audit.

    python tools/audit.py [--osv-url URL] LOCK…

Exit code 0: every package was asked about and none has one. 1: some have. 2: it is not known, because no
service could be asked about all of them: pip-audit alone says "No known vulnerabilities found" then.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_KNOWN, _UNKNOWN = 1, 2
_TIMEOUT_S: Final = 600


@dataclass
class Findings:
    """Of one service about one lock."""

    asked: int = 0
    vulnerable: list[str] = field(default_factory=list)
    """A line for each vulnerability."""
    unasked: list[str] = field(default_factory=list)
    """Packages that the service says nothing about."""
    trouble: str = ""
    """Why it could not be asked at all."""

    @property
    def answered(self) -> bool:
        return not self.trouble and not self.unasked


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locks", nargs="+", type=Path, metavar="LOCK")
    parser.add_argument("--osv-url", help="ask this service of OSV's protocol alone")
    options = parser.parse_args()
    services = (["osv", "--osv-url", options.osv_url],) if options.osv_url else (["pypi"], ["osv"])
    return max(_look(lock, services) for lock in options.locks)


def _look(lock: Path, services: tuple[list[str], ...]) -> int:
    """Asks one service after the other, until one knows every package."""
    everything = [(service[0], _ask(lock, service)) for service in services]
    name, found = next(((name, one) for name, one in everything if one.answered), everything[0])
    if found.vulnerable:
        print(f"{lock}: {len(found.vulnerable)} known vulnerabilities (asked: {name})")
        print("\n".join(f"  {line}" for line in found.vulnerable))
        return _KNOWN
    if found.answered:
        print(f"{lock}: {found.asked} packages, none with a known vulnerability (asked: {name})")
        return 0
    print(f"{lock}: NOT KNOWN, no service could be asked about every package")
    for name, one in everything:
        print(f"  {name}: {one.trouble or _some(one.unasked)}")
    return _UNKNOWN


def _some(names: list[str]) -> str:
    return f"says nothing of {len(names)} packages: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


def _ask(lock: Path, service: list[str]) -> Findings:
    program = Path(sys.executable).with_name("pip-audit")
    command = [
        str(program),
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--require-hashes",
        "--disable-pip",
    ]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(lock), "--vulnerability-service", *service],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Findings(trouble=f"no answer within {_TIMEOUT_S} s")
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        return Findings(trouble=said[-1][:200] if said else f"pip-audit ended with {done.returncode}")
    found = Findings()
    for package in told["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            found.unasked.append(name)
            continue
        found.asked += 1
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            found.vulnerable.append(f"{name}: {one['id']}, mended in {fixed}")
    return found


if __name__ == "__main__":
    sys.exit(main())
