"""What holds of calls in plain text holds over TLS: the same tests once more, with certificates."""

from pathlib import Path

import pytest
from mesh_rig import Mesh
from test_grpc_traps import (
    test_a_caller_that_hangs_up_cancels_the_last_of_three_hops_with_tracing_on,
    test_a_deadline_travels_and_shrinks_over_three_hops,
    test_a_message_above_the_limit_is_the_callers_fault_and_no_mark_against_the_target,
    test_calls_beyond_the_limit_are_shed_at_once,
    test_cancelled_calls_and_bad_requests_never_open_a_breaker,
    test_messages_above_four_mebibytes_pass_both_ways,
    test_the_text_of_an_exception_stays_in_the_logs_without_its_secrets,
    test_there_is_one_layer_of_retries,
)
from test_mesh_calls import (
    test_a_stream_that_its_reader_leaves_ends_the_handler_and_both_spans,
    test_a_target_that_comes_back_is_probed_long_before_the_minute_is_over,
    test_requests_of_a_stream_may_be_written_one_by_one,
)
from test_mesh_server import (
    test_a_drain_ends_open_streams_so_that_readers_resume_elsewhere,
    test_a_drain_lets_calls_under_way_end,
    test_a_successor_takes_over_the_port_without_a_failed_call,
)
from test_wire_in_the_mesh import test_a_call_ends_the_same_by_either_client
from tls_rig import live

from tests.certificates import Authority

__all__ = [
    "test_a_call_ends_the_same_by_either_client",
    "test_a_caller_that_hangs_up_cancels_the_last_of_three_hops_with_tracing_on",
    "test_a_deadline_travels_and_shrinks_over_three_hops",
    "test_a_drain_ends_open_streams_so_that_readers_resume_elsewhere",
    "test_a_drain_lets_calls_under_way_end",
    "test_a_message_above_the_limit_is_the_callers_fault_and_no_mark_against_the_target",
    "test_a_stream_that_its_reader_leaves_ends_the_handler_and_both_spans",
    "test_a_successor_takes_over_the_port_without_a_failed_call",
    "test_a_target_that_comes_back_is_probed_long_before_the_minute_is_over",
    "test_calls_beyond_the_limit_are_shed_at_once",
    "test_cancelled_calls_and_bad_requests_never_open_a_breaker",
    "test_messages_above_four_mebibytes_pass_both_ways",
    "test_requests_of_a_stream_may_be_written_one_by_one",
    "test_the_text_of_an_exception_stays_in_the_logs_without_its_secrets",
    "test_there_is_one_layer_of_retries",
]


@pytest.fixture(autouse=True)
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    shows = [live(authority.issue(name).write(tmp_path / name)) for name in ("eta", "route")]
    monkeypatch.setattr(Mesh, "shows", tuple(shows))
