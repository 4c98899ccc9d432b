"""The mock as a fixture: one server for each test, in the test's own loop."""

from collections.abc import AsyncIterator

import pytest

from tests.mock_openai.server import MockOpenAI


@pytest.fixture
async def mock_openai() -> AsyncIterator[MockOpenAI]:
    """A server that answers plainly until it is told otherwise."""
    server = MockOpenAI()
    await server.start()
    yield server
    await server.close()
