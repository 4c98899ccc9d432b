"""A stream shows nothing but what is known, however it is cut into pieces."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.agents.grounding import Grounds, Guard, Ungrounded
from tests.examples import examples

SOURCE = {
    "pickup_eta_minutes": 12.0,
    "delivery_eta_minutes": 72.4,
    "base_minutes": 90.0,
    "distance_m": 1234.0,
    "confidence": 0.82,
    "stops": [{}, {}, {}, {}],
    "delivery_eta": "2026-11-21T19:42:00Z",
    "order_id": "456",
}
RIGHT = [
    "It takes 12 minutes.",
    "Order 456 comes in 1 h 12 min, at 19:42 UTC or 7:42 pm, on 21 November 2026.",
    "12 to 72 minutes for 1.2 km, 1,234 m; the chance is 82%.",
    "An hour and a half is the base; four stops, 4 known.\n1. the first\n2. the second\nThat is it, at 12.",
    "Nothing special here, no numbers at all, just words and words and words; and more of them. Good.",
    "seventy-two minutes",
    "It is 0.82 (82%).",
]
WRONG = [
    ("It takes 13 minutes.", "13 minutes", "It takes "),
    ("It takes 12 hours.", "12 hours", "It takes "),
    ("12 to 73 minutes of it", "73 minutes", ""),
    ("It comes at 19:52 UTC, surely.", "19:52", "It comes at "),
    ("Well, an hour and a quarter", "an hour and a quarter", "Well, "),
    ("In all 1,235 m. And more of it here", "1,235 m", "In all "),
    ("Fine. It is 456 minutes away from here", "456 minutes", "Fine. It is "),
    ("Good.\n1. one\n3. three", "3", "Good.\n1. one\n"),
]


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text, cut."""
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def shown(text: str, cuts: list[int]) -> str:
    """All that a guard lets through of a text in pieces."""
    guard = Guard(Grounds(SOURCE))
    return "".join(guard.feed(piece) for piece in pieces(text, cuts)) + guard.finish()


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(RIGHT), st.lists(st.integers(0, 300), max_size=40))
def test_what_holds_comes_through_whole(text: str, cuts: list[int]) -> None:
    assert shown(text, cuts) == text


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(WRONG), st.lists(st.integers(0, 300), max_size=40))
def test_nothing_of_a_number_nobody_gave_is_shown(wrong: tuple[str, str, str], cuts: list[int]) -> None:
    text, number, before = wrong
    guard = Guard(Grounds(SOURCE))
    told: list[str] = []

    def hear() -> None:
        told.extend(map(guard.feed, pieces(text, cuts)))
        told.append(guard.finish())

    with pytest.raises(Ungrounded) as raised:
        hear()
    assert before.startswith("".join(told))
    assert raised.value.number == number


@pytest.mark.parametrize("text", RIGHT)
def test_letter_by_letter_it_is_the_same(text: str) -> None:
    assert shown(text, list(range(len(text)))) == text


def test_words_flow_while_no_number_is_near() -> None:
    guard = Guard(Grounds(SOURCE))
    assert guard.feed("The courier is on the way ") == "The courier is on the way "
    assert guard.feed("and carries the ") == "and carries the "
    assert guard.feed("order, in about 1") == "order, in about "
    assert guard.feed("2") == ""
    assert guard.feed(" minutes. Then") == "12 minutes. "


def test_a_number_is_held_until_what_follows_can_change_it_no_more() -> None:
    guard = Guard(Grounds(SOURCE))
    told = guard.feed("It takes 1 h") + guard.feed(" 12") + guard.feed(" min")
    assert told == "It takes "
    assert guard.feed(", and then some more words come that say nothing new about it") != ""


def test_a_guard_anew_knows_the_same_and_has_seen_nothing() -> None:
    guard = Guard(Grounds(SOURCE))
    guard.feed("It takes 12")
    again = guard.anew()
    assert again.feed("It takes 12 minutes.\n") + again.finish() == "It takes 12 minutes.\n"


def test_a_long_stream_costs_no_more_at_its_end() -> None:
    guard = Guard(Grounds(SOURCE))
    told = "".join(guard.feed("some words and 12 minutes. ") for _ in range(2000)) + guard.finish()
    assert told == "some words and 12 minutes. " * 2000


_WORDS = st.sampled_from(
    [
        *(
            "12",
            "72",
            "1",
            "4",
            "456",
            "19:42",
            "1.2",
            "82",
            "13",
            "0.82",
            "twenty",
            "seventy-two",
            "90",
            "21",
        ),
        *(
            " ",
            " ",
            " ",
            " ",
            " ",
            ", ",
            ". ",
            ".\n",
            "\n",
            "-",
            "–",
            " to ",
            " and ",
            "**",
            "(",
            ")",
            ":",
            "%",
            "/",
        ),
        *(
            "minutes",
            " minutes",
            " min",
            " h ",
            "hours",
            "km",
            " m",
            "an hour",
            " and a half",
            "half",
            "past",
            "pm",
        ),
        *(
            "order ",
            "courier ",
            "stops",
            "stop ",
            "1. ",
            "2. ",
            "November",
            "the way is good",
            "more ",
            "first",
        ),
    ]
)


_FIGURES = st.sampled_from(
    [
        *(
            "12 minutes",
            "1 h 12 min",
            "82%",
            "19:42",
            "7:42 pm",
            "1.2 km",
            "4 stops",
            "an hour and a half",
            "order 456",
        ),
        *(
            "seventy-two minutes",
            "12",
            "72 min",
            "1,234 m",
            "four stops",
            "21 November",
            "0.82",
            "1 hour",
            "1. ",
            "2. ",
        ),
        *(
            " ",
            " ",
            " ",
            ", ",
            ". ",
            ".\n",
            "\n",
            " to ",
            " and ",
            "–",
            "the way is good and the courier is on it ",
        ),
    ]
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(st.lists(_WORDS, max_size=30), st.lists(_FIGURES, max_size=20)).map("".join),
    st.lists(st.integers(0, 400), max_size=30),
)
def test_a_stream_is_judged_as_the_whole_text_is(text: str, cuts: list[int]) -> None:
    wrong = Grounds(SOURCE).ungrounded(text)
    try:
        told = shown(text, cuts)
    except Ungrounded:
        assert wrong != []
    else:
        assert told == text
        assert wrong == []
