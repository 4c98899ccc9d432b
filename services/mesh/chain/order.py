"""The links of both sides, outermost first, and why each stands where it stands."""

from collections.abc import Sequence
from typing import Final, NamedTuple


class Place(NamedTuple):
    """`link` comes somewhere before each of `outside_of`, because."""

    link: str
    outside_of: tuple[str, ...]
    because: str


SERVER: Final = (
    "request_id",
    "peer",
    "principal",
    "trace",
    "metrics",
    "log",
    "errors",
    "admission",
    "scope",
    "deadline",
    "validation",
)
# Of a server whose handlers know things by qualified ids.
QUALIFIED: Final = (*SERVER, "tenancy")
CLIENT: Final = ("trace", "request_id", "principal", "metrics", "breaker", "retry", "deadline", "errors")

SERVER_REASONS: Final = (
    Place("request_id", ("trace", "log"), "spans and lines carry the id"),
    Place("peer", ("principal",), "who calls decides whether it is believed for whom"),
    Place("errors", ("admission",), "who may not call is told so like of any other error"),
    Place("admission", ("deadline", "validation"), "who may not call learns nothing else"),
    Place("principal", ("errors", "deadline", "validation"), "what goes wrong goes wrong for somebody"),
    Place("trace", ("metrics", "log", "errors"), "every line below names the trace, the log's own too"),
    Place("metrics", ("errors", "deadline", "validation"), "rejected calls are counted with their code"),
    Place("log", ("errors", "deadline", "validation"), "rejected calls are logged with their code"),
    Place(
        "errors", ("scope", "deadline", "validation"), "what these raise becomes a status as any error does"
    ),
    Place("principal", ("scope",), "it is for the principal to have the scope"),
    Place("scope", ("validation",), "who may not call is not told what is wrong with the request"),
    Place("deadline", ("validation",), "a call without time left is not worth checking"),
    Place("principal", ("tenancy",), "ids are qualified for whom the call is made"),
    Place("errors", ("tenancy",), "one tenant's thing in another's answer becomes a fault like any other"),
    Place("validation", ("tenancy",), "the rules are about ids as the caller gave them"),
)
CLIENT_REASONS: Final = (
    Place("trace", ("breaker", "retry"), "a refused call has its span, and all attempts share one"),
    Place("trace", ("request_id",), "the span carries the id"),
    Place("request_id", ("retry",), "all attempts are one request"),
    Place("principal", ("retry",), "all attempts are made for the same"),
    Place("metrics", ("breaker", "retry"), "what the caller waited for is counted, refusals too"),
    Place("breaker", ("retry",), "a call is one outcome, however often it was tried"),
    Place("retry", ("deadline",), "each attempt gets what is left then, not what was left at first"),
    Place("retry", ("errors",), "whether to retry is read from typed errors"),
    Place("deadline", ("errors",), "the transport's deadline becomes a typed error before it is judged"),
)


def require(names: Sequence[str], expected: Sequence[str], reasons: Sequence[Place]) -> None:
    """Raises AssertionError, with the reason, if the links are not the expected ones in their order."""
    for place in reasons:
        for inner in place.outside_of:
            if place.link in names and inner in names and names.index(place.link) > names.index(inner):
                raise AssertionError(f"{place.link} must stand outside of {inner}: {place.because}")
    if tuple(names) != tuple(expected):
        raise AssertionError(f"the links are {', '.join(names)}; expected are {', '.join(expected)}")
