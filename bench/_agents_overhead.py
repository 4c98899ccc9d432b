"""What a run costs over asking the model directly, beside LiteLLM's proxy before the same model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import openai
import psutil
from waymesh.agent.v1.task_pb2 import RunOptions, RunTaskRequest, RunTaskResponse

from bench import _agents_litellm
from bench._agents_load import CallLoad, HttpLoad, Load, Taken, as_json, texts
from bench._agents_model import AFTER_20_MS, ANSWER, AT_ONCE
from bench._agents_stack import INSTRUCTIONS, KEY, Stack, cpu_s, spec, stack
from bench._mesh import say
from services.agents import prompts
from services.agents.llm.body import Body, complete
from services.agents.llm.request import ModelRequest, ModelSettings
from services.mesh.client import ClientFactory
from services.mesh.telemetry import Telemetry
from tools.ports import free_ports

AT_ONCE_EACH: Final = (1, 16)
_AGENTS: Final = {AT_ONCE: "bench-at-once", AFTER_20_MS: "bench-20ms"}
_QUESTIONS: Final = 1000
_RUN_TASK: Final = "/waymesh.agent.v1.AgentService/RunTask"
_LITELLM: Final = "litellm"
_GRANIAN: Final = "litellm-granian"
_WARM_S: Final = 1.5
_READY_S: Final = 180.0
_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Peer:
    """Who is asked how, and what that took: by connections, one of each round."""

    name: str
    load: Load
    processes: dict[str, psutil.Process] = field(default_factory=dict)
    """Whose CPU a request takes, besides the model's and the client's."""
    taken: dict[int, list[Taken]] = field(default_factory=dict)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds of a request, of each round with many connections."""

    async def measure(self, connections: int, seconds: float) -> None:
        before = {name: cpu_s(process) for name, process in self.processes.items()}
        taken = await self.load.run(connections, seconds)
        self.taken.setdefault(connections, []).append(taken)
        if connections == AT_ONCE_EACH[-1]:
            for name, process in self.processes.items():
                spent_s = cpu_s(process) - before[name]
                self.cpu_us.setdefault(name, []).append(spent_s / len(taken.each_s) * 1e6)

    def percentile_ms(self, connections: int, share: float) -> float:
        """Median of the rounds."""
        return statistics.median(one.percentile_ms(share) for one in self.taken[connections])

    def rate(self, connections: int) -> float:
        """Requests a second, median of the rounds."""
        return statistics.median(one.rate for one in self.taken[connections])

    def told(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "at": {
                f"{c}": {
                    "p50_ms": round(self.percentile_ms(c, 50), 3),
                    "p99_ms": round(self.percentile_ms(c, 99), 3),
                    "requests_per_s": round(self.rate(c), 1),
                }
                for c in self.taken
            },
            "cpu_us": {name: round(statistics.median(each)) for name, each in self.cpu_us.items()},
        }


async def overhead(*, rounds: int, seconds: float) -> dict[str, Any]:
    """All peers in turns, with a model that answers at once and with one that takes 20 ms."""
    _agents_litellm.install()
    async with stack(gateway=True) as running, AsyncExitStack() as within:
        for model, agent in _AGENTS.items():
            await running.add(spec(agent, model))
        proxies = {
            name: (
                port,
                _agents_litellm.start(
                    running.servers,
                    running.folder,
                    port,
                    running.model_port,
                    list(_AGENTS),
                    granian=name == _GRANIAN,
                ),
            )
            for name, port in zip((_LITELLM, _GRANIAN), free_ports(2), strict=True)
        }
        found: dict[str, Any] = {"rounds": rounds}
        for model, at in ((AT_ONCE, AT_ONCE_EACH), (AFTER_20_MS, AT_ONCE_EACH[:1])):
            peers = await _peers(running, within, model, proxies)
            say(f"{model}: {rounds} rounds of {len(peers)} peers")
            for connections in at:
                for peer in peers:
                    await peer.load.run(connections, min(_WARM_S, seconds))
                for n in range(rounds):
                    for peer in peers if n % 2 == 0 else peers[::-1]:
                        await peer.measure(connections, seconds)
            found[model] = _figures(peers)
    return found


