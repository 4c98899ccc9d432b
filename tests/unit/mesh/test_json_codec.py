"""The JSON dialect, value by value, on the contracts and on a message type made for the purpose."""

import json
import math

import pytest
from google.protobuf import timestamp_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from json_probe import FD, PROBE, probe_class
from waymesh.eta.v1 import eta_service_pb2, travel_time_pb2
from waymesh.feedback.v1 import feedback_service_pb2, outcome_pb2
from waymesh.gps.v1 import gps_pb2
from waymesh.mesh.v1 import error_reason_pb2
from waymesh.order.v1 import context_pb2
from waymesh.route.v1 import route_service_pb2

from services.mesh import json_codec
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound, to_status
from services.mesh.json_codec import decode, encode, from_dict, parse, to_dict

GPS = (
    b'{"driver_id":"driver_123","order_id":"order_456","location":{"lat":-23.5505,"lon":-46.6333},'
    b'"speed_kph":25.3,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"business_district",'
    b'"timestamp":"2024-08-28T10:30:00Z","anomaly_flags":[]}'
)
SUCCESS = (
    b'{"event_id":"550e8400-e29b-41d4-a716-446655440000","run_id":"660e8400-e29b-41d4-a716-446655440000",'
    b'"agent_name":"react_agent","agent_type":"reasoning","action_type":"process_query",'
    b'"timestamp":"2025-10-09T12:34:56.789Z","start_time":"2025-10-09T12:34:56.500Z",'
    b'"end_time":"2025-10-09T12:34:56.789Z","duration_ms":289.5,"status":"success","severity":"info",'
    b'"latency_ms":289.5,"llm_latency_ms":250.3,"tokens_used":150,"output":{"result":"Analysis complete",'
    b'"confidence":0.95},"correlation_id":"workflow-123","workflow_id":"compliance-report",'
    b'"tags":["reasoning","analysis"],"metadata":{"model":"gpt-4","provider":"openai"}}'
)
FAILURE = (
    b'{"event_id":"770e8400-e29b-41d4-a716-446655440000","run_id":"880e8400-e29b-41d4-a716-446655440000",'
    b'"agent_name":"data_processor","agent_type":"processing","action_type":"transform_data",'
    b'"timestamp":"2025-10-09T12:35:10.123Z","start_time":"2025-10-09T12:35:09.000Z",'
    b'"end_time":"2025-10-09T12:35:10.123Z","duration_ms":1123.4,"status":"failure","severity":"error",'
    b'"latency_ms":1123.4,"error_message":"Invalid data format","error_type":"ValueError",'
    b'"stack_trace":"Traceback (most recent call last):\\n  ...","retry_count":2,'
    b'"tags":["data","processing","error"],"metadata":{"input_size":1024,"validation_failed":true}}'
)


def violations(kind: type[Message], text: str | bytes, **options: object) -> list[tuple[str, str]]:
    with pytest.raises(InvalidArgument) as caught:
        decode(kind, text, **options)  # type: ignore[arg-type]
    return [(each.field, each.description) for each in caught.value.violations]


# --- the bytes that must hold -------------------------------------------------------------------------------


def test_the_gps_example_is_accepted_and_written_byte_for_byte() -> None:
    event = decode(gps_pb2.GpsEvent, GPS)
    assert event == gps_pb2.GpsEvent(
        driver_id="driver_123",
        order_id="order_456",
        location={"lat": -23.5505, "lon": -46.6333},
        speed_kph=25.3,
        trip_stage=gps_pb2.TRIP_STAGE_TO_PICKUP,
        traffic_density=gps_pb2.TRAFFIC_DENSITY_MODERATE,
        zone_type=gps_pb2.ZONE_TYPE_BUSINESS_DISTRICT,
        timestamp=timestamp_pb2.Timestamp(seconds=1724841000),
    )
    assert encode(event) == GPS


