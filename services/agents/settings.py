"""Settings of agents, beyond those all services share."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr, model_validator
from pydantic_settings import NoDecode

from services.mesh.settings import Disagreement, GrpcSettings, HttpUrl, Port

_DAY_USD: Final = 1_000_000.0
_DAY_TOKENS: Final = 2_000_000_000
_MODEL: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,128}")  # no blank, no comma

# A model's price in US dollars for a million tokens, in and out.
Price = tuple[float, float]


def _models(value: object) -> object:
    """`a,b` as the names it lists."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _are_models(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > 8 or any(_MODEL.fullmatch(name) is None for name in names):
        raise ValueError("not names of models")
    return names


def _prices(value: object) -> Mapping[str, Price]:
    try:
        given = json.loads(value) if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise TypeError
        return {str(model): _price(pair) for model, pair in given.items()}
    except (ValueError, TypeError):
        allowed = 'JSON such as {"gpt-4.1-mini": [0.4, 1.6]}: US dollars for a million tokens, in and out'
        raise Disagreement("WAYMESH_MODEL_PRICES", value, allowed) from None


def _price(pair: Any) -> Price:
    inwards, outwards = (float(each) for each in pair)
    if not (0 <= inwards <= _DAY_USD and 0 <= outwards <= _DAY_USD):
        raise ValueError
    return inwards, outwards


Models = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_models),
    AfterValidator(_are_models),
    Field(description="at most 8 names of models, with commas between them"),
]
Prices = Annotated[Mapping[str, Price], NoDecode, PlainValidator(_prices)]


class AgentsSettings(GrpcSettings):
    """What agents reads from the environment, once."""

    service: ClassVar[str] = "agents"
    admin_place: ClassVar[int] = 3

    port: Port = Field(50054, validation_alias="WAYMESH_AGENTS_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_AGENTS_ADMIN_PORT")

    # Without a key no model is asked: the engines answer.
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: HttpUrl | None = Field(None, validation_alias="OPENAI_BASE_URL")
    openai_model: str = Field("gpt-4.1-mini", validation_alias="OPENAI_MODEL", min_length=1, max_length=128)
    openai_fallback_models: Models = Field((), validation_alias="OPENAI_FALLBACK_MODELS")
    temperature: float = Field(0.3, validation_alias="WAYMESH_MODEL_TEMPERATURE", ge=0, le=2)
    max_output_tokens: int = Field(2000, validation_alias="WAYMESH_MODEL_MAX_TOKENS", ge=1, le=100_000)
    model_timeout_s: float = Field(30.0, validation_alias="WAYMESH_MODEL_TIMEOUT_S", gt=0, le=60)
    model_prices: Prices = Field(default_factory=dict, validation_alias="WAYMESH_MODEL_PRICES")
    model_concurrency: int = Field(64, validation_alias="WAYMESH_MODEL_CONCURRENCY", ge=1, le=10_000)
    cache_mib: int = Field(32, validation_alias="WAYMESH_MODEL_CACHE_MIB", ge=0, le=4096)
    cache_ttl_s: float = Field(300.0, validation_alias="WAYMESH_MODEL_CACHE_TTL_S", ge=0, le=86_400)

    # Of one tenant, deleted ones and those built in not counted: each process keeps all in memory.
    max_agents: int = Field(1000, validation_alias="WAYMESH_MAX_AGENTS", ge=1, le=100_000)

    run_timeout_s: float = Field(30.0, validation_alias="WAYMESH_RUN_TIMEOUT_S", gt=0, le=60)
    run_retention_days: float = Field(30.0, validation_alias="WAYMESH_RUN_RETENTION_DAYS", gt=0, le=3650)
    heartbeat_s: float = Field(10.0, validation_alias="WAYMESH_RUN_HEARTBEAT_S", gt=0, le=60)
    # Half of the places for calls to models: no key keeps all others waiting.
    key_concurrent_runs: int = Field(32, validation_alias="WAYMESH_KEY_CONCURRENT_RUNS", ge=1, le=100_000)
    key_budget_usd: float | None = Field(
        None, validation_alias="WAYMESH_KEY_BUDGET_USD_PER_DAY", ge=0, le=_DAY_USD
    )
    key_budget_tokens: int | None = Field(
        None, validation_alias="WAYMESH_KEY_BUDGET_TOKENS_PER_DAY", ge=0, le=_DAY_TOKENS
    )

    weather_api_key: SecretStr | None = Field(None, validation_alias="WEATHER_API_KEY")
    weather_base_url: HttpUrl = Field(
        "https://api.openweathermap.org", validation_alias="WAYMESH_WEATHER_BASE_URL"
    )

    # What models are told and say stays out of traces unless this is asked for; then it is redacted.
    capture_prompts: bool = Field(False, validation_alias="WAYMESH_CAPTURE_PROMPTS")
    langfuse_public_key: str | None = Field(None, validation_alias="LANGFUSE_PUBLIC_KEY", min_length=1)
    langfuse_secret_key: SecretStr | None = Field(None, validation_alias="LANGFUSE_SECRET_KEY")
    langfuse_host: HttpUrl = Field("https://cloud.langfuse.com", validation_alias="LANGFUSE_HOST")

    @model_validator(mode="after")
    def _langfuse_as_a_whole(self) -> Self:
        public, secret = self.langfuse_public_key, self.langfuse_secret_key
        if public is not None and secret is None:
            raise Disagreement("LANGFUSE_SECRET_KEY", None, "the key that belongs to LANGFUSE_PUBLIC_KEY")
        if secret is not None and public is None:
            raise Disagreement("LANGFUSE_PUBLIC_KEY", None, "the key that belongs to LANGFUSE_SECRET_KEY")
        return self
