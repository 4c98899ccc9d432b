"""How a mesh ends, and what a crash under it looks like: nothing is left over, and everything is said."""

import os
import signal

import pytest

from tests.faults.up_rig import a_folder, gone, living_off, up
from tests.integration.gateway_rig import Client

pytestmark = pytest.mark.faults


async def test_a_crashed_service_is_started_again_and_both_are_said() -> None:
    async with up() as mesh:
        for turn in (1, 2):
            pid = mesh.state.services["eta"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            line = await mesh.until_line(r" eta +crashed ", times=turn)
            assert "killed by SIGKILL; starts again in 0." in line
            await mesh.until_line(r" eta +ready ", times=turn + 1)
        waits = [line.split("again in ")[1] for line in mesh.lines if " crashed " in line]
        assert waits == ["0.1 s", "0.5 s"]


async def test_a_killed_database_is_started_again_and_both_are_said() -> None:
    async with up() as mesh:
        pid = mesh.state.postgres_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await mesh.until_line(r" postgres +crashed ")
        await mesh.until_line(r" postgres +ready ", times=2)


@pytest.mark.parametrize("moment", [r" postgres +ready ", r" feedback +starting", r" gateway +starting"])
async def test_ctrl_c_while_starting_leaves_nothing(moment: str) -> None:
    async with up(ready=False) as mesh:
        await mesh.until_line(moment)
        assert living_off(mesh.folder)
        mesh.send(signal.SIGINT)
        assert await mesh.wait() == 0
        assert living_off(mesh.folder) == []
        assert not any("Traceback" in line for line in mesh.lines)


async def test_a_second_ctrl_c_does_not_wait() -> None:
    async with up(WAYMESH_DRAIN_S="600") as mesh:
        processes = mesh.processes()
        mesh.send(signal.SIGINT)
        await mesh.until_line("once more stops at once")
        mesh.send(signal.SIGINT)
        assert await mesh.wait() == 0
        await gone(processes)


async def test_what_a_killed_mesh_leaves_ends_and_the_next_one_goes_on_with_its_data() -> None:
    with a_folder() as folder:
        async with up(folder=folder) as mesh:
            key = mesh.key
            client = Client(mesh.gateway_port)
            order = {
                "order_id": "order-1",
                "revision": 1,
                "status": "placed",
                "pickup": {"lat": 41.39, "lon": 2.16},
                "dropoff": {"lat": 41.4, "lon": 2.17},
                "placed_at": "2024-08-28T10:30:00Z",
            }
            assert (await client.task("upsert_orders", {"orders": [order]}, key=key)).status == 200
            await client.close()
            services = [entry.pid for entry in mesh.state.services.values()]
            processes = [each for each in mesh.processes() if each.pid in services]
            mesh.send(signal.SIGKILL)
            await mesh.wait()
            await gone(processes)
        async with up(folder=folder) as mesh:
            client = Client(mesh.gateway_port)
            found = await client.task("get_order", {"order_id": "order-1"}, key=key)
            assert found.json["result"]["order"]["status"] == "placed"
            await client.close()