@pytest.mark.parametrize("text", [SUCCESS, FAILURE], ids=["success", "failure"])
def test_the_outcome_examples_hold_field_by_field_in_and_out(text: bytes) -> None:
    written = encode(decode(outcome_pb2.OutcomeEvent, text))
    # The one freedom is how many digits of a second are written: .500Z and .000Z of the examples.
    shorter = text.replace(b"12:35:09.000Z", b"12:35:09Z")
    assert json.loads(written) == json.loads(shorter)
    assert list(json.loads(written)) == list(json.loads(text))


def test_struct_in_the_example_reads_as_numbers_text_and_truth() -> None:
    event = decode(outcome_pb2.OutcomeEvent, FAILURE)
    assert event.metadata["input_size"] == 1024
    assert event.metadata["validation_failed"] is True
    assert b'"input_size":1024,' in encode(event)


# --- presence -----------------------------------------------------------------------------------------------


def test_scalars_are_always_written_and_unset_messages_and_optionals_left_out() -> None:
    assert to_dict(gps_pb2.GpsEvent()) == {
        "driver_id": "",
        "order_id": "",
        "speed_kph": 0.0,
        "trip_stage": "unspecified",
        "traffic_density": "unspecified",
        "zone_type": "unspecified",
        "anomaly_flags": [],
    }


def test_null_is_absent_everywhere() -> None:
    names = [field.name for field in gps_pb2.GpsEvent.DESCRIPTOR.fields]
    assert from_dict(gps_pb2.GpsEvent, dict.fromkeys(names)) == gps_pb2.GpsEvent()


def test_an_optional_scalar_that_is_zero_is_there() -> None:
    event = decode(gps_pb2.GpsEvent, '{"heading_degrees":0}')
    assert event.HasField("heading_degrees")
    assert to_dict(event)["heading_degrees"] == 0


def test_an_empty_object_is_a_message_that_is_there() -> None:
    event = decode(gps_pb2.GpsEvent, '{"location":{}}')
    assert event.HasField("location")
    assert to_dict(event)["location"] == {}


def test_null_in_a_list_or_map_is_refused() -> None:
    assert violations(gps_pb2.GpsEvent, '{"anomaly_flags":[null]}')[0][0] == "anomaly_flags[0]"
    found = violations(context_pb2.DeliveryContext, '{"labels":{"a":null},"numbers":{"b":null}}')
    assert found == [
        ('labels["a"]', "must be text, found null"),
        ('numbers["b"]', "must be a number, found null"),
    ]


def test_the_object_given_is_not_changed() -> None:
    given = parse(GPS)
    from_dict(gps_pb2.GpsEvent, given)
    assert given == parse(GPS)


# --- times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2024-08-28T10:30:00Z", "2024-08-28T10:30:00Z"),
        ("2024-08-28t10:30:00z", "2024-08-28T10:30:00Z"),
        ("2024-08-28T10:30:00.5Z", "2024-08-28T10:30:00.500Z"),
        ("2024-08-28T10:30:00.789000Z", "2024-08-28T10:30:00.789Z"),
        ("2024-08-28T10:30:00.000001Z", "2024-08-28T10:30:00.000001Z"),
        ("2024-08-28T10:30:00.123456789Z", "2024-08-28T10:30:00.123456789Z"),
        ("2024-08-28T10:30:00.999999999-03:00", "2024-08-28T13:30:00.999999999Z"),
        ("2024-08-28T00:30:00+05:30", "2024-08-27T19:00:00Z"),
        ("2024-02-29T23:59:59-00:00", "2024-02-29T23:59:59Z"),
        ("1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.250Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_read_with_any_offset_and_written_in_utc_with_the_fewest_digits(
    text: str, written: str
) -> None:
    event = from_dict(gps_pb2.GpsEvent, {"timestamp": text})
    assert to_dict(event)["timestamp"] == written
    by_google = timestamp_pb2.Timestamp()
    by_google.FromJsonString(text.upper())
    assert event.timestamp == by_google


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2024-08-28", "2024-08-28T10:30:00", "2024-08-28 10:30:00Z", "20240828T103000Z"),
        *("2024-W35-3T10:30:00Z", "2024-08-28T10:30Z", "2024-13-01T00:00:00Z", "2023-02-29T00:00:00Z"),
        *("2024-08-28T24:00:00Z", "2024-08-28T10:30:60Z", "2024-08-28T10:30:00.Z", "2024-08-28T10:30:00,5Z"),
        *("2024-08-28T10:30:00.1234567890Z", "2024-08-28T10:30:00+24:00", "2024-08-28T10:30:00+0100"),
        *(
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
            "٢٠٢٤-08-28T10:30:00Z",
        ),
    ],
)
def test_what_is_no_time_in_range_is_refused(text: str) -> None:
    [(field, description)] = violations(gps_pb2.GpsEvent, json.dumps({"timestamp": text}), path="parameters")
    assert field == "parameters.timestamp"
    assert description.startswith("must be a time as in RFC 3339")


