"""What counts as a number in a text, and what it says."""

import pytest

from services.agents.figures import Unit, numbers_in

MIN, HOUR, KM = 60.0, 3600.0, 1000.0


@pytest.mark.parametrize(
    ("text", "unit", "values"),
    [
        ("12.5", Unit.NONE, [12.5]),
        ("1,234.5", Unit.NONE, [1234.5]),
        ("1,234,567 orders", Unit.NONE, [1234567]),
        (".5", Unit.NONE, [0.5]),
        ("1.2e3", Unit.NONE, [1200]),
        ("12 min", Unit.DURATION, [12 * MIN]),
        ("12min", Unit.DURATION, [12 * MIN]),
        ("a 10-minute wait", Unit.DURATION, [10 * MIN]),
        ("a sub-5-minute wait", Unit.DURATION, [5 * MIN]),
        ("1.5 hours", Unit.DURATION, [1.5 * HOUR]),
        ("1h30", Unit.DURATION, [90 * MIN]),
        ("1 h 12 min", Unit.DURATION, [72 * MIN]),
        ("2 hours and 5 minutes", Unit.DURATION, [125 * MIN]),
        ("3 minutes, 20 seconds", Unit.DURATION, [200]),
        ("250 ms", Unit.DURATION, [0.25]),
        ("two days", Unit.DURATION, [48 * HOUR]),
        ("half an hour", Unit.DURATION, [30 * MIN]),
        ("an hour and a half", Unit.DURATION, [90 * MIN]),
        ("two and a half hours", Unit.DURATION, [150 * MIN]),
        ("2½ hours", Unit.DURATION, [150 * MIN]),
        ("three quarters of an hour", Unit.DURATION, [45 * MIN]),
        ("twenty-five minutes", Unit.DURATION, [25 * MIN]),
        ("a hundred and five metres", Unit.DISTANCE, [105]),
        ("one kilometre", Unit.DISTANCE, [KM]),
        ("5km", Unit.DISTANCE, [5 * KM]),
        ("350 m", Unit.DISTANCE, [350]),
        ("2 miles", Unit.DISTANCE, [2 * 1609.344]),
        ("24 km/h", Unit.SPEED, [24]),
        ("5 m/s", Unit.SPEED, [18]),
        ("**12** minutes", Unit.DURATION, [12 * MIN]),
        ("12 more minutes", Unit.DURATION, [12 * MIN]),
        ("12\nminutes", Unit.DURATION, [12 * MIN]),
        ("12 (min)", Unit.DURATION, [12 * MIN]),
        ("12minuti", Unit.DURATION, [12 * MIN]),
        ("١٢ min", Unit.DURATION, [12 * MIN]),
        ("82%", Unit.SHARE, [0.82]),
        ("82.5 percent", Unit.SHARE, [0.825]),
        ("eighty per cent", Unit.SHARE, [0.8]),
        ("two thirds of it", Unit.SHARE, [2 / 3]),
        ("half of it", Unit.SHARE, [0.5]),
        ("-3 °C", Unit.TEMPERATURE, [3]),
        ("$0.12", Unit.MONEY, [0.12]),
        ("twice as long", Unit.NONE, [2]),
        ("12 to 18 minutes", Unit.DURATION, [12 * MIN, 18 * MIN]),
        ("12–18 min", Unit.DURATION, [12 * MIN, 18 * MIN]),
        ("12-18 min", Unit.DURATION, [12 * MIN, 18 * MIN]),
        ("between 12 and 18 minutes", Unit.DURATION, [12 * MIN, 18 * MIN]),
        ("9, 10 or 11 km", Unit.DISTANCE, [9 * KM, 10 * KM, 11 * KM]),
        ("70–80%", Unit.SHARE, [0.7, 0.8]),
        ("12:34", Unit.CLOCK, [12 * HOUR + 34 * MIN]),
        ("12:34:56", Unit.CLOCK, [12 * HOUR + 34 * MIN + 56]),
        ("at 7:05 pm", Unit.CLOCK, [19 * HOUR + 5 * MIN]),
        ("7 p.m.", Unit.CLOCK, [19 * HOUR]),
        ("7–8 pm", Unit.CLOCK, [19 * HOUR, 20 * HOUR]),
        ("12 am", Unit.CLOCK, [0]),
        ("noon", Unit.CLOCK, [12 * HOUR]),
        ("half past seven", Unit.CLOCK, [7 * HOUR + 30 * MIN]),
        ("a quarter to eight", Unit.CLOCK, [7 * HOUR + 45 * MIN]),
        ("seven o'clock", Unit.CLOCK, [7 * HOUR]),
        ("three stops, 2 orders", Unit.NONE, [3, 2]),
        ("a dozen", Unit.NONE, [12]),
        ("two thousand five hundred", Unit.NONE, [2500]),
    ],
)
def test_numbers_are_read_with_their_units(text: str, unit: Unit, values: list[float]) -> None:
    found = numbers_in(text)
    assert {figure.unit for figure in found} == {unit}
    assert [figure.value for figure in found] == pytest.approx(values)


@pytest.mark.parametrize(
    "text",
    [
        "order_456",
        "driver-12 and d7",
        "550e8400-e29b-41d4-a716-446655440000",
        "12345678-1234-1234-1234-123456789012",
        "P10, P50 and P90",
        "the 90th percentile, the first, the 2nd and the third",
        "one of them, no one, once more",
        "the second stop",
        "gpt-5-mini",
        "behalf",
        "1. fetch it\n2. bring it\n3) done",
        "attention, often, weight, height",
        "",
    ],
)
def test_ids_labels_and_places_in_lists_are_no_numbers(text: str) -> None:
    assert numbers_in(text) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1. fetch\n7. bring", ["7"]),
        ("order_456 in 12 min", ["12 min"]),
        ("from 2 to 4 stops", ["2", "4"]),
        ("24/7", ["24", "7"]),
        ("2026-11-21T10:30:00Z", ["2026-11-21T10:30:00Z"]),
        ("on 2026-11-21 or November 22, 2026 or 23 Nov", ["2026-11-21", "November 22, 2026", "23 Nov"]),
        ("it may 5 times", ["5 times"]),
        ("5 stops in 5.0 minutes.", ["5", "5.0 minutes"]),
        ("in 3.", ["3"]),
        ("(12 min)", ["12 min"]),
        ('{"confidence_score":0.82,"eta":12}', ["0.82", "12"]),
    ],
)
def test_numbers_are_told_as_they_are_written(text: str, shown: list[str]) -> None:
    assert [figure.text for figure in numbers_in(text)] == shown


def test_a_sign_belongs_to_a_number_and_a_dash_of_a_range_or_a_list_does_not() -> None:
    signs = {text: numbers_in(text)[-1].sign for text in ("-3 min", "−3 min", "+3 min", "1-3 min", "- 3 min")}
    assert signs == {"-3 min": -1, "−3 min": -1, "+3 min": 1, "1-3 min": 0, "- 3 min": 0}


def test_what_is_written_says_how_exact_it_is() -> None:
    steps = [
        numbers_in(text)[0].step for text in ("12", "12.0", "12.00", "12 min", "1.2 h", "82%", "1 h 5 min")
    ]
    assert steps == pytest.approx([1, 0.1, 0.01, 60, 360, 0.01, 60])
