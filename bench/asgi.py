"""What the gateway's HTTP stands on, beside what it could stand on: the ASGI server, and a layer over ASGI.

wrk (a system package: apt-get install wrk, or brew install wrk) sends a thousand different fixes as JSON, at
1 and at 32 connections. A bare ASGI app of a few lines reads each and writes it back, served by

  uvicorn    with httptools and uvloop
  granian    in ASGI mode, on uvloop too
  listener   the gateway's own: uvicorn's connection, with the bounds, the drain and the cancel it lacks

and uvicorn serves

  starlette  whose route, request and JSON response do the same: what such a layer costs

One worker each. Rounds are interleaved. Prints the medians of requests a second and of the CPU time of a
request (of all processes and threads of a server; wrk left out), then the median of the rounds' ratios to
uvicorn with the bare app.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from bench import _fixes
from bench._command import command
from bench._servers import Servers, program
from bench._wrk import Peer, compare, medians, options, ratios, require
from tools.ports import free_ports


def peers(servers: Servers, folder: Path) -> list[Peer]:
    """uvicorn with the bare app first."""
    ports = free_ports(4)
    bodies = _fixes.write(folder).task
    uvicorn = (
        *(program("uvicorn"), "--http", "httptools", "--loop", "uvloop", "--lifespan", "off"),
        *("--no-access-log", "--log-level", "warning", "--port"),
    )
    granian = (
        *(program("granian"), "--interface", "asginl", "--http", "1", "--loop", "uvloop", "--workers", "1"),
        *("--no-ws", "--no-access-log", "--log-level", "warning", "--port"),
    )
    commands = {
        "uvicorn": (*uvicorn, str(ports[0]), "bench._asgi_apps:bare"),
        "granian": (*granian, str(ports[1]), "bench._asgi_apps:bare"),
        "listener": (sys.executable, "-m", "bench._asgi_listener", str(ports[2])),
        "starlette": (*uvicorn, str(ports[3]), "bench._asgi_apps:starlette"),
    }
    return [
        Peer(name, f"http://127.0.0.1:{port}/echo", bodies, servers.start(name, *command))
        for (name, command), port in zip(commands.items(), ports, strict=True)
    ]


def main() -> None:
    parser = command("asgi", __doc__)
    options(parser)
    arguments = parser.parse_args()
    require()
    rounds = max(5, arguments.rounds)
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        uvicorn, *others = found = peers(servers, Path(name))
        compare(found, Path(name), rounds=rounds, seconds=arguments.seconds)
    measured = medians(found)
    against = ratios((other, uvicorn) for other in others)
    figures = {"ratios": against["requests_per_s"], "cpu_ratios": against["cpu_per_request"]}
    print(json.dumps({"rounds": rounds, "peers": measured, **figures}))


if __name__ == "__main__":
    main()
