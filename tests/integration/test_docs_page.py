"""/docs in a real browser: every task is explained, and can be tried."""

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, async_playwright

from services.gateway import tasks
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


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """/docs of a gateway with an eta behind it; whatever the page complains of fails the test."""
    async with gateway() as rig, async_playwright() as playwright:
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
    assert names == sorted(tasks.load())
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


async def test_it_fits_a_phone(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 800})
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
