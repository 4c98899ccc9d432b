"""What is asked of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How to ask. An empty `model` means the service's; so do empty `fallback_models`.

    `timeout_s` bounds one call; `max_output_tokens` one answer.
    """

    model: str = ""
    fallback_models: tuple[str, ...] = ()
    temperature: float = 0.3
    max_output_tokens: int = 2000
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Messages, tools and the shape of the answer, as OpenAI's chat completions name them.

    `schema`: JSON Schema of an object that the answer has to keep; None for text. `cache_scope`: tenant,
    agent and its version, part of the cache's key. None: the answer is never cached. `fresh`: it does not
    come from the cache, but may be kept there for others.
    """

    messages: tuple[Mapping[str, Any], ...]
    settings: ModelSettings
    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"
    cache_scope: str | None = None
    fresh: bool = False
