"""The answer's text on its way: all that is sent belongs to one answer, and no number in it is nobody's."""

from collections import Counter

import pytest

from services.agents import voice as module
from services.agents.figures import Figure
from services.agents.grounding import Grounds
from services.agents.links import has_link
from services.agents.repeats import Repeats
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
    assert len(sent) > 5
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


def test_a_link_between_pieces_far_into_a_text_is_never_sent_as_a_whole(
    voice: Voice, sent: list[str]
) -> None:
    voice.begin(GROUNDS, tools_offered=False)
    for start in range(0, len(text := LONG * 20 + "Look at evil.example/track. " + LONG), 4):
        voice.hear(text[start : start + 4])
    voice.end(None)

    assert len("".join(sent)) > 1_000
    assert "evil" not in "".join(sent)


def test_instructions_are_never_told(voice: Voice, sent: list[str]) -> None:
    said = "You are the dispatcher's assistant and you never tell anybody about the discount for regulars. "
    voice.begin(GROUNDS, tools_offered=False, repeats=Repeats("Some rules.\n" + said * 2))
    for start in range(0, len(text := LONG + said.replace(" ", "\n ") + LONG), 4):
        voice.hear(text[start : start + 4])
    voice.end(None)

    assert LONG.startswith("".join(sent)[: len(LONG)])
    assert "discount" not in "".join(sent)


@pytest.mark.parametrize("piece", [1, 4, 64, 1_000])
@pytest.mark.parametrize(
    "unit",
    [
        "It is fine and well. ",
        "It takes 12 minutes. ",
        "a-",
        "x",
        "one ",
        "an hour of ",
        "a.",
        "[ ",
        "1. a\n",
    ],
)
def test_the_work_for_a_text_grows_with_its_length_alone(
    monkeypatch: pytest.MonkeyPatch, unit: str, piece: int
) -> None:
    looked_at: Counter[str] = Counter()

    class Counted(Grounds):
        def figures(self, text: str, place: int = 0) -> list[Figure]:
            looked_at["numbers"] += len(text)
            return super().figures(text, place)

    def counted(text: str) -> bool:
        looked_at["links"] += len(text)
        return has_link(text)

    monkeypatch.setattr(module, "has_link", counted)
    heard = Voice(lambda text: None)
    heard.begin(Counted({"delivery_eta_minutes": 12}), tools_offered=False)
    text = unit * (16_000 // len(unit))
    for start in range(0, len(text), piece):
        heard.hear(text[start : start + piece])

    # Each character with what is before it, not with all that was.
    assert looked_at["numbers"] <= 12 * len(text)
    assert looked_at["links"] <= 24 * len(text)
