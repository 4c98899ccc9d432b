"""Answers requests to the paths of RPCs: parameters and body in, one RPC, its response out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message

from services.gateway import bulk, caller, faults
from services.gateway.authority import Authority, subject_of
from services.gateway.caller import Caller
from services.gateway.edge import Edge
from services.gateway.exchange import Answer, Exchange, Handler
from services.gateway.rest import parameters
from services.gateway.rest.binding import WHOLE, Binding
from services.gateway.rest.table import Table
from services.gateway.written import written
from services.mesh import deadline, json_codec
from services.mesh.errors import DeadlineExceeded, FieldViolation, InvalidArgument, MeshError


class RestRoutes:
    """The paths of a table. `callers` are by RPC, for those whose owner has a target."""

    def __init__(
        self,
        edge: Edge,
        authority: Authority,
        table: Table,
        callers: Mapping[str, Caller],
        *,
        max_body_bytes: int,
        timeout_ms: int,
    ) -> None:
        self._edge = edge
        self._authority = authority
        self._table = table
        self._callers = callers
        self._max_body_bytes = max_body_bytes
        self._timeout_ms = timeout_ms

    def find(self, exchange: Exchange) -> Mapping[str, Handler] | None:
        """What the path takes, by HTTP method; None if it is none of these. Sets `exchange.template`."""
        matches = self._table.find(exchange.raw_path)
        if not matches:
            return None
        handlers: dict[str, Handler] = {}
        for match in matches:
            for method, binding in match.bindings.items():
                handlers.setdefault(method, partial(self._handle, binding, match.values))
            if not exchange.template:
                exchange.template = next(iter(match.bindings.values())).template.text
        return handlers

    async def _handle(self, binding: Binding, values: tuple[bytes, ...], exchange: Exchange) -> Answer:
        exchange.template = binding.template.text
        exchange.task = binding.name
        client = await self._edge.authenticate(exchange)
        self._edge.admit()
        exchange.service = binding.owner
        if binding.admin or not client.scopes.allows(binding.name):
            await self._authority.permit(
                client, binding.name, admin=binding.admin, request_id=exchange.request_id
            )
        until = exchange.began + self._timeout_ms / 1000
        request = await self._read(binding, values, exchange, until)
        call = self._callers.get(binding.path)
        if call is None:
            raise caller.no_target(binding.owner)
        if binding.admin:
            await self._authority.begin(client, binding.name, subject_of(request), exchange.request_id)
        deadline.begin(until)
        try:
            response, _ = await call(request)
        except MeshError as error:
            if isinstance(error, DeadlineExceeded) and not error.from_peer:
                raise faults.too_late(self._timeout_ms) from error
            raise (binding.translate(error) if error.from_peer else error) from error
        return Answer(200, await _answer(binding, response))

    async def _read(
        self, binding: Binding, values: tuple[bytes, ...], exchange: Exchange, until: float
    ) -> Message:
        filled = parameters.read(binding, values, exchange.query)
        data, much = await exchange.body(self._max_body_bytes, until), False
        if not binding.body:
            if data:
                parameters.refuse_body(binding, data)
        else:
            body = None
            if data:
                exchange.require_json()
                body, much = bulk.parse(data)
            if binding.body == WHOLE:
                filled = _whole(body, filled)
            elif body is not None:
                filled[binding.body] = body
        try:
            if much:
                bulk.check(binding.request.DESCRIPTOR, filled)
            return json_codec.from_dict(binding.request, filled)
        except InvalidArgument as error:
            raise binding.translate(error) from None


def _whole(body: Any, filled: parameters.Filled) -> parameters.Filled:
    """The body, and what the path fills. Raises InvalidArgument if they do not go together."""
    if body is None:
        return filled
    if type(body) is not dict:
        raise json_codec.invalid_fields(
            [FieldViolation("", f"must be an object, found {json_codec.describe(body)}")]
        )
    wrong = [
        FieldViolation(name, "is given by the path")
        for name, value in parameters.leaves(filled)
        if not parameters.put(body, name, value)
    ]
    if wrong:
        raise json_codec.invalid_fields(wrong)
    return body


async def _answer(binding: Binding, response: Message) -> bytes:
    if binding.result:
        return json_codec.dumps(json_codec.to_dict(response).get(binding.result))
    if binding.lists and json_codec.is_long(response, binding.lists):
        return await written(response)
    return json_codec.encode(response)
