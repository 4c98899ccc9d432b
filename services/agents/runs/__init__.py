"""Runs: kept in the store, live in a process, followed by streams."""

from services.agents.runs.endings import Account, Answer
from services.agents.runs.lease import Lease
from services.agents.runs.live import LiveRuns, Work
from services.agents.runs.live_run import LiveRun
from services.agents.runs.record import Accepted, Ended, NewRun, Place, RunEnd, RunFilter, key_of, unknown
from services.agents.runs.retention import Retention
from services.agents.runs.store import RunStore
from services.agents.runs.streams import RunStreams
from services.agents.runs.sweeper import Sweeper

__all__ = [
    "Accepted",
    "Account",
    "Answer",
    "Ended",
    "Lease",
    "LiveRun",
    "LiveRuns",
    "NewRun",
    "Place",
    "Retention",
    "RunEnd",
    "RunFilter",
    "RunStore",
    "RunStreams",
    "Sweeper",
    "Work",
    "key_of",
    "unknown",
]
