"""waymesh-contracts is all that a client needs: it installs and works alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = """
import sys
from waymesh.eta.v1 import eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1 import feedback_service_pb2_grpc
from waymesh.gps.v1 import gps_pb2
from waymesh.mesh.v1 import degradation_pb2, error_reason_pb2
from waymesh.order.v1 import events_pb2
from waymesh.route.v1 import route_service_pb2_grpc
from waymesh.task.v1 import task_pb2

event = gps_pb2.GpsEvent(driver_id="driver_123", trip_stage=gps_pb2.TRIP_STAGE_IDLE)
request = gps_stream_pb2.ReportGpsRequest(event=event)
assert gps_stream_pb2.ReportGpsRequest.FromString(request.SerializeToString()) == request
assert "services" not in sys.modules
print("ok")
"""


def _build_tool() -> list[str]:
    own = ROOT / ".tools" / "uv" / "bin" / "uv"
    return [str(own) if own.exists() else "uv"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [*_build_tool(), "build", "--quiet", "--wheel", "--out-dir", str(out), str(ROOT / "gen" / "python")],
        check=True,
    )
    return next(out.glob("waymesh_contracts-*.whl"))


def test_contracts_install_and_import_alone_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    env = tmp_path / "client"
    uv = _build_tool()
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(env)], check=True)
    python = env / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), str(wheel)], check=True)
    done = subprocess.run(
        [str(python), "-c", CLIENT], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == "ok\n"


def test_the_wheel_holds_stubs_with_types_and_nothing_of_the_services(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "waymesh/eta/v1/eta_service_pb2_grpc.pyi" in names
    assert "waymesh/py.typed" in names
    assert not [name for name in names if name.startswith("services")]
