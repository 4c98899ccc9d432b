"""Every way an attempt can fail, whether the same model is asked again, and what it says of its health.

| kind             | again | health  | why                                                        |
|------------------|-------|---------|------------------------------------------------------------|
| rate_limited     | yes   | failure | it has room again soon; who goes on asking makes it worse  |
| quota            | no    | failure | waiting does not bring money back                          |
| server_error     | yes   | failure | 5xx, 408 and 409 pass                                      |
| connection       | yes   | failure | resets pass; what was not answered may be asked again      |
| timeout          | yes   | failure | while its share of time lasts                              |
| malformed        | yes   | failure | what is no answer comes from a server or proxy in trouble  |
| schema_violation | once  | none    | who fails twice does not know the shape                    |
| truncated        | no    | none    | the same limit cuts the same answer                        |
| oversized        | no    | none    | it would go on and on again                                |
| content_filter   | no    | none    | the same words meet the same filter again                  |
| refusal          | no    | none    | the same                                                   |
| context_too_long | no    | none    | another model may take more                                |
| bad_request      | no    | none    | the same is wrong again; another model may take it         |
| unauthorized     | no    | none    | 401, 403: the key's fault; it costs nothing to hear so     |
| not_found        | no    | none    | 404: the name's fault; an agent may name what is not there |
| breaker_open     | no    | none    | it failed five times in a row                              |
| budget           | no    | none    | nothing was sent; a cheaper model may still fit            |
| price_unknown    | no    | none    | a budget in money cannot be kept without a price           |
| busy             | no    | none    | all our own places were taken until the time was up        |
| out_of_time      | no    | none    | too little time was left to ask                            |
| internal         | no    | none    | a fault of ours                                            |

Health `none` neither counts nor resets in the breaker; a timeout counts only if the time was as long as the
model usually takes. A header `x-should-retry` of the server goes before the second column.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.agents.llm.reply import Tokens
from services.mesh import errors


class ErrorKind(StrEnum):
    """Why an attempt came to nothing."""

    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    SERVER_ERROR = "server_error"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    SCHEMA_VIOLATION = "schema_violation"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    CONTEXT_TOO_LONG = "context_too_long"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    BREAKER_OPEN = "breaker_open"
    BUDGET = "budget"
    PRICE_UNKNOWN = "price_unknown"
    BUSY = "busy"
    OUT_OF_TIME = "out_of_time"
    INTERNAL = "internal"


MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """`tries` of one model at most; `health`: how the breaker sees it; `shown`: in words, to a caller."""

    shown: str
    tries: int = 1
    health: type[errors.MeshError] = errors.FailedPrecondition


RULES: Final[Mapping[ErrorKind, Rule]] = {
    ErrorKind.RATE_LIMITED: Rule("rate limited", MAX_TRIES, errors.ResourceExhausted),
    ErrorKind.QUOTA: Rule("quota used up", health=errors.ResourceExhausted),
    ErrorKind.SERVER_ERROR: Rule("server error", MAX_TRIES, errors.Unavailable),
    ErrorKind.CONNECTION: Rule("connection failed", MAX_TRIES, errors.Unavailable),
    ErrorKind.TIMEOUT: Rule("timed out", MAX_TRIES, errors.DeadlineExceeded),
    ErrorKind.MALFORMED: Rule("malformed answer", MAX_TRIES, errors.DataLoss),
    ErrorKind.SCHEMA_VIOLATION: Rule("answer not in the wanted shape", 2),
    ErrorKind.TRUNCATED: Rule("answer cut short"),
    ErrorKind.OVERSIZED: Rule("answer too large"),
    ErrorKind.CONTENT_FILTER: Rule("content filtered"),
    ErrorKind.REFUSAL: Rule("refused"),
    ErrorKind.CONTEXT_TOO_LONG: Rule("context too long"),
    ErrorKind.BAD_REQUEST: Rule("request rejected"),
    ErrorKind.UNAUTHORIZED: Rule("not authorized"),
    ErrorKind.NOT_FOUND: Rule("unknown model"),
    ErrorKind.BREAKER_OPEN: Rule("left alone after failures"),
    ErrorKind.BUDGET: Rule("budget used up"),
    ErrorKind.PRICE_UNKNOWN: Rule("price unknown, so no budget can be kept"),
    ErrorKind.BUSY: Rule("too many calls under way"),
    ErrorKind.OUT_OF_TIME: Rule("no time left"),
    ErrorKind.INTERNAL: Rule("internal error"),
}


class CallError(Exception):
    """One call came to nothing. `message` holds statuses and codes alone.

    `should_retry`: what the server said of it, if anything. `unbilled`: surely nothing was charged. `tokens`:
    what it took, once that is known. `sent`: whether a call was made at all.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        unbilled: bool = False,
    ) -> None:
        super().__init__(message or RULES[kind].shown)
        self.kind = kind
        self.message = message or RULES[kind].shown
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.unbilled = unbilled
        self.sent = False
        self.tokens = Tokens()

    @property
    def tries(self) -> int:
        """How often one model is asked at most when it fails like this."""
        if self.should_retry is None:
            return RULES[self.kind].tries
        return MAX_TRIES if self.should_retry else 1

    def for_breaker(self) -> errors.MeshError:
        """The same as the breaker judges it."""
        return RULES[self.kind].health(self.kind)
