"""traceparent in and out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh import trace

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_valid_header_is_taken_over():
    parsed = trace.parse(PARENT, "vendor=1")
    assert parsed is not None
    assert (parsed.parent, parsed.state, parsed.sampled) == (PARENT, "vendor=1", True)
    assert parsed.trace_id == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "",
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        PARENT + "\n",
    ],
)
def test_anything_else_starts_a_trace_of_its_own(header: str | bytes | None):
    assert trace.parse(header) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    parsed = trace.parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more")
    assert parsed is not None
    assert parsed.trace_id == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "state", ["vendor=é", "vendor=\x01", "vendor=1\t", "vendor=1\n", "v=" + "1" * 511, b"v=1"]
)
def test_a_state_that_cannot_be_passed_on_is_left_out(state: str | bytes):
    assert trace.parse(PARENT, state) == trace.TraceContext(PARENT)


def test_a_state_that_looks_like_a_key_is_left_out():
    assert trace.parse(PARENT, "vendor=wm_0123456789abcdefghijklmn") == trace.TraceContext(PARENT)


def test_a_state_of_512_characters_is_passed_on():
    state = "v=" + "~" * 510
    assert trace.parse(PARENT, state) == trace.TraceContext(PARENT, state)


@given(st.booleans())
def test_a_new_root_is_a_valid_header(sampled: bool):
    root = trace.new_root(sampled=sampled)
    assert trace.parse(root.parent) == root
    assert root.sampled is sampled


def test_a_remote_parent_and_its_header_are_the_same_place():
    parsed = trace.parse(PARENT, "vendor=1")
    assert parsed is not None
    assert trace.of_span(trace.span_context(parsed, remote=True)) == parsed
