"""What the service is told about its models, once, at start."""

from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from services.agents.llm.prices import Prices

OPENAI_URL: Final = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """Settings of `LanguageModels`; made by the service from its environment.

    `model` and `fallback_models` are for agents that name none. `max_concurrent_calls` is this process's.
    `cache_entries` 0 turns the cache off. `max_answer_bytes` bounds what is kept of one answer.
    """

    api_key: SecretStr = field(default_factory=lambda: SecretStr(""))
    base_url: str = OPENAI_URL
    model: str = ""
    fallback_models: tuple[str, ...] = ()
    prices: Prices = field(default_factory=Prices.built_in)
    max_concurrent_calls: int = 64
    cache_entries: int = 1000
    cache_bytes: int = 16 << 20
    cache_ttl_s: float = 300.0
    max_answer_bytes: int = 1 << 20

    @property
    def limit_field(self) -> str:
        """What the limit of an answer's tokens is called.

        OpenAI's newer models, at home and at Azure, refuse `max_tokens`; most others know nothing else.
        """
        newer = any(host in self.base_url for host in ("api.openai.com", "openai.azure.com"))
        return "max_completion_tokens" if newer else "max_tokens"
