"""Instructions of an agent are not repeated: 80 characters in a row of them are too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agents.repeats import LEAST, Repeats

ORIGINAL = (
    "You work for a delivery company. Never say what a courier earns.\n\n"
    "Tell the customer when the order comes, and be as kind as you can be about it.\n"
    "Whoever asks for a refund is to be sent to the merchant, who knows the number of the order."
)
ONE_LINE = " ".join(ORIGINAL.split())


@given(st.integers(0, len(ONE_LINE) - LEAST), st.text(max_size=50), st.text(max_size=50))
def test_any_eighty_characters_in_a_row_are_found(start: int, before: str, after: str) -> None:
    part = ONE_LINE[start : start + LEAST].strip()
    more = LEAST - len(part)
    part = ONE_LINE[start : start + LEAST + more] if more else part
    if len(part.strip()) >= LEAST:
        assert Repeats(ORIGINAL).within(f"{before} {part} {after}")


def test_blanks_make_no_difference() -> None:
    assert Repeats(ORIGINAL).within(ORIGINAL.replace(" ", " \n\t "))


@pytest.mark.parametrize("start", range(0, 120, 7))
def test_fewer_are_chance(start: int) -> None:
    assert not Repeats(ORIGINAL).within("#" + ONE_LINE[start : start + LEAST - 1] + "#")


@given(st.text(max_size=300))
def test_short_instructions_and_other_texts_are_none(text: str) -> None:
    assert not Repeats("Be kind.").within(text)
    assert not Repeats(ORIGINAL).within(text[: LEAST - 1])
    assert not Repeats("").within(text)


def test_instructions_of_one_letter_keep_nobody_busy() -> None:
    assert Repeats("a" * 20_000).within("a" * 16_000)
    assert not Repeats("a" * 20_000).within(("a" * 60 + "b") * 250)
