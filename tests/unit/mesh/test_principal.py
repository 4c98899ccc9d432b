"""For whom a call is made, in and out of headers."""

import contextvars

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mesh import principal
from services.mesh.chain.client.call import Headers
from services.mesh.chain.method import describe_method
from services.mesh.chain.server.call import ServerCall
from services.mesh.chain.server.principal import PrincipalLink
from services.mesh.errors import PermissionDenied
from services.mesh.principal import Principal, of_metadata
from services.mesh.tls import peer
from services.mesh.tls.peer import Peer

KEY = "0123456789ab"

tenants = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
names = st.text(min_size=1, max_size=128).filter(str.isprintable)
keys = st.from_regex(r"[0-9a-f]{12}", fullmatch=True)


def test_nobody_has_been_named_at_first():
    assert principal.current() is principal.DEFAULT
    assert Principal("default", "", "") == principal.DEFAULT


def test_the_default_costs_a_call_nothing():
    assert principal.DEFAULT.headers == ()
    assert Principal().headers == ()
    assert of_metadata({"x-request-id": "1"}) is principal.DEFAULT


@settings(deadline=None)
@given(st.builds(Principal, tenants, keys | st.just(""), names | st.just("")))
def test_whoever_is_named_arrives_as_he_was_named(who: Principal):
    sent = who.headers
    assert Headers(sent).unsendable() is None
    assert of_metadata(dict(sent)) == who


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-waymesh-key", "0123456789AB"),
        ("x-waymesh-key", "0123456789abc"),
        ("x-waymesh-key", ""),
        ("x-waymesh-caller", ""),
        ("x-waymesh-caller", "%ff"),
        ("x-waymesh-caller", "%00"),
        ("x-waymesh-caller", "a%0Ab"),
        ("x-waymesh-caller", "a" * 129),
        ("x-waymesh-caller", "%61" * 100_000),
    ],
)
def test_what_is_not_well_formed_counts_as_not_sent(header: str, value: str | bytes):
    assert of_metadata({header: value}) == principal.DEFAULT


@pytest.mark.parametrize("tenant", ["", "a" * 65, "-a", "a b", "a\n", "ä", b"acme"])
def test_a_tenant_that_cannot_be_read_is_nobody(tenant: str | bytes):
    with pytest.raises(PermissionDenied):
        of_metadata({"x-waymesh-tenant": tenant})


def test_one_bad_header_takes_nothing_from_the_others():
    sent = {"x-waymesh-tenant": "acme", "x-waymesh-key": "no", "x-waymesh-caller": "night shift"}
    assert of_metadata(sent) == Principal("acme", "", "night shift")


@pytest.mark.parametrize("who", [Principal("a b"), Principal(key="x"), Principal(name="a\nb")])
def test_what_could_not_be_read_is_not_sent(who: Principal):
    assert who.headers == ()


def test_it_holds_for_the_work_at_hand_alone():
    token = principal.set_current(Principal("acme", KEY, "ops"))
    assert principal.current().tenant == "acme"
    principal.reset_current(token)
    assert principal.current() is principal.DEFAULT


def _call(tenant: str) -> ServerCall:
    return ServerCall(describe_method("/waymesh.eta.v1.EtaService/PredictEta"), None, None, {
        "x-waymesh-tenant": tenant}, 0.0)  # fmt: skip


@pytest.mark.parametrize(
    ("caller", "acts_for"),
    [
        (None, "*"),
        (Peer("eta", allowed=True, speaks_for_others=True, is_service=True), "*"),
        (Peer("operator", allowed=True, speaks_for_others=False, is_service=False), "default"),
        (Peer("gateway", allowed=True, speaks_for_others=True, is_service=False), None),
        (Peer("edge", allowed=True, speaks_for_others=True, is_service=False), None),
    ],
    ids=lambda each: each.name if isinstance(each, Peer) else str(each),
)
def test_services_of_the_mesh_alone_act_for_all_tenants(caller: Peer | None, acts_for: str | None):
    def take_over() -> str:
        peer.set_current(caller)
        PrincipalLink().before(_call("*"))
        return principal.current().tenant

    if acts_for is None:
        with pytest.raises(PermissionDenied):
            contextvars.copy_context().run(take_over)
    else:
        assert contextvars.copy_context().run(take_over) == acts_for


def test_what_is_done_for_somebody_else_ends_with_the_block():
    with principal.acting(principal.MESH):
        assert principal.current().headers == (("x-waymesh-tenant", "*"),)
        with principal.acting(Principal("acme")):
            assert principal.current().tenant == "acme"
        assert principal.current() is principal.MESH
    assert principal.current() is principal.DEFAULT