def test_a_timestamp_that_no_text_can_say_is_not_written() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        encode(gps_pb2.GpsEvent(timestamp={"seconds": 10**12}))


# --- numbers, text, enums -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "field", "wanted", "found"),
    [
        ("gps", '{"speed_kph":true}', "speed_kph", "a number", "true"),
        ("gps", '{"speed_kph":"25"}', "speed_kph", "a number", 'text "25"'),
        ("gps", '{"speed_kph":[1]}', "speed_kph", "a number", "a list"),
        ("gps", '{"speed_kph":1e999}', "speed_kph", "a number between", "too large for a double"),
        ("gps", '{"speed_kph":1' + "0" * 400 + "}", "speed_kph", "a number between", "many digits"),
        ("gps", '{"heading_degrees":false}', "heading_degrees", "a number", "false"),
        ("gps", '{"driver_id":7}', "driver_id", "text", "7"),
        ("gps", '{"driver_id":{}}', "driver_id", "text", "an object"),
        ("gps", '{"anomaly_flags":"stale"}', "anomaly_flags", "a list", 'text "stale"'),
        ("gps", '{"anomaly_flags":{}}', "anomaly_flags", "a list", "an object"),
        ("gps", '{"anomaly_flags":["stale",1]}', "anomaly_flags[1]", "one of gps_spoofing, ", "1"),
        ("gps", '{"location":[1,2]}', "location", "an object", "a list"),
        ("gps", '{"location":{"lat":"x"}}', "location.lat", "a number", 'text "x"'),
        ("gps", '{"trip_stage":2}', "trip_stage", "one of idle, to_pickup, ", "2"),
        ("gps", '{"trip_stage":"flying"}', "trip_stage", "one of idle, to_pickup, ", 'text "flying"'),
        ("gps", '{"trip_stage":"TRIP_STAGE_IDLE"}', "trip_stage", "one of idle", "TRIP_STAGE_IDLE"),
        ("gps", '{"trip_stage":"unspecified"}', "trip_stage", "one of idle", "unspecified"),
        ("gps", '{"trip_stage":["idle"]}', "trip_stage", "one of idle", "a list"),
        ("gps", '{"timestamp":1724841000}', "timestamp", "a time as in RFC 3339", "1724841000"),
        ("gps", '{"timestamp":{"seconds":1}}', "timestamp", "a time as in RFC 3339", "an object"),
        ("gps", '{"driver_id":"\\ud800"}', "driver_id", "whole characters", "half of a surrogate pair"),
        ("context", '{"batch_size":-1}', "batch_size", "a whole number from 0 to 4294967295", "-1"),
        ("context", '{"batch_size":4294967296}', "batch_size", "a whole number from 0", "4294967296"),
        ("context", '{"batch_size":1.5}', "batch_size", "a whole number", "1.5"),
        ("context", '{"batch_size":true}', "batch_size", "a whole number", "true"),
        ("context", '{"batch_size":1e400}', "batch_size", "a whole number", "too large"),
        ("context", '{"is_holiday":1}', "is_holiday", "true or false", "1"),
        ("context", '{"is_holiday":"yes"}', "is_holiday", "true or false", 'text "yes"'),
        ("context", '{"labels":[]}', "labels", "an object", "a list"),
        ("context", '{"labels":{"a":1}}', 'labels["a"]', "text", "1"),
        ("context", '{"numbers":{"a":true}}', 'numbers["a"]', "a number", "true"),
        ("context", '{"numbers":{"a":1e999}}', 'numbers["a"]', "a number between", "too large"),
        ("matrix", '{"matrix":{"durations_s":[1,"2"]}}', "matrix.durations_s[1]", "a whole number", '"2"'),
        ("matrix", '{"matrix":{"durations_s":[1,true]}}', "matrix.durations_s[1]", "a whole number", "true"),
        ("probe", '{"ratio":1e39}', "ratio", "a number of 32 bits", "1e+39"),
        ("probe", '{"ratios":[0,1e39]}', "ratios[1]", "a number of 32 bits", "1e+39"),
        ("probe", '{"sizes":[1,null]}', "sizes[1]", "a number", "null"),
        ("probe", '{"flags":[1]}', "flags[0]", "true or false", "1"),
        ("probe", '{"signed":-2147483649}', "signed", "a whole number from -2147483648", "-2147483649"),
        ("probe", '{"raw":"a"}', "raw", "base64", 'text "a"'),
        ("probe", '{"raw":"ab-_"}', "raw", "base64", "ab-_"),
        ("probe", '{"length_s":"3s"}', "length_s", "a number of seconds", "3s"),
        ("probe", '{"length_s":1e15}', "length_s", "a number of seconds", "1000000000000000.0"),
        ("probe", '{"row":{}}', "row", "a list", "an object"),
        ("probe", '{"row":[1,[1e999]]}', "row[1][0]", "a number", "too large"),
        ("probe", '{"by_number":{"01":"a"}}', 'by_number["01"]', "a whole number", ""),
        ("probe", '{"by_number":{"2147483648":"a"}}', 'by_number["2147483648"]', "from -2147483648 to", ""),
        ("probe", '{"by_truth":{"yes":{}}}', 'by_truth["yes"]', "true or false", ""),
        ("probe", '{"inner":{"inner":{"raw":1}}}', "inner.inner.raw", "base64", "1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted_and_what_was_found(
    kind: str, body: str, field: str, wanted: str, found: str
) -> None:
    kinds: dict[str, type[Message]] = {
        "gps": gps_pb2.GpsEvent,
        "context": context_pb2.DeliveryContext,
        "matrix": route_service_pb2.OptimizeRouteRequest,
        "probe": PROBE,
    }
    [(at, description)] = violations(kinds[kind], body)
    assert at == field
    assert wanted in description
    assert found in description
    for unknown in ("reject", "ignore"):
        assert violations(kinds[kind], body, unknown=unknown) == [(at, description)]


def test_a_whole_number_may_be_written_with_a_fraction_of_zero() -> None:
    assert decode(context_pb2.DeliveryContext, '{"batch_size":3.0}').batch_size == 3
    times = decode(route_service_pb2.OptimizeRouteRequest, '{"matrix":{"durations_s":[1,2.0]}}').matrix
    assert times.durations_s == [1, 2]


def test_unspecified_is_read_where_the_contract_lets_it_pass_so_that_what_is_written_can_be_read() -> None:
    request = travel_time_pb2.GetTravelTimesRequest()
    assert to_dict(request)["vehicle_type"] == "unspecified"
    assert from_dict(type(request), to_dict(request)) == request


def test_the_value_of_an_enum_from_a_newer_peer_is_written_as_its_number() -> None:
    assert to_dict(gps_pb2.GpsEvent(trip_stage=99))["trip_stage"] == 99  # type: ignore[arg-type]


def test_kinds_the_contracts_do_not_use_yet_go_through() -> None:
    value = {
        "ratio": 0.1,
        "signed": -5,
        "raw": "AAH/",
        "colour": "plain",
        "length_s": -1.5,
        "anything": None,
        "row": [1, 2.5, "x", None, True, {"a": []}],
        "inner": {"colour": "red", "anything": {"deep": [None]}, "length_s": 0.000000001},
        "flags": [True, False],
        "ratios": [0.1, 3],
        "sizes": [1, 2.5],
        "times": ["2024-08-28T10:30:00Z"],
        "raws": ["", "AA=="],
        "by_number": {"-1": "a", "7": "b"},
        "by_truth": {"false": {}, "true": {"signed": 1}},
    }
    message = from_dict(PROBE, value)
    written = to_dict(message)
    assert {name: written[name] for name in value if name not in ("inner", "by_truth")} == {
        name: item for name, item in value.items() if name not in ("inner", "by_truth")
    }
    assert written["inner"]["length_s"] == 1e-9
    assert written["by_truth"]["true"]["signed"] == 1
    assert from_dict(PROBE, parse(encode(message))) == message


def test_a_contract_with_64_bit_integers_cannot_be_compiled() -> None:
    wide = FD(name="wide", number=99, type=FD.TYPE_INT64, label=FD.LABEL_OPTIONAL)
    with pytest.raises(json_codec.UnsupportedContractError, match="wide"):
        decode(probe_class("probe_wide", wide), "{}")


def test_two_members_of_a_oneof_are_refused() -> None:
    body = '{"plane":{"speed_kph":20},"matrix":{"durations_s":[0]}}'
    assert violations(route_service_pb2.OptimizeRouteRequest, body) == [
        ("matrix", "must not be set together with plane")
    ]
    alone = decode(route_service_pb2.OptimizeRouteRequest, '{"plane":{"speed_kph":20},"matrix":null}')
    assert alone.WhichOneof("travel_times") == "plane"
    assert "matrix" not in to_dict(alone)


# --- fields, bodies, depth ----------------------------------------------------------------------------------


def test_an_unknown_field_is_refused_with_the_name_that_may_be_meant_or_ignored() -> None:
    body = '{"driver_id":"d","sped_kph":1,"location":{"lat":1,"altitude":3}}'
    assert violations(gps_pb2.GpsEvent, body, path="parameters") == [
        ("parameters.sped_kph", "is not a known field; did you mean speed_kph?"),
        ("parameters.location.altitude", "is not a known field"),
    ]
    ignored = decode(gps_pb2.GpsEvent, body, unknown="ignore")
    assert to_dict(ignored)["location"] == {"lat": 1.0}


def test_all_violations_of_a_body_are_told_at_once_in_its_order() -> None:
    body = '{"speed_kph":"fast","trip_stage":"flying","location":{"lat":"x","lon":true},"timestamp":0,"a":1}'
    fields = ["speed_kph", "trip_stage", "location.lat", "location.lon", "timestamp", "a"]
    assert [field for field, _ in violations(gps_pb2.GpsEvent, body)] == fields
    with pytest.raises(InvalidArgument, match="6 fields are wrong; speed_kph must be a number") as caught:
        decode(gps_pb2.GpsEvent, body)
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_INVALID_FIELD


def test_no_more_than_fifty_violations_are_told() -> None:
    body = json.dumps({"anomaly_flags": ["x"] * 10_000})
    assert len(violations(gps_pb2.GpsEvent, body)) == json_codec.MAX_VIOLATIONS == 50


def test_of_a_name_that_comes_twice_the_last_one_counts() -> None:
    assert decode(gps_pb2.GpsEvent, '{"driver_id":"a","driver_id":"b"}').driver_id == "b"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value at line 1 column 1"),
        (b" \n", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"driver_id":"a"', "Expecting ',' delimiter"),
        (b'{"driver_id":"a"} x', "Extra data"),
        (b"{'driver_id':1}", "Expecting property name"),
        (b'{"speed_kph":NaN}', "NaN is not JSON"),
        (b'{"speed_kph":-Infinity}', "-Infinity is not JSON"),
        (b'{"speed_kph":' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"driver_id":"\xff"}', "not UTF-8 at byte 14"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "Expecting value at line 1 column 1"),
        (b'{"driver_id":"a\nb"}', "control character"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"location":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_told_with_the_place(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        decode(gps_pb2.GpsEvent, body)
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_MALFORMED_BODY
    assert [each.field for each in caught.value.violations] == [""]


def test_white_space_around_a_body_is_fine() -> None:
    assert decode(gps_pb2.GpsEvent, b"\r\n\t " + GPS + b" \n") == decode(gps_pb2.GpsEvent, GPS)


@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null", "true"])
def test_a_body_that_is_no_object_is_refused(body: str) -> None:
    [(field, description)] = violations(gps_pb2.GpsEvent, body)
    assert field == ""
    assert description.startswith("must be an object")


def test_plain_json_is_nested_no_deeper_than_a_parser_of_protobuf_follows() -> None:
    def nested(levels: int) -> dict[str, object]:
        value: dict[str, object] = {}
        for _ in range(levels - 1):
            value = {"a": value}
        return value

    request = feedback_service_pb2.RecordOutcomesRequest
    message = from_dict(request, {"events": [{"metadata": nested(28)}]})
    assert request.FromString(message.SerializeToString()) == message
    assert json.loads(encode(message))["events"][0]["metadata"] == nested(28)
    with pytest.raises(InvalidArgument, match="nested deeper than 28"):
        from_dict(request, {"events": [{"metadata": nested(29)}]})
    with pytest.raises(InvalidArgument, match="nested deeper than 28"):
        from_dict(request, {"events": [{"metadata": nested(900)}]})
    with pytest.raises(InvalidArgument, match="nested too deeply"):
        decode(request, '{"events":[{"metadata":' + '{"a":' * 10_000)


def test_a_message_type_that_holds_itself_does_not_overflow_the_stack() -> None:
    value: dict[str, object] = {}
    for _ in range(10_000):
        value = {"inner": value}
    with pytest.raises(InvalidArgument):
        from_dict(PROBE, value)


def test_text_with_nul_is_refused_since_no_store_can_keep_it() -> None:
    body = r'{"driver_id":"a\u0000b","order_id":"a\\u0000b","location":{"x\u0000":1}}'
    found = dict(violations(gps_pb2.GpsEvent, body, path="parameters"))
    assert set(found) == {"parameters.driver_id", r"parameters.location.x\u0000"}
    assert decode(gps_pb2.GpsEvent, r'{"order_id":"a\\u0000b"}').order_id == r"a\u0000b"


def test_nan_and_infinity_are_not_written() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode(gps_pb2.GpsEvent(speed_kph=bad))


# --- plain JSON and statuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1024.0, b"1024"),
        (-3.0, b"-3"),
        (0.0, b"0"),
        (-0.0, b"-0.0"),
        (0.95, b"0.95"),
        (2.0**53 - 1, b"9007199254740991"),
        (2.0**53, b"9007199254740992.0"),
        (1e300, b"1e+300"),
    ],
)
def test_whole_numbers_of_plain_json_are_written_without_a_fraction(number: float, text: bytes) -> None:
    event = outcome_pb2.OutcomeEvent(metadata={"n": number})
    assert b'"metadata":{"n":' + text + b"}" in encode(event)


def test_a_status_reads_like_an_error_of_the_gateway() -> None:
    error = NotFound(
        "order order_1 is not known",
        reason=error_reason_pb2.ERROR_REASON_ORDER_UNKNOWN,
        metadata={"order_id": "order_1"},
        violations=[FieldViolation("order_id", "names no order")],
    )
    result = eta_service_pb2.BatchPredictEtaResult(error=to_status(error))
    written = {
        "error": {
            "code": "NOT_FOUND",
            "message": "order order_1 is not known",
            "reason": "ORDER_UNKNOWN",
            "details": [{"field": "order_id", "description": "names no order"}],
        }
    }
    assert to_dict(result) == written
    read = from_dict(eta_service_pb2.BatchPredictEtaResult, written)
    assert to_dict(read) == written


def test_a_status_with_details_from_elsewhere_shows_none() -> None:
    result = eta_service_pb2.BatchPredictEtaResult()
    result.error.code = 77
    result.error.details.add().Pack(error_details_pb2.Help())
    assert to_dict(result) == {"error": {"code": "UNKNOWN", "message": "", "reason": "", "details": []}}


@pytest.mark.parametrize(
    "status",
    ["x", {"code": "NOPE"}, {"code": 5}, {"details": [1]}, {"reason": 1}, {"other": 1}, {"message": 1}],
)
def test_a_wrong_status_is_refused(status: object) -> None:
    with pytest.raises(InvalidArgument, match="error must be a status"):
        from_dict(eta_service_pb2.BatchPredictEtaResult, {"error": status})
