"""Agents: anything with a name and `run`, or a function; a coroutine function or a plain one."""

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from services.mesh.feedback import outcome

Run = Callable[[Any, Mapping[str, Any]], Any]


@runtime_checkable
class NamedAgent(Protocol):
    """An agent with a name of its own. `run` may be a coroutine function; a plain one runs in a thread."""

    name: str

    def run(self, input_data: Any, context: Mapping[str, Any]) -> Any: ...


Agent = NamedAgent | Run


@dataclass(frozen=True, slots=True)
class Partial:
    """What an agent returns that did a part: its output, and why it is not the whole.

    A mapping with something under `degradation`, as answers of the mesh have it, says the same.
    """

    output: Any
    reason: str = ""


def name_of(agent: Agent) -> str:
    """The agent's `name`, else the name of the function or class."""
    return _attribute(agent, "name") or _attribute(agent, "__name__") or type(agent).__name__


def type_of(agent: Agent) -> str:
    """The agent's `agent_type`, else `agent`."""
    return _attribute(agent, "agent_type") or "agent"


def run_of(agent: Agent, method: str = "run") -> Run | None:
    """The agent's method, or for `run` the agent itself; one that cannot be got raises when it is called."""
    try:
        found: Run | None = getattr(agent, method, None)
    except Exception as error:  # a property of the agent's own
        return _raising(error)
    if found is None and method == "run" and callable(agent):
        return agent
    return found


async def call(run: Run, input_data: Any, context: Mapping[str, Any], threads: Callable[[], Executor]) -> Any:
    """Runs an agent to its output. Raises what the agent raises, and TypeError if it yields.

    A plain function runs in a thread with the caller's context variables: request id, trace, deadline. A
    thread cannot be stopped: when its caller gives up it goes on, and nobody looks at what comes of it.
    """
    called = getattr(run, "__call__", None)  # noqa: B004 - that of a callable object, to look at
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (run, called)):
        raise _yields(run)
    if inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(called):
        output = await run(input_data, context)
    else:
        output = await _in_thread(run, input_data, context, threads())
        if inspect.isawaitable(output):
            output = await output
    if inspect.isgenerator(output) or hasattr(type(output), "__anext__"):
        raise _yields(run)
    return output


async def _in_thread(run: Run, input_data: Any, context: Mapping[str, Any], threads: Executor) -> Any:
    def guarded() -> tuple[Any, BaseException | None]:
        # Not every exception passes through a future: StopIteration would never arrive.
        try:
            return run(input_data, context), None
        except BaseException as error:
            return None, error

    copied = contextvars.copy_context()
    output, error = await asyncio.get_running_loop().run_in_executor(threads, copied.run, guarded)
    if error is not None:
        raise error
    return output


def _yields(run: Run) -> TypeError:
    name = outcome.as_text(getattr(run, "__qualname__", type(run).__qualname__))
    return TypeError(f"{name} yields; an agent gives one output")


def _raising(error: Exception) -> Run:
    def run(_input: Any, _context: Mapping[str, Any]) -> Any:
        raise error

    return run


def _attribute(agent: Agent, name: str) -> str:
    try:
        return outcome.as_text(getattr(agent, name, None))
    except Exception:  # a property of the agent's own
        return ""
