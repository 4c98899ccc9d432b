"""The JSON codec beside google.protobuf.json_format: the same messages, each in its own dialect, both ways.

Interleaved: one round of ours, one of json_format, and again; the median of the rounds' ratios counts.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from waymesh.eta.v1 import eta_service_pb2
from waymesh.feedback.v1 import outcome_pb2
from waymesh.gps.v1 import gps_pb2

from bench._command import command, seconds
from services.mesh import json_codec

GPS = (
    b'{"driver_id":"driver_123","order_id":"order_456","location":{"lat":-23.5505,"lon":-46.6333},'
    b'"speed_kph":25.3,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"business_district",'
    b'"timestamp":"2024-08-28T10:30:00Z","anomaly_flags":[]}'
)
OUTCOME = (
    b'{"event_id":"550e8400-e29b-41d4-a716-446655440000","run_id":"660e8400-e29b-41d4-a716-446655440000",'
    b'"agent_name":"react_agent","agent_type":"reasoning","action_type":"process_query",'
    b'"timestamp":"2025-10-09T12:34:56.789Z","start_time":"2025-10-09T12:34:56.500Z",'
    b'"end_time":"2025-10-09T12:34:56.789Z","duration_ms":289.5,"status":"success","severity":"info",'
    b'"latency_ms":289.5,"llm_latency_ms":250.3,"tokens_used":150,"output":{"result":"Analysis complete",'
    b'"confidence":0.95},"tags":["reasoning","analysis"],"metadata":{"model":"gpt-4","provider":"openai"}}'
)


def cases() -> dict[str, Message]:
    fix = json_codec.decode(gps_pb2.GpsEvent, GPS)
    outcome = json_codec.decode(outcome_pb2.OutcomeEvent, OUTCOME)
    queries = [
        {"order_id": f"order_{n}", "courier_location": {"lat": n / 7, "lon": n / 9}} for n in range(100)
    ]
    batch = json_codec.from_dict(eta_service_pb2.BatchPredictEtaRequest, {"queries": queries})
    return {"gps_event": fix, "outcome_event": outcome, "batch_of_100_queries": batch}


def per_call_us(call: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def compare(
    ours: Callable[[], Any], peer: Callable[[], Any], rounds: int, budget_s: float
) -> dict[str, float]:
    calls = max(1, int(budget_s * 1e6 / per_call_us(peer, 3)))
    pairs = [(per_call_us(ours, calls), per_call_us(peer, calls)) for _ in range(rounds)]
    return {
        "ours_us": round(statistics.median(a for a, _ in pairs), 2),
        "json_format_us": round(statistics.median(b for _, b in pairs), 2),
        "times_faster": round(statistics.median(b / a for a, b in pairs), 2),
    }


def main() -> None:
    parser = command("json_codec", __doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved pairs, at least 5")
    parser.add_argument("--seconds", type=seconds, default=0.15, help="length of one round of the peer")
    arguments = parser.parse_args()
    rounds = max(5, arguments.rounds)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, message in cases().items():
        kind = type(message)
        ours_text = json_codec.encode(message)
        peer_text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()
        assert json_codec.decode(kind, ours_text) == json_format.Parse(peer_text, kind()) == message

        def ours_in(kind: type[Message] = kind, text: bytes = ours_text) -> object:
            return json_codec.decode(kind, text)

        def peer_in(kind: type[Message] = kind, text: bytes = peer_text) -> object:
            return json_format.Parse(text, kind())

        def ours_out(message: Message = message) -> object:
            return json_codec.encode(message)

        def peer_out(message: Message = message) -> object:
            text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
            return text.encode()

        figures[name] = {
            "decode": compare(ours_in, peer_in, rounds, arguments.seconds),
            "encode": compare(ours_out, peer_out, rounds, arguments.seconds),
        }
        for way, row in figures[name].items():
            print(
                f"{name:22} {way}: ours {row['ours_us']:8.2f} µs, "
                f"json_format {row['json_format_us']:8.2f} µs, {row['times_faster']:.1f} times faster"
            )
    print(json.dumps({"rounds": rounds, "cases": figures}))


if __name__ == "__main__":
    main()
