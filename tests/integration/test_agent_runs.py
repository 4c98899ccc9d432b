"""Runs on real PostgreSQL: accepted once, ended once, found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.task_pb2 import AskResponse

from services.agents.runs import Answer, LiveRun, RunFilter
from services.mesh.errors import AlreadyExists, Cancelled, InvalidArgument, NotFound
from tests.integration.agent_runs_rig import GUARD_S, Held, Replica, answer, at_once, new_run, replica


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(GUARD_S):
        yield


@pytest.fixture
async def one(database: str) -> AsyncIterator[Replica]:
    async with replica(database) as made:
        yield made


async def test_an_answer_that_was_given_is_found_again(one: Replica) -> None:
    new = new_run()
    end = await one.runs.answer(new, at_once, limit_s=10)
    assert end.answer(AskResponse) == AskResponse(run_id=new.run_id, answer="because")
    run = await one.store.get("acme", new.run_id)
    assert run is not None
    assert (run.status, run.answer, run.agent_version) == (pb.RUN_STATUS_SUCCEEDED, "because", 3)
    assert run.input["question"] == "why?"
    assert run.ended_at.ToDatetime() >= run.created_at.ToDatetime()
