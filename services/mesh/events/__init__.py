"""Events between services: one port, on PostgreSQL or on Kafka."""

from services.mesh.events.bus import (
    JSON,
    PROTOBUF,
    BroadcastHandler,
    Consumer,
    EventBus,
    Handler,
    Message,
    PoisonMessage,
    Record,
)
from services.mesh.events.causes import cause_of, causes_of, common_cause
from services.mesh.events.cloud_events import attributes
from services.mesh.events.codec import decode_value, encode_value, is_json
from services.mesh.events.create import create_bus
from services.mesh.events.topics import TOPICS, Topic

__all__ = [
    "JSON",
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
    "cause_of",
    "causes_of",
    "common_cause",
    "create_bus",
    "decode_value",
    "encode_value",
    "is_json",
]
