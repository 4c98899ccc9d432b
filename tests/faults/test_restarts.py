"""Restarting every service, and changing keys, under load: nobody notices."""

import os

import pytest

from tests.faults.traffic import Traffic
from tests.faults.up_rig import Up, up

pytestmark = pytest.mark.faults

REQUESTS = int(os.environ.get("WAYMESH_RESTART_REQUESTS", "20000"))
UNLIMITED = {"WAYMESH_RATE_PER_S": "1000000", "WAYMESH_RATE_BURST": "1000000"}
SERVICES = ("eta", "route", "feedback", "gateway")


async def test_restarts_and_key_changes_under_load_fail_no_request() -> None:
    async with up(**UNLIMITED) as mesh:
        pids = {name: entry.pid for name, entry in mesh.state.services.items()}
        async with Traffic(mesh.gateway_port, mesh.key) as traffic:
            rounds = 0
            while len(traffic.answers) < REQUESTS:
                for name in SERVICES:
                    await traffic.more(50)
                    code, _, err = await mesh.run("restart", name)
                    assert code == 0, err
                    await a_key_comes_and_goes(mesh, f"partner-{rounds}-{name}")
                rounds += 1
        failed = [answer.told() for answer in traffic.answers if not answer.taken]
        assert failed == []
        assert len(traffic.answers) >= REQUESTS
        now = {name: entry.pid for name, entry in mesh.state.services.items()}
        assert all(now[name] != pids[name] for name in SERVICES)
        print(f"{len(traffic.answers)} requests, {rounds * len(SERVICES)} restarts and key changes, 0 failed")


async def a_key_comes_and_goes(mesh: Up, name: str) -> None:
    """A new key is used while it lives; both changes happen beside the traffic."""
    code, key, err = await mesh.run("keys", "add", name, "--rate", "1000000", "--burst", "1000000")
    assert code == 0, err
    async with Traffic(mesh.gateway_port, key.strip(), connections=1) as traffic:
        await traffic.more(20)
    assert [answer.told() for answer in traffic.answers if not answer.taken] == []
    code, _, err = await mesh.run("keys", "revoke", name)
    assert code == 0, err
