"""What docs and READMEs say of settings is what the code reads."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from services.agents.settings import AgentsSettings
from services.eta.settings import EtaSettings
from services.feedback.settings import FeedbackSettings
from services.gateway.settings import GatewaySettings
from services.mesh.settings import GrpcSettings, MeshSettings
from services.route.settings import RouteSettings

ROOT = Path(__file__).resolve().parents[2]
# The folder depends on who starts it.
FACTORIES = {"WAYMESH_DATA_DIR": "~/.local/state/waymesh"}


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "none" if value is None else str(value)


def test_every_shared_variable_is_told_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", (ROOT / "docs/settings.md").read_text(), re.M)
    told = {variable: default.strip("`") for variable, default in rows}

    fields = MeshSettings.model_fields.values()
    real = {
        str(field.validation_alias): FACTORIES[str(field.validation_alias)]
        if field.default is PydanticUndefined
        else shown(field.default)
        for field in fields
    }
    assert told == real


@pytest.mark.parametrize(
    "settings", [AgentsSettings, EtaSettings, FeedbackSettings, GatewaySettings, RouteSettings]
)
def test_every_variable_of_a_service_is_in_its_readme(settings: type[MeshSettings]) -> None:
    shared = {*MeshSettings.model_fields, *GrpcSettings.model_fields} - {"port", "admin"}
    own = [field for name, field in settings.model_fields.items() if name not in shared]
    name = settings.__name__.removesuffix("Settings").lower()
    readme = (ROOT / "services" / name / "README.md").read_text()

    assert own
    assert [f.validation_alias for f in own if f"`{f.validation_alias}`" not in readme] == []
