"""Numbers in other languages than English: their words are nobody's, their digits are as good as any."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.agents.figures import Unit, numbers_in
from services.agents.grounding import Grounds, Guard, Ungrounded
from tests.examples import examples

GROUNDS = Grounds(
    {
        "delivery_eta_minutes": 19.5,
        "distance_m": 2000,
        "confidence": 0.825,
        "p90_minutes": 72,
        "stops": [1, 2],
    }
)

INVENTED = [
    "Chega em sete minutos.",
    "Chega em vinte e cinco minutos.",
    "Falta uma hora.",
    "Falta meia hora.",
    "Sete pedidos esperam.",
    "Chega às sete.",
    "Chega em Sete Minutos.",
    "Em VINTE MINUTOS, ou em trinta.",
    "Cinco.",
    "Demora dez minutos.",
    "Alguns minutos.",
    "Llega en siete minutos.",
    "Llega en once minutos.",
    "Llega en treinta y cinco min.",
    "Faltan dos horas y media hora.",
    "Un cuarto de hora.",
    "Es kommt in sieben Minuten.",
    "Es kommt in fünfundzwanzig Minuten.",
    "Es kommt in zweihundert Metern.",
    "Es dauert eine Stunde.",
    "In einer halben Stunde.",
    "In ein paar Minuten.",
    "In einer Viertelstunde.",
    "Il arrive dans sept minutes.",
    "Il arrive dans dix minutes.",
    "Il arrive dans vingt-cinq minutes.",
    "Il arrive dans quatre-vingt-dix minutes.",
    "Dans une heure, une demi-heure ou un quart d'heure.",
    "Arriva tra sette minuti.",
    "Arriva tra sei minuti.",
    "Arriva tra venticinque minuti.",
    "Arriva tra ventotto minuti.",
    "Arriva tra mezz'ora, o un quarto d'ora.",
    "Arriva tra un paio di minuti.",
    "Llega en un par de minutos.",
    "Dans une dizaine de minutes.",
    "Nach siebenminütiger Fahrt.",
    "Nach einem Dutzend Minuten.",
    "Het komt over tien minuten.",
    "Het komt over zeven minuten.",
    "Het komt over vijfentwintig minuten.",
    "Het duurt een uur.",
    "Przyjedzie za siedem minut.",
    "Przyjedzie za dwadzieścia pięć minut.",
    "Przyjedzie za pół godziny.",
    "Yedi dakika içinde gelir.",
    "On dakika içinde gelir.",
    "Yirmi beş dakika.",
    "Üç kilometre.",
    "Tiba dalam tujuh menit.",
    "Tiba dalam dua puluh lima menit.",
    "Tiba dalam setengah jam.",
    "Приедет через семь минут.",
    "Приедет через двадцать пять минут.",
    "Приедет через полчаса.",
    "Приедет около семи.",
    "سيصل خلال سبع دقائق.",
    "سيصل خلال خمس وعشرين دقيقة.",
    "سيصل بعد دقيقتين.",
    "वह सात मिनट में पहुँचेगा।",
    "वह पच्चीस मिनट में पहुँचेगा।",
    "वह एक घंटे में पहुँचेगा।",
    "七分钟后到达。",
    "大约三十五分钟后到达。",
    "半小时后到达。",
    "三十五分鐘後到達。",
    "七分で着きます。",
    "二十五分かかります。",
    "십오 분 후에 도착합니다.",
    "세 시간 걸립니다.",
    "It takes VII minutes.",
    "It takes XXV min.",
    "It takes xii minutes.",
    "It takes V minutes.",
    "It takes x45 minutes.",
    "It takes P45 min.",
    "It takes r45min.",
    "It takes a45 minutes.",
    "It takes T-45 minutes.",
    "It takes x45.5 minutes.",
    "It is x45km away.",
    "大约45分钟后到达，30公里。",
    "In a couple of minutes.",
    "In a couple more minutes.",
    "In a few minutes.",
    "In several minutes.",
    "A fortnight.",
    "The last fortnight.",
    "Tens of minutes.",
    "Dozens of minutes.",
    "Hundreds of metres away.",
    "In the seventh minute.",
    "In the 7th minute.",
    "At the twelfth kilometre.",
    "Chega em 21 minutos.",
    "Chega em 18,5 minutos.",
    "São 2,5 km.",
    "Es kommt in 21Minuten.",
    "От 21 минуты.",
    "خلال ٢١ دقيقة",
]
RIGHT = [
    "Chega em 20 minutos.",
    "Llega en 20 minutos.",
    "Es kommt in 20 Minuten.",
    "Il arrive dans 20 minutes.",
    "Arriva tra 20 minuti.",
    "Het komt over 20 minuten.",
    "Przyjedzie za 20 minut.",
    "20 dakika içinde gelir.",
    "Tiba dalam 20 menit.",
    "Приедет через 20 минут.",
    "سيصل خلال 20 دقيقة",
    "سيصل خلال ٢٠ دقيقة",
    "वह 20 मिनट में पहुँचेगा।",
    "大约20分钟后到达，2公里。",
    "20分で着きます。",
    "20분 후에 도착합니다.",
    "19,5 minutos",
    "Es sind 2,0 km.",
    "Es sind 2,0 Kilometer, 2000 Meter.",
    "82,5 % oder 82,5 Prozent",
    "82,5 por cento",
    "19,5 bis 72,0 Minuten",
    "de 20 a 72 minutos",
    "20 bis 72 Minuten",
]
ENGLISH = [
    "Once the courier is on the way, all of us are due.",
    "Once more: it was once, at once.",
    "The order is due on time; on Monday a bin is due, too.",
    "He may die in a car, said Otto, and an elf has a media bin on the sofa.",
    "A sept is a clan; they seize the cent and pay cents.",
    "Dos and don'ts; the dos are many. A mil is small.",
    "Lima is a city, as is Sao Paulo; Tre and Dua are names.",
    "The quince tart and the mille-feuille went with a venti coffee.",
    "Only a few orders are late, and a couple of couriers are free.",
    "Several orders wait; few of them are late.",
    "I am sure. I may be late. Plan I is mine; mix it and call Di.",
    "Part IV of the plan, chapter XII, King Charles III.",
    "The CD is mine, as are the MM and the MIX.",
    "P10, P50 and P90; the P90 minutes are those of a bad day.",
    "order_456 goes with driver-12 and d7, A-17 and B12h9.",
    "gpt-5-mini and 3f2 are models",
    "In the first minute, for the second hour, at the first kilometre.",
    "It is the third time, and the fifth stop of the tenth courier.",
    "The traffic adds little; the weather saves nothing.",
    "Or a hora, a uno or an ora: um, no.",
    "In due course, on hand, for a media house.",
    "Take care of what is left to die.",
    "The merchant is slow and a pair is out.",
    "He came a long way, to a café in the old town, past the piñata, naïve.",
    "Sure, as soon as it is ready. On it!",
    "Quattro Formaggi for Rua Sete de Setembro, from the Calle Ocho; Sete Lagoas, and Cinco de Mayo.",
    "The merchant is Trattoria Dieci. It is slow.",
    "A few minor delays; several minors; a seventh mind; once mindful, and due orally, by d7 hastily.",
    "Courier d7 has it, and x20 kmart; A12 minds it.",
    "Rain is on; the rate is a mil.",
]


@pytest.mark.parametrize("text", INVENTED)
def test_a_number_in_another_guise_is_one_that_nobody_gave(text: str) -> None:
    assert GROUNDS.ungrounded(text) != []


@pytest.mark.parametrize("text", RIGHT)
def test_digits_with_a_unit_of_another_language_are_read(text: str) -> None:
    assert GROUNDS.ungrounded(text) == []


@pytest.mark.parametrize("text", ENGLISH)
def test_english_words_that_are_spelled_alike_are_no_numbers(text: str) -> None:
    assert numbers_in(text) == []


@pytest.mark.parametrize(
    ("text", "unit", "values"),
    [
        ("19,5 minutos", Unit.DURATION, [1170]),
        ("1,25 h", Unit.DURATION, [4500]),
        ("1,234 m", Unit.DISTANCE, [1234]),
        ("stops 1,2 and 3", Unit.NONE, [1, 2, 3]),
        ("[19,5]", Unit.NONE, [19, 5]),
        ("2,0 km", Unit.DISTANCE, [2000]),
        ("3 horas", Unit.DURATION, [10800]),
        ("3 Stunden", Unit.DURATION, [10800]),
        ("40 segundos", Unit.DURATION, [40]),
        ("2 Tage", Unit.DURATION, [172800]),
        ("2 quilômetros", Unit.DISTANCE, [2000]),
        ("30 metros", Unit.DISTANCE, [30]),
        ("20 Prozent", Unit.SHARE, [0.2]),
        ("x45 minutes", Unit.DURATION, [2700]),
        ("two fortnights", Unit.DURATION, [28 * 86400]),
    ],
)
def test_what_they_say(text: str, unit: Unit, values: list[float]) -> None:
    found = numbers_in(text)
    assert {figure.unit for figure in found} == {unit}
    assert [figure.value for figure in found] == pytest.approx(values)


def test_what_is_a_number_in_english_as_well_is_read_as_english() -> None:
    assert [figure.value for figure in numbers_in("six; six minutes. Zero km")] == [6, 360, 0]


def test_a_caller_who_writes_in_another_language_gives_numbers_too() -> None:
    grounds = Grounds("Por que 45 minutos, e não 19,5 minutos?")
    assert grounds.ungrounded("45 minutes are more than 19.5 minutes.") == []
    assert grounds.ungrounded("44 minutes") == ["44 minutes"]


@pytest.mark.parametrize("text", ["⑦ minutes", "sete minutos", "a few minutes", "1e999", "sieben, zehn"])
def test_a_number_without_a_value_gives_nothing(text: str) -> None:
    grounds = Grounds(text)
    assert grounds.ungrounded("5 minutes, and 12") == ["5 minutes", "12"]
    assert grounds.ungrounded("eine Stunde") != []


@pytest.mark.parametrize("text", INVENTED)
def test_a_stream_never_tells_them_whole(text: str) -> None:
    guard = Guard(GROUNDS)
    told: list[str] = []

    def hear() -> None:
        told.extend(map(guard.feed, text))
        told.append(guard.finish())

    with pytest.raises(Ungrounded):
        hear()
    assert GROUNDS.ungrounded("".join(told)) == []


@pytest.mark.parametrize("text", [*RIGHT, *ENGLISH])
def test_a_stream_tells_what_is_right_whole(text: str) -> None:
    guard = Guard(GROUNDS)
    assert "".join(map(guard.feed, text)) + guard.finish() == text


_FRAGMENTS = st.sampled_from(
    [
        *("20", "19,5", "72,0", "2,0", "x20", "P90", "once", "sette", "Sete", "um", "on", "VII", "I", "sept"),
        *(
            "minutos",
            "Minuten",
            "min",
            "km",
            "Prozent",
            "horas",
            "h",
            "fortnight",
            "couple of",
            "few",
            "tens of",
        ),
        *("minutes", "seventh", "7th", "vingt-cinq", "fünfundzwanzig", "un'ora", "par de", "семь", "минут"),
        *("大约20分钟", "七分", "半", "십오 분", "एक", "घंटे", "٢٠", "دقيقة", "\u0301", "a", "the courier"),
        *(" ", " ", " ", " ", ", ", ". ", "\n", "-", "_", " a ", " bis ", " to ", " more "),
    ]
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_FRAGMENTS, max_size=30).map("".join), st.lists(st.integers(0, 300), max_size=30))
def test_a_stream_is_judged_as_the_whole_text_is(text: str, cuts: list[int]) -> None:
    wrong = GROUNDS.ungrounded(text)
    guard = Guard(GROUNDS)
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    try:
        told = "".join(guard.feed(text[one:after]) for one, after in pairwise(places)) + guard.finish()
    except Ungrounded:
        assert wrong != []
    else:
        assert told == text
        assert wrong == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=80))
def test_no_text_is_too_odd(text: str) -> None:
    ends = [0]
    for figure in numbers_in(text):
        assert ends[-1] <= figure.start < figure.end <= len(text)
        assert text[: figure.end].endswith(figure.text)
        ends.append(figure.end)
