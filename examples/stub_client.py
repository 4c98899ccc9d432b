"""Ask the mesh for an arrival time with generated stubs. Needs only `waymesh-contracts`.

Run it beside `make run`: .venv/bin/python examples/stub_client.py
"""

from __future__ import annotations

import os

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, eta_service_pb2_grpc
from waymesh.gps.v1 import location_pb2
from waymesh.order.v1 import order_pb2

ETA = os.environ.get("WAYMESH_ETA_TARGET", "127.0.0.1:50051")

now = Timestamp()
now.GetCurrentTime()
order = order_pb2.Order(
    order_id="order_about_to_be_placed",
    revision=1,
    status=order_pb2.ORDER_STATUS_PLACED,
    pickup=location_pb2.Location(lat=-23.5505, lon=-46.6333),
    dropoff=location_pb2.Location(lat=-23.5614, lon=-46.6559),
    placed_at=now,
)
with grpc.insecure_channel(ETA) as channel:
    eta = eta_service_pb2_grpc.EtaServiceStub(channel)
    query = eta_pb2.EtaQuery(order=order)
    answer = eta.PredictEta(eta_service_pb2.PredictEtaRequest(query=query), timeout=2)

eta_minutes = answer.prediction.delivery
print(
    f"{eta_minutes.p50_minutes:.1f} min; 80%: {eta_minutes.p10_minutes:.1f} to {eta_minutes.p90_minutes:.1f}"
)
