"""The order of the links, and how they run."""

import asyncio
import random

import pytest
from waymesh.agent.v1 import agent_service_pb2
from waymesh.eta.v1 import eta_service_pb2

from services.mesh.breaker import BreakerPolicy
from services.mesh.chain import order
from services.mesh.chain.around import Around
from services.mesh.chain.client.breaker import BreakerLink
from services.mesh.chain.client.retry import RetryLink
from services.mesh.chain.invoke import ClientChain
from services.mesh.chain.method import describe_method
from services.mesh.chain.serve import server_links
from services.mesh.retry import RetryPolicy
from services.mesh.telemetry import Telemetry


def test_the_servers_links_stand_in_their_order():
    assert tuple(link.name for link in server_links(Telemetry.create("eta"))) == order.SERVER


def test_where_ids_are_qualified_that_is_the_last_thing_before_the_handler():
    links = server_links(Telemetry.create("eta"), qualified=True)
    assert tuple(link.name for link in links) == (*order.SERVER, "tenancy")


def test_the_clients_links_stand_in_their_order():
    telemetry = Telemetry.create("eta")
    breaker = BreakerLink(BreakerPolicy(), telemetry, lambda: 0.0, lambda _breaker: None)
    ClientChain("eta:50051", telemetry, breaker, RetryLink(RetryPolicy(), random.Random()), 10.0)


@pytest.mark.parametrize(
    ("names", "reasons"), [(order.QUALIFIED, order.SERVER_REASONS), (order.CLIENT, order.CLIENT_REASONS)]
)
def test_a_link_in_the_wrong_place_is_told_why(names: tuple[str, ...], reasons: tuple[order.Place, ...]):
    order.require(names, names, reasons)
    for place in reasons:
        for inner in place.outside_of:
            wrong = [name for name in names if name != place.link]
            wrong.insert(wrong.index(inner) + 1, place.link)
            with pytest.raises(AssertionError) as told:
                order.require(wrong, names, reasons)
            assert "must stand outside of" in str(told.value)
    with pytest.raises(AssertionError, match="expected are"):
        order.require(names[:-1], names, reasons)


class Base:
    """Does nothing."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def before(self, call: str) -> None: ...

    def after(self, call: str, error: BaseException | None) -> BaseException | None:
        return error


class Both(Base):
    def before(self, call: str) -> None:
        self.seen.append(f"+{self.name}")

    def after(self, call: str, error: BaseException | None) -> BaseException | None:
        self.seen.append(f"-{self.name}")
        return error


class OnlyAfter(Base):
    def after(self, call: str, error: BaseException | None) -> BaseException | None:
        self.seen.append(f"-{self.name}")
        return ValueError(self.name) if error is not None else None


class Refuses(Base):
    def before(self, call: str) -> None:
        raise KeyError(self.name)

    def after(self, call: str, error: BaseException | None) -> BaseException | None:
        raise AssertionError("never entered")


def test_links_run_in_order_and_back_in_reverse():
    seen: list[str] = []
    around: Around[str] = Around(
        [Both("a", seen), Base("x", seen), OnlyAfter("b", seen), Both("c", seen)], Base
    )
    assert around.enter("call") is None
    assert around.leave("call", None) is None
    assert seen == ["+a", "+c", "-c", "-b", "-a"]


def test_a_link_that_refuses_is_left_by_those_outside_of_it_only():
    seen: list[str] = []
    links = [Both("a", seen), OnlyAfter("b", seen), Refuses("c", seen), Both("d", seen)]
    error = Around(links, Base).enter("call")
    assert isinstance(error, ValueError)
    assert seen == ["+a", "-b", "-a"]


def test_an_error_may_change_on_the_way_but_stays_one():
    seen: list[str] = []
    around: Around[str] = Around([OnlyAfter("outer", seen), Both("inner", seen)], Base)
    error = around.leave("call", asyncio.CancelledError())
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("path", "streaming", "idempotent"),
    [
        ("/waymesh.eta.v1.EtaService/PredictEta", False, True),
        ("/waymesh.eta.v1.EtaService/ReportGps", False, True),
        ("/waymesh.eta.v1.EtaService/StreamGps", True, False),
        ("/waymesh.eta.v1.EtaService/OfTomorrow", False, False),
        ("/elsewhere.Service/Call", False, False),
    ],
)
def test_only_what_the_contract_calls_idempotent_may_be_repeated(
    path: str, streaming: bool, idempotent: bool
):
    assert eta_service_pb2.DESCRIPTOR.package == "waymesh.eta.v1"
    assert describe_method(path, request_streaming=streaming).idempotent is idempotent


def test_a_method_names_its_owner():
    assert agent_service_pb2.DESCRIPTOR.package == "waymesh.agent.v1"
    assert describe_method("/waymesh.eta.v1.EtaService/PredictEta").target_name == "eta"
    assert describe_method("/waymesh.agent.v1.AgentService/Ask").target_name == "agents"
    assert describe_method("/grpc.Health/Check").target_name == "Health"
