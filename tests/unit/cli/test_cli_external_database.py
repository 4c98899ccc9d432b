"""The server that DATABASE_URL names is asked before anything is started, and told in one line."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from services.cli import external_database
from services.cli.errors import CliError
from services.cli.external_database import ExternalDatabase
from services.cli.runner import State
from services.mesh.store import connect


async def refusal(dsn: str) -> str:
    with pytest.raises(CliError) as refused:
        await ExternalDatabase(dsn, lambda *_: None).check()
    said = str(refused.value)
    assert "\n" not in said
    assert "Error" not in said
    return said


@asynccontextmanager
async def answering(*errors: tuple[str, str]) -> Any:
    """A server that refuses each connection with the next error, as PostgreSQL words it; its DSN."""
    left = list(errors)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        if (await reader.readexactly(size - 4))[:4] == (80877103).to_bytes(4):  # SSLRequest
            writer.write(b"N")
            await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
        code, message = left.pop(0) if len(left) > 1 else left[0]
        body = b"".join(
            f"{key}{value}\0".encode() for key, value in (("SFATAL", ""), ("C", code), ("M", message))
        )
        body = body.replace(b"SFATAL\0", b"SFATAL\0VFATAL\0") + b"\0"
        writer.write(b"E" + (len(body) + 4).to_bytes(4) + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://u:secretword@127.0.0.1:{port}/x"


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield silent.getsockname()[1]


async def test_a_server_that_answers_is_used(database: str) -> None:
    told: list[State] = []
    external = ExternalDatabase(database, lambda state, _: told.append(state))
    await external.check()
    assert await external.start() == database
    assert told == [State.READY]


async def test_a_server_that_is_not_there_is_waited_for_and_told(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_database, "_ABSENT_S", 0.6)
    told: list[tuple[State, str]] = []
    dsn = f"postgresql://u:secretword@127.0.0.1:{silent_port}/x"
    shown = f"postgresql://u:[redacted]@127.0.0.1:{silent_port}/x"
    with pytest.raises(CliError) as refused:
        await ExternalDatabase(dsn, lambda *change: told.append(change)).check()
    assert str(refused.value) == (
        f"DATABASE_URL is {shown}, which cannot be reached (connection refused): "
        "start that server, or correct it"
    )
    assert told == [(State.STARTING, f"waiting for {shown}: connection refused")]


async def test_a_host_without_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_database, "_ABSENT_S", 0.0)
    said = await refusal("postgresql://u:secretword@nosuchhost.invalid/x")
    assert "nosuchhost.invalid/x, which cannot be reached (" in said
    assert "[Errno" not in said


async def test_a_wrong_password_is_told_at_once_without_it() -> None:
    async with answering(("28P01", 'password authentication failed for user "u"')) as dsn:
        said = await refusal(dsn)
    assert 'which refuses (password authentication failed for user "u"): correct user and password' in said
    assert "secretword" not in said


async def test_a_server_that_is_starting_is_waited_for() -> None:
    starting = ("57P03", "the database system is starting up")
    async with answering(starting, starting, ("3D000", 'database "x" does not exist')) as dsn:
        told: list[tuple[State, str]] = []
        with pytest.raises(CliError, match=r'refuses \(database "x" does not exist\): create that database'):
            await ExternalDatabase(dsn, lambda *change: told.append(change)).check()
    assert [state for state, _ in told] == [State.STARTING]
    assert told[0][1].endswith(": the database system is starting up")


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql://u:half/secretword@127.0.0.1:5432/x", "which is no postgresql://"),
        ("postgresql://u:secretword@127.0.0.1:abc/x", "which is no postgresql://"),
        ("postgresql://u:secretword@127.0.0.1/x?sslmode=much", "`sslmode` parameter must be one of"),
    ],
)
async def test_an_address_that_cannot_be_read_is_told_without_its_password(dsn: str, words: str) -> None:
    said = await refusal(dsn)
    assert words in said
    assert "secretword" not in said


async def test_an_unknown_database_is_told(database: str) -> None:
    said = await refusal(database.partition("@")[0] + "@/nothing?" + database.partition("?")[2])
    assert 'which refuses (database "nothing" does not exist): create that database' in said


async def test_who_may_not_create_what_the_mesh_needs_is_told_what_to_grant(database: str) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    role = f"{name} user"
    dsn = database.replace("//waymesh@", f"//{quote(role)}@")
    admin = await connect(database)
    try:
        await admin.execute(f'CREATE ROLE "{role}" LOGIN')
        said = await refusal(dsn)
        assert f'user "{role}" may not create schemas' in said
        await admin.execute(f'GRANT CREATE ON DATABASE "{name}" TO "{role}"')
        await ExternalDatabase(dsn, lambda *_: None).check()
        await admin.execute("CREATE SCHEMA eta")
        assert f'schema eta is not user "{role}"\'s to create tables in' in await refusal(dsn)
        await admin.execute(f'ALTER ROLE "{role}" SET default_transaction_read_only = on')
        assert "which takes no writes" in await refusal(dsn)
    finally:
        await admin.execute(f'DROP OWNED BY "{role}"')
        await admin.execute(f'DROP ROLE "{role}"')
        await admin.close()
