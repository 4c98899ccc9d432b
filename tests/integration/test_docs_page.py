"""/docs in a real browser: every task and path is explained, and can be tried."""

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright
from waymesh.agent.v1 import agent_registry_service_pb2 as registry
from waymesh.agent.v1.definition_pb2 import AgentDefinition

from services.gateway import tasks
from services.gateway.rest import binding
from tests.integration.event_rig import accepted, result, token
from tests.integration.gateway_rig import KEY, gateway

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# It would rather ask its maker's servers about updates first.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")


async def list_agents(request: Any, _context: Any) -> Any:
    agents = [AgentDefinition(agent_id=f"agent {n}") for n in range(request.page_size)]
    return registry.ListAgentsResponse(agents=agents)


async def update_agent(request: Any, _context: Any) -> Any:
    return registry.UpdateAgentResponse(
        agent=AgentDefinition(agent_id=request.agent_id, version=request.expected_version + 1)
    )


async def stream_run(_request: Any, _context: Any) -> AsyncIterator[Any]:
    yield accepted()
    yield token(2, "at the corner")
    yield result(3)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """/docs of a gateway with an eta and agents behind it; whatever the page complains of fails the test."""
    agents = {"ListAgents": list_agents, "UpdateAgent": update_agent, "StreamRun": stream_run}
    async with gateway(agents=agents) as rig, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=QUIET, chromium_sandbox=False
        )
        opened = await browser.new_page()
        complaints: list[str] = []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        await opened.goto(f"http://127.0.0.1:{rig.gateway.public.port}/docs#report_gps")
        await opened.get_by_role("heading", name="report_gps").wait_for()
        yield opened
        await browser.close()
        assert complaints == []


async def test_every_task_is_listed_and_explained_with_units(page: Page) -> None:
    names = await page.locator("nav button").all_inner_texts()
    paths = [f"{each.method} {each.template.text}" for each in binding.load()]
    assert names[: -len(paths)] == sorted(tasks.load())
    assert sorted(names[-len(paths) :]) == sorted(paths)
    for name in names:
        await page.get_by_role("button", name=name, exact=True).click()
        assert await page.locator("main h2").inner_text() == name
        assert await page.locator("main p").first.inner_text() != ""
    await page.get_by_role("button", name="report_gps").click()
    speed = await page.get_by_role("row", name="speed_kph").inner_text()
    assert "0 to 2000" in speed
    assert "km/h" in speed
    assert await page.get_by_role("row", name="driver_id").locator(".needed").count() == 1


async def test_a_request_is_sent_with_the_key_and_its_answer_shown(page: Page) -> None:
    await page.get_by_label("X-API-Key").fill(KEY)
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("200 OK").wait_for()
    assert '"event_id": "event_1"' in await page.locator("pre").inner_text()


async def test_events_are_shown_as_they_come(page: Page) -> None:
    await page.get_by_role("button", name="ask", exact=True).click()
    await page.get_by_label("X-API-Key").fill(KEY)
    await page.get_by_role("button", name="Send for events").click()
    await page.get_by_text("in all").wait_for()
    shown = await page.locator("pre").inner_text()
    assert [name for name in ("accepted", "token", "result") if f"event: {name}" in shown] == [
        "accepted",
        "token",
        "result",
    ]
    await page.get_by_role("button", name="get_run", exact=True).click()
    assert await page.get_by_role("button", name="Send for events").count() == 0


async def test_a_path_is_tried_with_its_parameters_and_its_body(page: Page) -> None:
    await page.get_by_role("button", name="GET /api/agents", exact=True).click()
    await page.get_by_label("X-API-Key").fill(KEY)
    await page.get_by_label("page_size").fill("2")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("200 OK").wait_for()
    assert '"agent_id": "agent 1"' in await page.locator("pre").inner_text()
    await page.get_by_role("button", name="PUT /api/agents/{agent_id}", exact=True).click()
    await page.get_by_label("agent_id").fill("a/b")
    await page.get_by_label("Body").fill('{"expected_version": 3, "spec": {"name": "a"}}')
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("200 OK").wait_for()
    shown = await page.locator("pre").inner_text()
    assert '"agent_id": "a/b"' in shown
    assert '"version": 4' in shown


async def test_it_fits_a_phone(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 800})
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
