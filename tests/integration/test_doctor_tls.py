"""`waymesh doctor` about a mesh with certificates, by who may ask and by who may not."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.environment import GATEWAY_ADMIN
from tests.certificates import Authority, Paths
from tests.faults.up_rig import WAYMESH, Up, up
from tools.ports import free_ports

pytestmark = pytest.mark.faults
SERVICES = ("eta", "route", "feedback", "agents", "gateway")


async def asked(mesh: Up, **variables: str) -> dict[str, list[dict[str, Any]]]:
    """What it says, by check."""
    process = await asyncio.create_subprocess_exec(
        *WAYMESH, "doctor", "--json", env={**mesh.environ, **variables}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found: dict[str, list[dict[str, Any]]] = {}
    for line in out.decode().splitlines():
        row = json.loads(line)
        found.setdefault(row["check"], []).append(row)
    return found


async def test_the_operator_sees_all_and_a_stranger_is_told_that_he_is_one(tmp_path: Path) -> None:
    authority, folder = Authority(), tmp_path / "tls"
    for name in (*SERVICES, "operator", "billing"):
        authority.issue(name).write(folder / name)
    authority.issue("eta", uris=("spiffe://other/eta",)).write(folder / "foreign")
    [admin_port] = free_ports(1)
    variables = {**Paths(folder / "{service}").variables, GATEWAY_ADMIN.variable: str(admin_port)}
    async with up(**variables) as mesh:
        found = await asked(mesh)
        assert found["certificate"][0]["found"].startswith(
            "spiffe://waymesh.test/ns/waymesh/sa/operator, until"
        )
        for name in SERVICES:
            last = found[name][-1]
            assert (last["state"], last["remedy"]) == ("ok", ""), last
        for name in SERVICES:
            assert f"shows spiffe://waymesh.test/ns/waymesh/sa/{name}, until" in found[name][0]["found"]

        found = await asked(mesh, **Paths(folder / "billing").variables)
        stranger = found["certificate"][-1]
        assert (stranger["state"], stranger["found"]) == (
            "warn",
            "services let billing ask for their health alone",
        )
        assert "certificate of the operator" in stranger["remedy"]
        assert found["eta"][-1]["state"] == "ok"
        refused = found["gateway"][-1]
        assert refused["state"] == "fail"
        assert "does not let this certificate in (403)" in refused["found"]

        found = await asked(mesh, **Paths(folder / "foreign").variables)
        for name in SERVICES:
            shown = found[name][0]
            assert shown["state"] == "fail"
            assert shown["found"].endswith("the certificate here is of another mesh: spiffe://other/eta")
            assert shown["remedy"].startswith("use a certificate of spiffe://waymesh.test/ns/waymesh/sa/ ")
