"""Spans of agents, models and tools to Langfuse, which takes them by OTLP over HTTP.

https://langfuse.com/integrations/native/opentelemetry: POST {host}/api/public/otel/v1/traces with the keys as
basic authentication. Spans of ordinary calls stay here.
"""

import base64
from typing import TYPE_CHECKING, Final

from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GEN_AI_OPERATION_NAME

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from services.agents.settings import AgentsSettings

_PATH: Final = "/api/public/otel/v1/traces"
_TIMEOUT_S: Final = 5


def processors(settings: "AgentsSettings") -> "list[SpanProcessor]":
    """What sends them; nothing unless both keys are set."""
    public, secret = settings.langfuse_public_key, settings.langfuse_secret_key
    if public is None or secret is None:
        return []
    # Imported late: who has no collector needs no SDK.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class GenAiSpans(BatchSpanProcessor):
        """Passes over what no agent, model or tool did."""

        def on_end(self, span: ReadableSpan) -> None:
            if GEN_AI_OPERATION_NAME in (span.attributes or {}):
                super().on_end(span)

    keys = base64.b64encode(f"{public}:{secret.get_secret_value()}".encode()).decode()
    exporter = OTLPSpanExporter(
        endpoint=settings.langfuse_host.rstrip("/") + _PATH,
        headers={"Authorization": f"Basic {keys}"},
        timeout=_TIMEOUT_S,
    )
    return [GenAiSpans(exporter)]
