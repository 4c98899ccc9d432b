"""Number words of English: `twenty-five`, `a hundred and five`, `two and a half`, `half`."""

import re
from typing import Final

_ONES: Final = {
    word: value
    for value, word in enumerate(
        re.findall(
            r"\w+",
            """
            zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
            sixteen seventeen eighteen nineteen
            """,
        )
    )
}
_TENS: Final = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_BIG: Final = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000}
_MOST: Final = 10**15
_DIGIT_WORDS: Final = "|".join(list(_ONES)[1:10])
_LONGEST_FIRST: Final = "|".join(sorted(_ONES, key=len, reverse=True))
_SMALL: Final = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{_DIGIT_WORDS}))?|{_LONGEST_FIRST})"
_BIG_ONES: Final = "|".join(f"{word}s?" for word in _BIG)
_ROUND: Final = rf"(?:(?:{_SMALL}|an?)[- ])?(?:{_BIG_ONES})\b"

WHOLE: Final = rf"(?:{_ROUND}(?:[- ](?:(?:and|of)[- ])?{_ROUND})*(?:[- ](?:and[- ])?{_SMALL}\b)?|{_SMALL})"
"""A whole number in words, as a pattern."""
VAGUE: Final = re.compile(
    r"(?:couple(?: of)?|few|several|handful of|(?:ten|dozen|score|hundred|thousand)s of)"
    r"(?: (?:more|extra|additional|full|good|short|long))?[ -]"
    r"(?:seconds?|secs|minutes?|mins?|hours?|hrs|days|weeks|kilomet(?:er|re)s|kms?|met(?:er|re)s|miles)\b"
    r"|fortnights?\b",
    re.IGNORECASE,
)
"""So much of a measure as nobody can look up: `couple of minutes`, `tens of metres`."""
ORDINAL: Final = re.compile(
    r"(?:\d+(?:st|nd|rd|th)|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teenth|(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)ieth)"
    r"[ -](?:seconds?|minutes?|mins?|hours?|kilomet(?:er|re)s?|kms?|miles?)\b",
    re.IGNORECASE,
)
"""`the twentieth minute`. The first and second are said of any minute."""
_PHRASE_WORDS: Final = """
    couple few several handful tens dozens scores hundreds thousands fortnight fortnights
    third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth
    eightieth ninetieth
    """
PHRASE_WORDS: Final = frozenset(_PHRASE_WORDS.split())
"""Words with which those may begin."""
NUMBER_WORDS: Final = (
    frozenset(_ONES) | frozenset(_TENS) | {f"{word}{end}" for word in _BIG for end in ("", "s")}
)
"""Every word of which one may consist but `a` and `and`."""


def value_of(words: str) -> float:
    """What a whole number in words comes to."""
    total, part = 0, 0
    for word in re.split(r"[- ]+", words.lower()):
        if word in _ONES:
            part += _ONES[word]
        elif word in _TENS:
            part += _TENS[word]
        elif word.rstrip("s") in _BIG:
            big = _BIG[word.rstrip("s")]
            if big >= 1000:
                total, part = total + max(part, 1) * big, 0
            else:
                part = max(part, 1) * big
            # `hundred hundred hundred …` has no end.
            total, part = min(total, _MOST), min(part, _MOST)
    return float(total + part)
