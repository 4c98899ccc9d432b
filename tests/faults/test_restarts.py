"""Restarting every service, and changing keys, under load: nobody notices."""

import os

import pytest

from tests.faults.restarting import SERVICES, restart_all
from tests.faults.up_rig import UNLIMITED, up

pytestmark = pytest.mark.faults

# About what one round of restarts takes; `python -m bench.restarts` asks for 20,000, without a pause.
REQUESTS = int(os.environ.get("WAYMESH_RESTART_REQUESTS", "1000"))


async def test_restarts_and_key_changes_under_load_fail_no_request() -> None:
    async with up(**UNLIMITED) as mesh:
        pids = {name: entry.pid for name, entry in mesh.state.services.items()}
        tally = await restart_all(mesh, REQUESTS)
        assert [answer.told() for answer in tally.failed] == []
        assert len(tally.answers) >= REQUESTS
        now = {name: entry.pid for name, entry in mesh.state.services.items()}
        assert all(now[name] != pids[name] for name in SERVICES)
        print(f"{len(tally.answers)} requests, {tally.restarts} restarts, {tally.key_changes} key changes")
