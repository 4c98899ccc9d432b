"""The answer's text on its way: all that is sent belongs to one answer, and no number in it is nobody's."""

import pytest

from services.agents.grounding import Grounds
from services.agents.voice import Voice

GROUNDS = Grounds({"delivery_eta_minutes": 12})
LONG = "The courier is on the way and will be there soon. " * 5


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def voice(sent: list[str]) -> Voice:
    return Voice(sent.append)


def test_an_answer_is_sent_while_it_is_written_and_is_the_whole_in_the_end(
    voice: Voice, sent: list[str]
) -> None:
    answer = "It arrives in 12 minutes. " + LONG
    voice.begin(GROUNDS, tools_offered=False)
    for start in range(0, len(answer), 5):
        voice.hear(answer[start : start + 5])
    assert len(sent) > 10
    voice.end(answer)

    assert "".join(sent) == answer
    assert voice.streamed(answer)


def test_what_comes_before_a_call_of_a_tool_is_not_sent(voice: Voice, sent: list[str]) -> None:
    voice.begin(GROUNDS, tools_offered=True)
    voice.hear("Let me look that up.")
    voice.end(None)
    voice.begin(GROUNDS, tools_offered=True)
    voice.hear("It arrives in 12 minutes.")
    voice.end("It arrives in 12 minutes.")

    assert "".join(sent) == "It arrives in 12 minutes."
    assert voice.streamed("It arrives in 12 minutes.")


def test_after_an_answer_that_broke_off_nothing_more_is_sent(voice: Voice, sent: list[str]) -> None:
    voice.begin(GROUNDS, tools_offered=False)
    voice.hear(LONG)
    begun = "".join(sent)
    assert begun
    voice.restart()
    voice.hear("Another answer.")
    voice.end("Another answer.")

    assert "".join(sent) == begun
    assert not voice.streamed("Another answer.")


def test_an_answer_that_broke_off_before_anything_was_sent_leaves_the_next_one_free(
    voice: Voice, sent: list[str]
) -> None:
    voice.begin(GROUNDS, tools_offered=True)
    voice.hear("The beginning of")
    voice.restart()
    voice.hear("It arrives in 12 minutes.")
    voice.end("It arrives in 12 minutes.")

    assert "".join(sent) == "It arrives in 12 minutes."


def test_a_number_that_nobody_gave_is_never_sent(voice: Voice, sent: list[str]) -> None:
    voice.begin(GROUNDS, tools_offered=False)
    for word in (LONG + "It arrives in 99 minutes, I am sure of it. " + LONG).split(" "):
        voice.hear(word + " ")
    voice.end(None)

    assert "99" not in "".join(sent)
    assert not voice.streamed("something else")


def test_a_link_is_never_sent_as_a_whole(voice: Voice, sent: list[str]) -> None:
    voice.begin(GROUNDS, tools_offered=False)
    for piece in (LONG, "See http", "s://evil.example/?q=", "secret for more. ", LONG):
        voice.hear(piece)
    voice.end(None)

    assert "evil" not in "".join(sent)


def test_without_a_listener_nothing_is_asked_for() -> None:
    voice = Voice(None)
    assert not voice.wanted
    voice.begin(GROUNDS, tools_offered=False)
    voice.hear("text")
    voice.end("text")
    assert not voice.streamed("text")
