"""Which failed calls are tried again, when, and how many of them a target is asked to bear.

Full jitter after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015); the budget is the token
bucket of gRFC A6 (retry throttling), in which only successes pay in: in an outage it runs dry.
"""

import random
from dataclasses import dataclass
from typing import Final

import grpc
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_DRAINING, ERROR_REASON_MESSAGE_TOO_LARGE

from services.mesh import errors

# Repeated if the server itself says when, by RetryInfo.
_ON_REQUEST: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED})
# A new connection is made in less, in seconds.
_HAND_OVER_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `retries` after the first attempt, the n-th after a wait in 0..min(cap_s, 2^(n−1)) s.

    `ratio` tokens come in per success, one goes out per retry, `tokens` are there at the start and at most.
    Load in an outage of N calls is therefore below 1 + ratio·(share that succeeds) + tokens / N.
    """

    retries: int = 3
    cap_s: float = 16.0
    ratio: float = 0.09
    tokens: float = 10.0

    def wait_s(self, n: int, rng: random.Random) -> float:
        """Seconds before the n-th retry, n from 1."""
        return rng.uniform(0.0, min(self.cap_s, 2.0 ** (n - 1)))

    def hand_over_s(self, n: int, rng: random.Random) -> float:
        """The same for a call that a stopping server refused unread: its successor is there already."""
        return rng.uniform(0.0, _HAND_OVER_S * 2.0 ** (n - 1))


def retryable(error: errors.MeshError) -> bool:
    """Whether the same call may succeed if it is made again soon."""
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return True
    if error.reason == ERROR_REASON_MESSAGE_TOO_LARGE:
        return False
    return error.code in _ON_REQUEST and error.from_peer and error.retry_after_s is not None


def refused_unread(error: errors.MeshError) -> bool:
    """Whether a server on its way out sent the call back before any handler saw it.

    Trying again elsewhere adds no load, so it takes no token.
    """
    return error.reason == ERROR_REASON_DRAINING and not error.from_peer


def asked_wait_s(error: errors.MeshError) -> float | None:
    """What the server's RetryInfo asks for, in seconds. It wins over the wait of the policy."""
    return error.retry_after_s if error.from_peer else None


class RetryBudget:
    """Tokens of one target."""

    __slots__ = ("_policy", "_tokens")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tokens = policy.tokens

    @property
    def tokens(self) -> float:
        """Retries that may be made now, with a fraction."""
        return self._tokens

    def success(self) -> None:
        """A call succeeded at its first attempt."""
        self._tokens = min(self._policy.tokens, self._tokens + self._policy.ratio)

    def spend(self) -> bool:
        """Takes a token for one retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
