"""wrk against HTTP servers that stand beside each other: requests a second, and CPU time of a request."""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from bench.__main__ import SKIPPED

CONNECTIONS: Final = (1, 32)
_JSON: Final = {"Content-Type": "application/json"}
_WARM_S: Final = 1
_READY_S: Final = 30.0


@dataclass(slots=True)
class Peer:
    """Who answers, where, and which bodies it is sent in turn; then what was measured, by connections."""

    name: str
    url: str
    bodies: Path
    """One a line."""
    process: psutil.Process
    """Its children count too."""
    headers: Mapping[str, str] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Requests a second of each round."""
    cpu_us: dict[int, list[float]] = field(default_factory=dict)
    """CPU time of a request of each round, user and system."""
    requests: int = 0
    """All that were answered, those before the rounds too."""

    def wait(self) -> None:
        """Until it answers its first body. Ends the bench if it does not."""
        with self.bodies.open("rb") as bodies:
            request = urllib.request.Request(self.url, bodies.readline(), {**_JSON, **self.headers})
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(request, timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"{self.name} does not answer at {self.url}")


def options(parser: argparse.ArgumentParser) -> None:
    """What can be said of the rounds."""
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 5")
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")


def require() -> None:
    """Ends a bench on a machine without wrk, saying how to get it."""
    if shutil.which("wrk") is None:
        print(
            "not run: wrk is missing; apt-get install wrk (Debian, Ubuntu), brew install wrk (macOS)",
            file=sys.stderr,
        )
        sys.exit(SKIPPED)


def compare(peers: Sequence[Peer], folder: Path, *, rounds: int, seconds: int) -> None:
    """Measures every peer at each number of connections, `rounds` times, forth and back in turn."""
    for peer in peers:
        peer.wait()
    scripts = {peer.name: _script(peer, folder) for peer in peers}
    for connections in CONNECTIONS:
        for peer in peers:
            _run(peer, scripts[peer.name], connections, _WARM_S)
        for n in range(rounds):
            for peer in peers if n % 2 == 0 else peers[::-1]:
                rate, cpu_us = _run(peer, scripts[peer.name], connections, seconds)
                peer.rates.setdefault(connections, []).append(rate)
                peer.cpu_us.setdefault(connections, []).append(cpu_us)


def medians(peers: Iterable[Peer]) -> dict[str, Any]:
    """Printed, and for the JSON line: by peer and number of connections."""
    found: dict[str, Any] = {}
    for peer in peers:
        for c in CONNECTIONS:
            rate, cpu_us = (
                round(statistics.median(peer.rates[c])),
                round(statistics.median(peer.cpu_us[c]), 1),
            )
            found.setdefault(peer.name, {})[f"{c}"] = {"requests_per_s": rate, "cpu_us_per_request": cpu_us}
            print(f"{peer.name:10} {c:3} connections: {rate:6} requests/s, {cpu_us:6} µs CPU a request")
    return found


def ratios(pairs: Iterable[tuple[Peer, Peer]]) -> dict[str, dict[str, float]]:
    """Printed, and for the JSON line: the median of the rounds' ratios, one peer over the other."""
    found: dict[str, dict[str, float]] = {"requests_per_s": {}, "cpu_per_request": {}}
    for one, other in pairs:
        for c in CONNECTIONS:
            name = f"{one.name}/{other.name} at {c}"
            rate = found["requests_per_s"][name] = _ratio(one.rates[c], other.rates[c])
            cpu = found["cpu_per_request"][name] = _ratio(one.cpu_us[c], other.cpu_us[c])
            print(f"{name:28} {rate:.3f} of the requests/s, {cpu:.3f} of the CPU")
    return found


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def _script(peer: Peer, folder: Path) -> Path:
    headers = "\n".join(
        f'wrk.headers["{name}"] = "{value}"' for name, value in {**_JSON, **peer.headers}.items()
    )
    script = folder / f"{peer.name}.lua"
    script.write_text(
        f"""
local bodies = {{}}
for line in io.lines("{peer.bodies}") do bodies[#bodies + 1] = line end
wrk.method = "POST"
{headers}
local n = 0
request = function()
  n = n % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[n])
end
"""
    )
    return script


def _run(peer: Peer, script: Path, connections: int, seconds: int) -> tuple[float, float]:
    """Requests a second, and µs of CPU a request. Ends the bench if any request fails."""
    before = _cpu_s(peer.process)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), peer.url],
        capture_output=True,
        text=True,
        check=True,
    )
    spent_s = _cpu_s(peer.process) - before
    total = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", done.stdout)
    if total is None or rate is None or failed is not None:
        sys.exit(f"{peer.name}: {failed.group(0) if failed else done.stdout}")
    peer.requests += int(total[1])
    return float(rate[1]), spent_s / int(total[1]) * 1e6


def _cpu_s(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)
