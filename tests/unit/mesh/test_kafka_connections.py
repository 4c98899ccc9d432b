"""A Kafka connection on uvloop, between its reset and the moment at which its reader notices."""

import asyncio
import socket
import struct

import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from services.mesh.events.kafka_connections import end_if_reset

STEPS = 200


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _write_through_a_reset() -> list[BaseException]:
    """What writing raises while a connection is reset, at each step of the loop until that is noticed."""
    end_if_reset()
    end_if_reset()  # as each client says it
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    found: list[BaseException] = []
    for before in range(8):
        connection = AIOKafkaConnection("127.0.0.1", server.sockets[0].getsockname()[1])
        connection._do_version_lookup = lambda: asyncio.sleep(0)
        connection._versions = {3: (0, 8)}
        await connection.connect()
        writer = await accepted.get()
        _reset(writer)
        for _ in range(before):
            await asyncio.sleep(0)
        for _ in range(STEPS):
            try:
                answer = connection.send(MetadataRequest([]))
            except Exception as error:
                found.append(error)
                break
            answer.close()
            await asyncio.sleep(0)
        assert not connection.connected()
        await asyncio.wait([connection._closed_fut])
    server.close()
    await server.wait_closed()
    return found


def test_whoever_writes_to_a_connection_that_was_just_reset_gets_the_librarys_own_error() -> None:
    found = uvloop.run(_write_through_a_reset())
    assert [type(error) for error in found] == [KafkaConnectionError] * 8
    assert any(isinstance(error.__cause__, RuntimeError) for error in found)  # the moment was met
