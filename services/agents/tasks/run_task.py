"""run_task: whatever an agent was made for; its answer is text, or has the shape that its definition says."""

import json
from typing import Final

from waymesh.agent.v1.task_pb2 import RunTaskRequest, RunTaskResponse

from services.agents.loop import Brief
from services.agents.structs import plain, struct
from services.agents.tasks.ask import ENGINES_S, allow, engines_words, named
from services.agents.tasks.context import Context
from services.agents.tasks.figures import with_engines_figures
from services.agents.tools import Scope

NAME: Final = "run_task"


def scope_of(request: RunTaskRequest, scope: Scope) -> None:
    """What the task, its data's own fields and its options name may be looked at."""
    allow(request.options, scope)
    scope.words = request.task
    data = plain(request.input) if request.HasField("input") else {}
    for field, kept in (("order_id", scope.order_ids), ("driver_id", scope.driver_ids)):
        named = [data.get(field), *_listed(data.get(f"{field}s"))]
        kept.update(one for one in named if isinstance(one, str) and one)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


async def run(request: RunTaskRequest, context: Context) -> RunTaskResponse:
    """Raises nothing of its own."""
    spec = context.setting.agent.spec
    schema = plain(spec.output_schema) if spec.HasField("output_schema") else None
    given = named(request.options)
    if request.HasField("input"):
        given["input"] = plain(request.input)

    async def by_engines() -> str:
        return await engines_words(request.task, context)

    words = await context.words(
        Brief(NAME, request.task, given=given, schema=schema), by_engines, engine_s=ENGINES_S
    )
    journal = context.journal
    text, output = words.text, None
    if words.output is not None:
        shaped = with_engines_figures(words.output, journal.evidence, schema)
        text, output = json.dumps(shaped, ensure_ascii=False), struct(shaped)
    return RunTaskResponse(
        run_id=context.run_id,
        answer=text,
        output=output,
        evidence=journal.evidence,
        usage=journal.usage,
        degradation=words.degradation,
    )
