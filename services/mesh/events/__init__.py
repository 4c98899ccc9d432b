"""Events between services: one port, on PostgreSQL or on Kafka."""

from services.mesh.events.bus import (
    JSON,
    NO_HEADERS,
    PROTOBUF,
    BroadcastHandler,
    Consumer,
    EventBus,
    Handler,
    Message,
    PoisonMessage,
    Record,
)
from services.mesh.events.cloud_events import attributes
from services.mesh.events.codec import decode_value, encode_value, is_json
from services.mesh.events.create import create_bus
from services.mesh.events.topics import TOPICS, Topic

__all__ = [
    "JSON",
    "NO_HEADERS",
    "PROTOBUF",
    "TOPICS",
    "BroadcastHandler",
    "Consumer",
    "EventBus",
    "Handler",
    "Message",
    "PoisonMessage",
    "Record",
    "Topic",
    "attributes",
    "create_bus",
    "decode_value",
    "encode_value",
    "is_json",
]
