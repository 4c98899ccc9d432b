"""What lies outside of the mesh: who collects traces, and whose models are asked."""

from typing import Final

from services.cli.doctor.finding import Finding, fail, ok, skip, warn
from services.cli.doctor.reach import UnreachableError, ask
from services.cli.doctor.scene import Scene

_OPENAI: Final = "https://api.openai.com/v1"
_MODEL: Final = "gpt-4.1-mini"


async def traces(scene: Scene) -> list[Finding]:
    """Sends a request for no spans, which every collector takes."""
    check = "traces"
    endpoint, _ = scene.settings.otlp_endpoint()
    if endpoint is None:
        return [skip(check, "OTEL_EXPORTER_OTLP_ENDPOINT is not set")]
    remedy = "correct OTEL_EXPORTER_OTLP_ENDPOINT, or start the collector: until then traces are lost"
    try:
        answer = await ask(
            f"{endpoint.rstrip('/')}/v1/traces",
            method="POST",
            headers={"Content-Type": "application/x-protobuf"},
            body=b"",
        )
    except UnreachableError as error:
        return [warn(check, f"the collector cannot be used: {error.words}", remedy)]
    if answer.status != 200:
        return [warn(check, f"the collector answers {answer.status}", remedy)]
    return [ok(check, "the collector takes spans")]


async def model(scene: Scene) -> list[Finding]:
    """Asks which models there are, which costs nothing."""
    check = "model"
    key = scene.environ.get("OPENAI_API_KEY")
    if not key:
        return [skip(check, "OPENAI_API_KEY is not set here: agents answer by their engines")]
    base = scene.environ.get("OPENAI_BASE_URL") or _OPENAI
    wanted = scene.environ.get("OPENAI_MODEL") or _MODEL
    try:
        answer = await ask(f"{base.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    except UnreachableError as error:
        remedy = "correct OPENAI_BASE_URL, or let agents out to it: until then their engines answer"
        return [warn(check, f"the server of models cannot be used: {error.words}", remedy)]
    if answer.status in (401, 403):
        words = f"the server of models refuses OPENAI_API_KEY ({answer.status})"
        return [fail(check, words, "give it a valid key")]
    if answer.status != 200:
        words = f"the server of models answers {answer.status}"
        return [warn(check, words, "see whether OPENAI_BASE_URL ends where its API begins, as in …/v1")]
    listed = answer.json.get("data") if isinstance(answer.json, dict) else None
    names = {one.get("id") for one in listed if isinstance(one, dict)} if isinstance(listed, list) else set()
    if names and wanted not in names:
        return [warn(check, f"the server of models has no {wanted}", "set OPENAI_MODEL to one that it has")]
    return [ok(check, f"the key is good, {wanted} is there" if names else "the key is good")]
