"""Peer (b) of bench/gateway.py: a bare Starlette handler with json and a gRPC stub, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waymesh.eta.v1 import eta_service_pb2_grpc, gps_stream_pb2
from waymesh.gps.v1 import gps_pb2


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with grpc.aio.insecure_channel(os.environ["BENCH_TARGET"]) as channel:
        app.state.stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        yield


async def run(request: Request) -> Response:
    body = json.loads(await request.body())
    event = json_format.ParseDict(body["parameters"], gps_pb2.GpsEvent())
    answer = await request.app.state.stub.ReportGps(gps_stream_pb2.ReportGpsRequest(event=event), timeout=10)
    result = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return Response(json.dumps({"status": "success", "result": result}), media_type="application/json")


app = Starlette(routes=[Route("/run", run, methods=["POST"])], lifespan=lifespan)
