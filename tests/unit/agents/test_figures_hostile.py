"""Texts made to slip a number through, or to keep the loop busy."""

import time

import pytest

from services.agents.grounding import Grounds, Guard, Ungrounded

GROUNDS = Grounds({"delivery_eta_minutes": 12})


@pytest.mark.parametrize(
    "text",
    [
        "in _777_ minutes",
        "in *777* minutes",
        "in __777__ minutes",
        "in 7_7_7 minutes",
        "⁷⁷⁷ minutes",
        "⑦⑦⑦ minutes",
        "in 7\u200b77 minutes",
        "٧٧٧ minutes",
        "７７７ minutes",
        "in 1e999 minutes",
        "in " + "9" * 400 + " minutes",
        "hundred " * 200,
        "seven hundred seventy-seven minutes",
    ],
)
def test_a_number_in_disguise_is_one_that_nobody_gave(text: str) -> None:
    assert GROUNDS.ungrounded(text)


@pytest.mark.parametrize(
    "unit",
    [
        *("a-", "1-", "1a-", "a 1 ", "one ", "1 and ", "hundred ", "1, ", "12:30:", "x"),
        *("x4", "x4-", "1,5", "1,5 a ", "1,5 bis 2,5 km ", "a few ", "tens of ", "7th ", "seventh "),
        *("sette ", "sette-", "once ", "vingt-", "iv ", "XIV", "i-", "un'", "quarto de "),
        *("七", "約1分", "半 ", "오", "५", "\u0301", "e\u0301", "é", "و", "сто ", "पा"),
    ],
)
def test_the_time_a_text_takes_grows_with_its_length_alone(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        times = []
        for _ in range(3):
            began = time.process_time()
            GROUNDS.ungrounded(text)
            times.append(time.process_time() - began)
        return min(times)

    # Eight times as long: quadratic work would take 64 times as long.
    assert seconds(16_000) < 30 * max(seconds(2_000), 0.0005)


def test_a_stream_of_numbers_without_an_end_is_given_up() -> None:
    guard = Guard(GROUNDS)

    def feed_for_ever() -> None:
        while True:
            guard.feed("12 minutes, ")

    with pytest.raises(Ungrounded):
        feed_for_ever()


def test_a_long_piece_at_once_is_let_through() -> None:
    text = "It arrives in 12 minutes. All is well there. " * 40
    guard = Guard(GROUNDS)

    assert guard.feed(text) + guard.finish() == text