async def _peers(
    running: Stack, within: AsyncExitStack, model: str, proxies: dict[str, tuple[int, psutil.Process]]
) -> list[Peer]:
    """All who answer with that model's words, the direct way first."""
    agent, asked = _AGENTS[model], texts(_QUESTIONS)
    chats = [_chat(agent, model, question) for question in asked]
    tasks = [{"agent": agent, "task": question, "options": {"fresh": True}} for question in asked]
    executes = [as_json({"task": "run_task", "parameters": parameters}) for parameters in tasks]
    run_tasks = [
        RunTaskRequest(agent=agent, task=question, options=RunOptions(fresh=True)) for question in asked
    ]
    wanted = ANSWER.encode()
    http = f"http://127.0.0.1:{running.model_port}/v1"
    direct = HttpLoad(f"{http}/chat/completions", chats, lambda body: wanted in body)
    execute = HttpLoad(
        f"http://127.0.0.1:{running.gateway_port}/execute",
        executes,
        # What an engine says in the place of the model is no answer here.
        lambda body: wanted in body and b'"degraded"' not in body,
        {"x-api-key": KEY},
    )
    litellm = {
        name: HttpLoad(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            chats,
            lambda body: wanted in body,
            {"authorization": f"Bearer {_agents_litellm.KEY}"},
        )
        for name, (port, _) in proxies.items()
    }
    for load in (direct, execute, *litellm.values()):
        await load.ready(_READY_S)

    client = await within.enter_async_context(
        openai.AsyncOpenAI(
            api_key="sk-bench", base_url=http, max_retries=0, http_client=openai.DefaultAioHttpClient()
        )
    )
    factory = ClientFactory("bench", telemetry=Telemetry.create("bench"))
    within.push_async_callback(factory.close)
    run_task = factory.channel(running.agents_target).quick_unary(
        _RUN_TASK, RunTaskRequest.SerializeToString, RunTaskResponse.FromString
    )
    said: Any = [list(_messages(agent, question)) for question in asked]

    async def by_openai(number: int) -> bool:
        answer = await client.chat.completions.create(
            model=model, messages=said[number % _QUESTIONS], temperature=0.3, max_tokens=2000
        )
        return answer.choices[0].message.content == ANSWER

    async def by_grpc(number: int) -> bool:
        answer: RunTaskResponse = await run_task(run_tasks[number % _QUESTIONS], timeout=_TIMEOUT_S)
        return answer.answer == ANSWER and not answer.HasField("degradation")

    ours = {"agents": running.agents.process, **running.others}
    return [
        Peer("direct", direct),
        Peer("openai", CallLoad(by_openai)),
        Peer("run_task", CallLoad(by_grpc), {name: one for name, one in ours.items() if name != "gateway"}),
        Peer("execute", execute, ours),
        *(Peer(name, load, {name: proxies[name][1]}) for name, load in litellm.items()),
    ]


def _messages(agent: str, question: str) -> tuple[prompts.Chat, ...]:
    """What the model is told, whoever tells it."""
    today = datetime.now(UTC)
    return (
        prompts.system(INSTRUCTIONS, agent=agent, task="run_task", today=today),
        prompts.user(question, {}),
    )


def _chat(agent: str, model: str, question: str) -> bytes:
    """The bytes that agents sends to the model for it."""
    settings = ModelSettings(model=model, temperature=0.3, max_output_tokens=2000)
    request = ModelRequest(messages=_messages(agent, question), settings=settings)
    return complete(Body(request, None, "max_tokens").of(model), streamed=False)


def _figures(peers: Sequence[Peer]) -> dict[str, Any]:
    """Printed, and for the JSON line."""
    direct, client, *others = peers
    ours, litellm = others[:-2], others[-2:]
    for peer in peers:
        for connections in peer.taken:
            print(
                f"{peer.name:15} at {connections:2}: p50 {peer.percentile_ms(connections, 50):8.3f} ms, "
                f"p99 {peer.percentile_ms(connections, 99):8.3f} ms, {peer.rate(connections):8.1f}/s",
                flush=True,
            )
        if peer.cpu_us:
            spent = ", ".join(f"{name} {statistics.median(each):.0f}" for name, each in peer.cpu_us.items())
            print(f"{'':15} CPU of a request, µs: {spent}", flush=True)
    found: dict[str, Any] = {"peers": {peer.name: peer.told() for peer in peers}}
    first, last = AT_ONCE_EACH[0], AT_ONCE_EACH[-1]
    found["overhead_p50_ms"] = {}
    for peer in others:
        over = {
            name: round(
                statistics.median(
                    one.percentile_ms(50) - base.percentile_ms(50)
                    for one, base in zip(peer.taken[first], under.taken[first], strict=True)
                ),
                3,
            )
            for name, under in (("direct", direct), ("openai", client))
        }
        found["overhead_p50_ms"][peer.name] = over
        print(
            f"{peer.name:15} p50 over direct {over['direct']:.3f} ms, over the official client "
            f"{over['openai']:.3f} ms"
        )
    if last in direct.taken:
        found["over_litellm"] = {}
        for peer in ours:
            for other in litellm:
                pairs = zip(peer.taken[last], other.taken[last], strict=True)
                ratio = round(statistics.median(one.rate / theirs.rate for one, theirs in pairs), 2)
                found["over_litellm"][f"{peer.name}/{other.name}"] = ratio
                print(
                    f"{peer.name:15} at {last}: {ratio:.2f} times the requests/s of {other.name}", flush=True
                )
    return found
