"""Number words and units of other languages than English, and Roman numerals.

Answers are in English. So a number word of another language has no value here: it is a number that nobody
gave. What is spelled like an English word, or is a name as often, counts only before a unit. Units are read
with what they measure, so that digits with one are as good as with an English one.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

# Letters with their marks, which `\w` leaves out.
_MARKS: Final = r"\u0300-\u036f\u064b-\u0652\u0670\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"
_RUN: Final = re.compile(rf"[\w{_MARKS}]+(?:-[\w{_MARKS}]+){{0,16}}")

# Patterns of units, what they measure and how much that is in its base.
_UNITS: Final = (
    (
        r"minut(?:os?|en?|[iayę])?(?!\w)|minuut(?!\w)|dakika\w{0,4}(?!\w)|da?k(?!\w)|menit(?!\w)"
        r"|минут[аыу]?(?!\w)|мин(?!\w)|دقيقة|دقائق|मिनट|分(?!の)|분",
        "DURATION",
        60.0,
    ),
    (
        r"horas?(?!\w)|stunden?(?!\w)|std(?!\w)|heures?(?!\w)|or[ae](?!\w)|uur(?!\w)|uren(?!\w)"
        r"|godzin[aęy]?(?!\w)|godz(?!\w)|saat(?!\w)|час(?:а|ов)?(?!\w)|ساعة|ساعات|घंट[ाे]|घण्ट[ाे]"
        r"|[个個]?小[时時]|時間|시간",
        "DURATION",
        3600.0,
    ),
    (
        r"segundos?(?!\w)|sekunden?(?!\w)|secondes?(?!\w)|second[io](?!\w)|seconden(?!\w)|sekund[ay]?(?!\w)"
        r"|saniye(?!\w)|detik(?!\w)|секунд[аыу]?(?!\w)|ثانية|ثوان|सेकंड|सेकेंड|秒|초",
        "DURATION",
        1.0,
    ),
    (
        r"d[ií]as?(?!\w)|tagen?(?!\w)|jours?(?!\w)|giorn[io](?!\w)|dagen(?!\w)|dni(?!\w)|gün(?!\w)"
        r"|дн(?:я|ей)(?!\w)|день(?!\w)|أيام|يوم|दिन|天|일",
        "DURATION",
        86400.0,
    ),
    (
        r"qui?l[oóô]metros?(?!\w)|kil[oó]metros?(?!\w)|kilometern(?!\w)|kilom[eè]tres?(?!\w)"
        r"|chilometr[io](?!\w)|kilometr(?:y|ów|a)?(?!\w)|км(?!\w)|километр(?:а|ов)?(?!\w)|كيلومتر(?:ات)?|كم(?!\w)"
        r"|किलोमीटर|किमी|公里|千米|キロ(?:メートル)?|킬로(?:미터)?",
        "DISTANCE",
        1000.0,
    ),
    (
        r"metros?(?!\w)|metern(?!\w)|m[eè]tres?(?!\w)|metr[iy](?!\w)|metr[óo]w(?!\w)|метр(?:а|ов)?(?!\w)|м(?!\w)"
        r"|متر|मीटर|米|メートル|미터",
        "DISTANCE",
        1.0,
    ),
    (
        r"por ?c(?:en|ien)to(?!\w)|per cento(?!\w)|pour ?cents?(?!\w)|prozent(?!\w)|procent(?!\w)"
        r"|persen(?!\w)|процент(?:а|ов)?(?!\w)",
        "SHARE",
        0.01,
    ),
)

_BEFORE: Final = r"[*`\"]{0,3}(?:\s?[*`(\[]{0,3}|-)"
# What makes a number of a word stands in its line: of a stream, earlier lines are not read again.
_BEHIND_WORD: Final = r"[*`\"]{0,3}(?:[^\S\n]?[*`(\[]{0,3}|-)"
_PATTERNS: Final = tuple(
    (re.compile(rf"{_BEFORE}(?:{pattern})", re.IGNORECASE), kind, scale) for pattern, kind, scale in _UNITS
)
_FOREIGN_UNIT: Final = re.compile(
    rf"{_BEHIND_WORD}(?:{'|'.join(pattern for pattern, _, _ in _UNITS)})", re.IGNORECASE
)
_UNIT: Final = re.compile(
    rf"{_BEHIND_WORD}(?:minutes?|mins?|hours?|hrs?|seconds?|secs?|km|kms|kilomet(?:er|re)s?|met(?:er|re)s?|miles?"
    r"|per ?cent|%)(?!\w)",
    re.IGNORECASE,
)
_SHORT_UNIT: Final = re.compile(rf"{_BEHIND_WORD}(?:min|mins|km)(?!\w)", re.IGNORECASE)


def _folded(word: str) -> str:
    """As words are compared: in small letters, without accents and other marks."""
    if word.isascii():
        return word.lower()
    apart = unicodedata.normalize("NFD", word.casefold())
    return "".join(char for char in apart if unicodedata.category(char) not in ("Mn", "Cf"))


def _words(text: str) -> frozenset[str]:
    return frozenset(_folded(word) for word in text.split())


def _joined(ones: str, link: str, tens: str) -> str:
    """fünfundzwanzig"""
    return " ".join(f"{one}{link}{ten}" for one in ones.split() for ten in tens.split())


# Of Italian, the last vowel falls before the first of `uno` and `otto`.
_ITALIAN_TENS: Final = "venti trenta quaranta cinquanta sessanta settanta ottanta novanta"
_ALONE: Final = _words(
    # Portuguese
    "dois duas quatro cinco sete oito onze treze catorze quatorze quinze dezesseis dezasseis dezessete "
    "dezassete dezoito dezenove dezanove vinte trinta quarenta cinquenta sessenta oitenta noventa "
    "duzentos duzentas trezentos trezentas quatrocentos quinhentos seiscentos setecentos oitocentos "
    "novecentos "
    # Spanish
    "cuatro siete ocho nueve trece catorce dieciséis diecisiete dieciocho diecinueve veinte veintiún "
    "veintiuno veintiuna veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho "
    "veintinueve treinta cuarenta cincuenta sesenta setenta ochenta cien ciento doscientos trescientos "
    "cuatrocientos quinientos seiscientos setecientos ochocientos novecientos "
    # German
    "zwei drei vier fünf fuenf sechs sieben acht neun zehn zwölf zwoelf dreizehn vierzehn fünfzehn fuenfzehn "
    "sechzehn siebzehn achtzehn neunzehn zwanzig dreißig dreissig vierzig fünfzig fuenfzig sechzig siebzig "
    "achtzig neunzig anderthalb eineinhalb zweieinhalb "
    # French
    "deux trois quatre cinq huit treize quatorze vingt vingts trente quarante cinquante soixante "
    "septante huitante nonante "
    # Italian
    "quattro cinque sette dieci undici dodici tredici quattordici quindici sedici diciassette diciotto "
    "diciannove cento duecento trecento quattrocento cinquecento "
    # Dutch
    "twee drie vijf zes zeven acht negen twaalf dertien veertien vijftien zestien zeventien achttien "
    "negentien twintig dertig veertig vijftig zestig zeventig tachtig negentig anderhalf anderhalve kwartier "
    # Polish
    "trzy trzech cztery czterech pięć pięciu sześć sześciu siedem siedmiu osiem ośmiu dziewięć dziewięciu "
    "dziesięć dziesięciu jedenaście dwanaście trzynaście czternaście piętnaście szesnaście siedemnaście "
    "osiemnaście dziewiętnaście dwadzieścia trzydzieści czterdzieści pięćdziesiąt sześćdziesiąt "
    "siedemdziesiąt osiemdziesiąt dziewięćdziesiąt dwieście półtora półtorej kwadrans "
    # Turkish
    "yedi sekiz dokuz yirmi otuz kırk altmış yetmiş seksen doksan "
    # Indonesian
    "tujuh delapan sembilan sepuluh sebelas belas puluh seratus seribu ratus "
    # Russian
    "один одна одну одного одной два две двух три трёх четыре четырёх пять пяти шесть шести семь семи восемь "
    "восьми девять девяти десять десяти одиннадцать двенадцать тринадцать четырнадцать пятнадцать "
    "шестнадцать семнадцать восемнадцать девятнадцать одиннадцати двенадцати пятнадцати двадцать двадцати "
    "тридцать тридцати сорок сорока пятьдесят пятидесяти шестьдесят шестидесяти семьдесят восемьдесят "
    "девяносто сто ста двести триста четыреста пятьсот тысяча тысячи полтора полторы полчаса "
    # Arabic
    "واحد واحدة اثنان اثنين اثنتان اثنتين ثلاث ثلاثة أربع أربعة خمس خمسة ست ستة سبع سبعة ثمان ثماني ثمانية "
    "تسع تسعة عشر عشرة عشرون عشرين ثلاثون ثلاثين أربعون أربعين خمسون خمسين ستون ستين سبعون سبعين ثمانون "
    "ثمانين تسعون تسعين مئة مائة مئتان مئتين ألف دقيقتان دقيقتين ساعتان ساعتين كيلومترين "
    # Hindi
    "दो तीन चार पाँच पांच छह छः छे सात आठ नौ दस ग्यारह बारह तेरह चौदह पंद्रह पन्द्रह सोलह सत्रह अठारह उन्नीस बीस "
    "इक्कीस बाईस तेईस चौबीस पच्चीस छब्बीस सत्ताईस अट्ठाईस अठ्ठाईस उनतीस तीस इकतीस बत्तीस तैंतीस चौंतीस पैंतीस "
    "छत्तीस सैंतीस अड़तीस उनतालीस चालीस इकतालीस बयालीस तैंतालीस चौवालीस चवालीस पैंतालीस छियालीस सैंतालीस "
    "अड़तालीस उनचास पचास पचपन साठ सत्तर अस्सी नब्बे सौ हज़ार हजार डेढ़ ढाई आधा आधे "
    # Korean
    "하나 열 스물 서른 마흔 쉰 예순 "
    # Of several words in one
    + _joined(
        "ein zwei drei vier fünf sechs sieben acht neun",
        "und",
        "zwanzig dreißig dreissig vierzig fünfzig sechzig siebzig achtzig neunzig",
    )
    + " "
    + _joined(
        "een twee drie vier vijf zes zeven acht negen",
        "en",
        "twintig dertig veertig vijftig zestig zeventig tachtig negentig",
    )
    + " "
    + _joined(_ITALIAN_TENS, "", "due tre tré quattro cinque sei sette nove")
    + " "
    + _joined(" ".join(ten[:-1] for ten in _ITALIAN_TENS.split()), "", "uno otto")
)
# English words, names, or words of many senses in their own language: only before a unit that is not English.
_BEFORE_FOREIGN_UNIT: Final = _words(
    "um uma meia meio seis nove dez doze setenta cem mil alguns poucos "
    "un una unos unas uno dos tres diez once doce quince noventa media medio algunos "
    "ein eine einer einem einen eins elf hundert tausend halbe halben paar dutzend einige einigen "
    "une on demi demie quelques onze seize "
    "due tre sei otto nove venti trenta quaranta cinquanta sessanta settanta ottanta novanta mille "
    "mezza mezzo qualche een tien elf honderd duizend half halve enkele "
    "jeden jedna jedną dwa dwie dwóch sto pół kilka tuzin "
    "bir iki üç dört beş altı on elli yüz bin yarım birkaç "
    "satu dua tiga empat lima enam setengah beberapa "
    "несколько пару बस एक कुछ نصف نص ربع بضع "
    "두 세 네 다섯 여섯 일곱 여덟 아홉 한 몇"
)
# French shares its units with English.
_BEFORE_ANY_UNIT: Final = _words(
    "sept neuf dix seize cent cents mille quinze onze douze deux demi venti trenta tre sei dos tres seis diez"
)
_PLAIN: Final = _ALONE | _BEFORE_FOREIGN_UNIT | _BEFORE_ANY_UNIT
# zweihundertfünfzig
_HUNDREDS: Final = ("hundert", "honderd", "tausend", "duizend")
_SHORTEST_HUNDRED: Final = 7
# siebenminütig, as compared
_LASTING: Final = ("minutig", "stundig")
_PHRASE: Final = re.compile(
    r"\b(?:mezz|un|quart|quarto)['’](?:or|heur)[ae]\b|\bdemi[e]?[- ]heure\b|\bhalf uur\b"
    r"|\b(?:un |trois |tre |tres |três )?(?:quarto|cuarto|quart)s?(?: de | d['’])(?:hora|ora|heure)\b"
    r"|\b(?:drei)?viertelstunden?\b"
    # un par de minutos, une dizaine de minutes
    r"|\b(?:par|paio|d[úu]zias?|dezenas?|docenas?|decenas?|douzaines?|dizaines?|vingtaine|trentaine|decin[ae]"
    r"|dozzin[ae]|ventina|trentina) d[ei] (?:minut|hor|heur|or[ae]|seg|sec|qui?l|chil|m[eè]tr)\w{0,12}"
    r"|\bsetengah jam\b|\b(?:satu|dua|tiga|empat|lima|enam) jam\b",
    re.IGNORECASE,
)
# 三十五分钟: words of numerals alone, not set apart from what stands around them.
_EAST: Final = "〇零一二三四五六七八九十百千万萬两兩壱弐参半数數几幾"
_EASTERN: Final = re.compile(rf"(?<![{_EAST}])[{_EAST}]+")
_EAST_UNIT: Final = re.compile(
    r"[^\S\n]?(?:多|来|來|余)?[个個か]?(?:分|小[时時]|時間|[时時]|点|點|秒|公里|千米|里|米|キロ|メートル|[天日]|刻)"
)
_KOREAN: Final = re.compile(r"(?<![일이삼사오육칠팔구십백천])[일이삼사오육칠팔구십백천]+")
_KOREAN_UNIT: Final = re.compile(r" ?(?:분|시간|초|킬로|미터|퍼센트)")
_ROMAN: Final = re.compile(
    r"(?=.)M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})", re.IGNORECASE
)
_LONGEST_ROMAN: Final = 15
# `I` is a person; these stand for other things in capitals, and the rest in small letters.
_NO_ROMAN: Final = frozenset({"I", "C", "D", "L", "M", "CM", "MM", "CC", "DI", "MI", "LI", "MIX", "MD", "DC"})


def unit_at(text: str, at: int) -> tuple[int, str, float] | None:
    """The unit that stands at `at`: its end, what it measures and how much it is of the base."""
    for pattern, kind, scale in _PATTERNS:
        match = pattern.match(text, at)
        if match is not None:
            return match.end(), kind, scale
    return None


def is_unit_of_word(text: str, at: int) -> bool:
    """Whether one of these units stands at `at`, in the same line."""
    return _FOREIGN_UNIT.match(text, at) is not None


def last_word(text: str, start: int, end: int) -> int:
    """Where the last word of a part of the text begins."""
    while end > start and not text[end - 1].isspace():
        end -= 1
    return end


def numbers_in(text: str) -> Iterator[tuple[int, int, int]]:
    """Number words and numerals with their units: where each begins, is known to be a number, and ends."""
    for run in _RUN.finditer(text):
        if run[0].isascii() and run[0].isalpha() and not _may_count(run[0].lower()):
            continue  # so is nearly every word
        if _has_digit(run[0]):  # an id
            continue
        at = run.start()
        for word in run[0].split("-"):
            found = _read(text, word, at)
            if found is not None:
                yield at, *found
                break
            at += len(word) + 1
    if not text.isascii():
        yield from _without_blanks(text, _EASTERN, _EAST_UNIT, 2)
        yield from _without_blanks(text, _KOREAN, _KOREAN_UNIT, 99)
    for phrase in _PHRASE.finditer(text):
        yield phrase.start(), last_word(text, *phrase.span()), phrase.end()


def _may_count(plain: str) -> bool:
    return (
        plain in _PLAIN
        or (plain[0] in "mdclxvi" and _ROMAN.fullmatch(plain) is not None)
        or _is_hundred(plain)
    )


def _is_hundred(plain: str) -> bool:
    return len(plain) >= _SHORTEST_HUNDRED and any(part in plain for part in _HUNDREDS)


def _has_digit(word: str) -> bool:
    return any(char.isdigit() for char in word)


def _read(text: str, word: str, at: int) -> tuple[int, int] | None:
    """Where the word at `at` is known to be a number, and where that ends; None if it is none."""
    end = at + len(word)
    word = word.strip("_")  # emphasis
    plain = _folded(word)
    if not plain:
        return None
    if (
        plain in _ALONE
        or (word[0] > "\u0600" and _without_prefix(plain) in _ALONE)
        or any(part in plain for part in _LASTING)
    ):
        unit = _FOREIGN_UNIT.match(text, end) or _UNIT.match(text, end)
        if not _is_name(text, word, at, end):
            return at, end if unit is None else unit.end()
        return None if unit is None else (last_word(text, at, unit.end()), unit.end())
    unit = None
    if plain in _BEFORE_FOREIGN_UNIT:
        unit = _FOREIGN_UNIT.match(text, end)
        if unit is None and len(plain) > 2:
            unit = _SHORT_UNIT.match(text, end)
    if unit is None and (plain in _BEFORE_ANY_UNIT or _is_hundred(plain) or _is_roman(word)):
        unit = _UNIT.match(text, end) or _FOREIGN_UNIT.match(text, end)
    return None if unit is None else (last_word(text, at, unit.end()), unit.end())


def _is_name(text: str, word: str, at: int, end: int) -> bool:
    """Quattro Formaggi, the Rua Sete: with a capital, but not at the head of a sentence or before another."""
    if not word.istitle():
        return False
    before = text[max(0, at - 3) : at].rstrip(" *_\"'(")
    amid = before[-1:].isalnum() or before[-1:] == ","
    return amid or (text[end : end + 1] in (" ", "-") and text[end + 1 : end + 2].isupper())


def _without_prefix(word: str) -> str:
    """Arabic writes `and`, `in` and the article as parts of the word."""
    bare = word[1:] if word[0] in "وبلف" else word
    return bare.removeprefix("ال")


def _is_roman(word: str) -> bool:
    if len(word) > _LONGEST_ROMAN or not word.isascii() or _ROMAN.fullmatch(word) is None:
        return False
    if word.upper() in _NO_ROMAN:
        return False
    return word.isupper() or (word.islower() and len(word) > 1)


def _without_blanks(
    text: str, numerals: re.Pattern[str], unit: re.Pattern[str], enough: int
) -> Iterator[tuple[int, int, int]]:
    """Numerals before a unit, or so many of them that they can be nothing else."""
    for match in numerals.finditer(text):
        measure = unit.match(text, match.end())
        if measure is not None:
            yield match.start(), last_word(text, match.start(), measure.end()), measure.end()
        elif len(match[0]) >= enough:
            yield match.start(), *match.span()
