"""Running services know of a change at once, whoever made it, and keep what they know without the store."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb

from services.agents import registry_store
from services.agents.catalogue import Catalogue
from services.agents.registry import Stored
from services.mesh.errors import NotFound
from services.mesh.store import EmbeddedPostgres, Store
from tests.integration.agents_registry_rig import MIGRATIONS, Rig, serving, spec_of, until


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with serving(database, tmp_path) as made:
        yield made


@pytest.fixture
async def other(rig: Rig, database: str) -> AsyncIterator[Catalogue]:
    """What another process knows, which neither serves the registry nor reads its topic."""
    store = await Store.open(database, schema="agents", migrations=MIGRATIONS, max_size=1)
    catalogue = Catalogue(store)
    await catalogue.load()
    following = asyncio.create_task(catalogue.run())
    yield catalogue
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await store.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder outside pytest's own, which let only their owner pass."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-agents-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def version(catalogue: Catalogue, agent: str, tenant: str = "default") -> int:
    """The version that is known; 0 for none."""
    try:
        return catalogue.find(tenant, agent).version
    except NotFound:
        return 0


async def test_every_change_reaches_another_process_by_itself(rig: Rig, other: Catalogue) -> None:
    one = await rig.create(spec_of("first"))
    await until(lambda: version(other, one) == 1)
    await rig.ask(
        "UpdateAgent", pb.UpdateAgentRequest(agent_id=one, expected_version=1, spec=spec_of("second"))
    )
    await until(lambda: version(other, "second") == 2)
    assert version(other, "first") == 0
    await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=one))
    await until(lambda: version(other, one) == 0)
    await rig.ask("RevertAgent", pb.RevertAgentRequest(agent_id=one, version=1))
    await until(lambda: version(other, "first") == 4)


async def test_a_change_holds_at_once_where_it_was_made(rig: Rig) -> None:
    one = await rig.create(spec_of())
    assert version(rig.catalogue, one) == 1
    await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=one))
    assert version(rig.catalogue, one) == 0


async def test_a_look_that_began_before_a_change_does_not_undo_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await rig.create(spec_of(description="1"))
    store, look = Store(rig.store.pool, "agents"), registry_store.changed_after
    catalogue = Catalogue(store)

    async def slow_look(whose: Store, *args: Any) -> list[Stored]:
        found = await look(whose, *args)
        if whose is store:
            request = pb.UpdateAgentRequest(agent_id=one, expected_version=1, spec=spec_of(description="2"))
            await rig.ask("UpdateAgent", request)
            changed = await registry_store.find(rig.store.pool, "default", one)
            assert changed is not None
            catalogue.take(changed)
        return found

    monkeypatch.setattr(registry_store, "changed_after", slow_look)
    await catalogue.load()
    assert version(catalogue, one) == 2


async def test_names_that_change_hands_are_found_right(rig: Rig, other: Catalogue) -> None:
    one, two = await rig.create(spec_of("left")), await rig.create(spec_of("right"))
    # One that sees all the changes together.
    rare = Catalogue(rig.store)
    await rare.load()

    async def rename(agent: str, expected: int, name: str) -> None:
        request = pb.UpdateAgentRequest(agent_id=agent, expected_version=expected, spec=spec_of(name))
        await rig.ask("UpdateAgent", request)

    await rename(one, 1, "middle")
    await rename(two, 1, "left")
    await rename(one, 2, "right")
    await until(lambda: version(other, one) == 3)
    await rare.load()
    for catalogue in (rig.catalogue, other, rare):
        assert catalogue.find("default", "left").agent_id == two
        assert catalogue.find("default", "right").agent_id == one
        assert version(catalogue, "middle") == 0


async def test_a_run_keeps_the_agent_it_began_with(rig: Rig) -> None:
    one = await rig.create(spec_of(description="old"))
    begun_with = rig.catalogue.find("default", one)
    request = pb.UpdateAgentRequest(agent_id=one, expected_version=1, spec=spec_of(description="new"))
    await rig.ask("UpdateAgent", request)
    assert (begun_with.version, begun_with.spec.description) == (1, "old")
    assert rig.catalogue.find("default", one).spec.description == "new"


async def test_only_what_lives_is_in_memory(rig: Rig, other: Catalogue) -> None:
    for number in range(5):
        one = await rig.create(spec_of(f"agent-{number}"))
        await rig.ask("AddCapability", pb.AddCapabilityRequest(agent_id=one, capability_id="weather"))
        if number:
            await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=one))
    await rig.create(spec_of("last"))
    await until(lambda: version(other, "last") == 1)
    assert len(other) == len(rig.catalogue) == 2


async def test_a_store_put_back_to_an_earlier_state_is_believed(rig: Rig, other: Catalogue) -> None:
    kept = await rig.create(spec_of("kept"))
    lost = await rig.create(spec_of("lost"))
    await until(lambda: version(other, lost) == 1)
    async with rig.store.transaction() as conn:
        await conn.execute("ALTER TABLE agent_versions DISABLE TRIGGER ALL")
        for table in ("agent_versions", "agents"):
            await conn.execute(f"DELETE FROM {table} WHERE agent_id = $1", lost)
        await conn.execute("ALTER TABLE agent_versions ENABLE TRIGGER ALL")
        await conn.execute("UPDATE registry_head SET last = 1")
    for catalogue in (other, rig.catalogue):
        await until(lambda catalogue=catalogue: version(catalogue, lost) == 0)
        assert version(catalogue, kept) == 1


async def test_agents_stay_known_while_the_store_is_away(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "services.agents.catalogue")

    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "services.agents.catalogue"]

    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    try:
        async with serving(dsn, tmp_path) as rig:
            one = await rig.create(spec_of())
            await server.stop()
            await until(lambda: len(said()) == 1)
            assert "away" in said()[0]
            assert version(rig.catalogue, one) == 1
            await server.start()
            await until(lambda: len(said()) == 2)
            assert "again" in said()[1]
            await rig.create(spec_of("after"))
            assert version(rig.catalogue, "after") == 1
    finally:
        await server.stop()
