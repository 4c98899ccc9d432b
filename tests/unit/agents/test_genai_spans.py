"""Metrics and names of spans, which are kept for ever: only what we know is in them, whatever agents name."""

import pytest
from pydantic import SecretStr

from services.agents.llm import LanguageModels, ModelRequest, ModelsConfig, ModelSettings, Prices
from services.agents.spans import GenAi
from services.mesh.telemetry import Telemetry

MODELS = LanguageModels(
    ModelsConfig(
        SecretStr(""), model="own", fallback_models=("spare",), prices=Prices.built_in({"priced": (1.0, 2.0)})
    )
)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("own", "own"),
        ("spare", "spare"),
        ("priced", "priced"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("priced-2031-01-01", "priced"),
        ("priced-2031-01-02", "priced"),
        ("made-up-by-a-tenant", "other"),
        ("made-up-2031-01-01", "other"),
    ],
)
def test_a_model_is_named_if_it_is_configured_or_has_a_price(model: str, name: str) -> None:
    assert MODELS.named(model) == name


def test_labels_are_no_more_than_models_that_are_known() -> None:
    telemetry = Telemetry("test")
    spans = GenAi(telemetry, named=MODELS.named)
    for number in range(50):
        with spans.chat(ModelRequest(messages=(), settings=ModelSettings(model=f"made-up-{number}"))):
            pass
    asked = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "other", "error_type": ""}
    count = telemetry.registry.get_sample_value("gen_ai_client_operation_duration_seconds_count", asked)
    assert count == 50
