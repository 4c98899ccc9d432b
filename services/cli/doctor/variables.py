"""Variables that somebody has set and nobody reads: misspelt ones, above all."""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Final

from services.cli.doctor.finding import Finding, warn

_PREFIX: Final = "WAYMESH_"
# Read by others than services: commands, examples, benches and tests, and the collector of traces.
OF_OTHERS: Final = frozenset(
    {
        "WAYMESH_API_KEY",
        "WAYMESH_BENCH_DATA",
        "WAYMESH_ENVIRONMENT",
        "WAYMESH_EXAMPLES",
        "WAYMESH_GATEWAY",
        "WAYMESH_GATEWAY_TARGET",
        "WAYMESH_KAFKA_CACHE",
        "WAYMESH_REQUIRE_COLLECTOR",
        "WAYMESH_REQUIRE_KAFKA",
        "WAYMESH_REQUIRE_PROMETHEUS",
        "WAYMESH_RESTART_REQUESTS",
    }
)
# What Kubernetes tells its pods of a Service whose name begins as ours do.
_OF_KUBERNETES: Final = re.compile(r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")


def unread(environ: Iterable[str], of_services: Collection[str]) -> list[Finding]:
    """One for each, with the name that was meant where one is near."""
    known = OF_OTHERS.union(of_services)
    return [
        warn("settings", f"nothing reads {name}", _remedy(name, known))
        for name in sorted(environ)
        if name.startswith(_PREFIX) and name not in known and _OF_KUBERNETES.fullmatch(name) is None
    ]


def _remedy(name: str, known: Iterable[str]) -> str:
    # What they have in common tells none apart; and the nearest may be one without it.
    meant = {each.removeprefix(_PREFIX): each for each in known}
    near = get_close_matches(name.removeprefix(_PREFIX), meant, n=1)
    if near:
        return f"if {meant[near[0]]} is meant, call it so; else remove it"
    return "remove it, or see docs/settings.md and the README of its service for what it is called"
