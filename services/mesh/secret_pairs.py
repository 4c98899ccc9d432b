r"""Masks the values that stand by secret names in running text: settings, log lines, commands, objects.

A name, a separator and a value, as in `api_key=x`, `{'secret_key': 'x'}`, `{\"token\": \"x\"}`,
`--password x`, `('Authorization', 'x')`, `Cookie: a=x; b=y`. Time grows with the length of the text only,
whoever wrote it: no part of it is looked at more often than a bounded number of times.
"""

import re
from typing import Final

from services.mesh.secret_names import Naming, naming

MASK: Final = "[redacted]"
# What a count may be; a longer number could be that of a card.
PLAIN_NUMBER: Final = re.compile(r"[+-]?\d{1,12}(?:[.,]\d{1,12}){0,3}(?:[eE][+-]?\d{1,3})?%?")

_PAIR: Final = re.compile(
    r"(?<![\w.\-])(?P<tag><(?:\w++:)?+)?(?P<name>(?P<dash>--?(?=\w))?[\w.\-]++)(?:"
    # name=, "name": , \"name\" => , environ['name'] = , name[0]=, user[name]=, %22name%22%3A
    r"(?P<close>(?:\\*+[\"'`]|%2[27])\]?|\]|%5[dD])?(?P<index>(?:\[\w{0,16}+\]|%5[bB]\w{0,16}+%5[dD]){0,4}+)\s{0,8}+"
    r"(?P<sep>[!:=＝：]?[=＝]{1,2}+>?|[:：]{1,2}+|%3[aAdD])[^\S\n]*+"
    r"(?:(?:(?<=:)\n|(?<=:[^\S\n])\n)(?:[^\S\n]++|(?=- )))?"
    # ('name', 'value'), ['--name', 'value'], (b'name', b'value')
    r"|(?P<comma>\\*+[\"'`]\s{0,8}+,\s{0,8}+(?=[bBuU]?\\*[\"'`]))"
    # <name>value</name>
    r"|(?(tag)(?P<tagged>(?:\s[^<>]{0,128}+)?+>)|(?!))"
    # --name value
    r"|(?(dash)[ \t]{1,8}+(?!--|\s)|(?!))"
    # the name 'value'
    r"|(?P<spoken>[ \t]{1,8}+(?=[\"'`])))"
)
# "name": "password", "value": — the name as a value itself.
_NAMED: Final = re.compile(
    r"\\*+[\"'`]?(?P<name>[\w.\-]++)\\*+[\"'`]?\s{0,32}+(?:,\s{0,32}+)?"
    r"\\*+[\"'`]?(?i:values?|val|content|input)\\*+[\"'`]?\s{0,8}+(?:[:=]\s{0,8}+|(?=\{))"
)
# In lower case.
NAMING_KEYS: Final = frozenset(
    "name key header field param parameter variable attribute option setting loc".split()  # noqa: SIM905
)
VALUE_KEYS: Final = frozenset("value values val content input old new default".split())  # noqa: SIM905
# Names after which a value stands in quotes without more ado: the password 'x' is wrong.
SPOKEN: Final = r"(?:passw(?:or)?d|pwd|passphrase|passcode|secret|api[_-]?key)"
_SPOKEN_END: Final = re.compile(rf"(?i){SPOKEN}\Z")
_HEADERS: Final = frozenset({"cookie", "set-cookie", "authorization", "proxy-authorization"})
_SCHEME: Final = re.compile(r"(?i)(?:bearer|basic)\s+")
# `auth.py:12` is a place in a file.
_FILE: Final = re.compile(
    r"(?i)\.(?:pyi?|[jt]sx?|mjs|go|java|rs|cc?|cpp|h|rb|php|cs|kt|proto|sql|json|ya?ml|toml)$"
)
_PLACE: Final = re.compile(r"\d{1,7}(?!\w)")
# The second words of names that are written as two: `private key: x`.
_SECOND: Final = frozenset({"key", "number", "code", "id"})
_WORD_BEFORE: Final = re.compile(r"(?<!\w)\w{1,24} $")

_OPEN: Final = re.compile(r"(\\{0,7})([\"'`])")
_OPENED: Final = re.compile(r"(\\{0,7})([\"'`])\Z")
_CLOSE: Final = {quote: re.compile(rf"(\\*+){quote}") for quote in "\"'`"}
_BARE: Final = re.compile(
    r"(?:(?i:bearer|basic)[^\S\n]+)?"
    r"(?:\[redacted\]|[^\s\"'`&,;}\]\\(\[{)]|\\(?![\"'`])|\)(?![\s,;]|\Z))*+"
)
_PREFIX: Final = re.compile(r"(?i)(?:[bruf]{1,2}|\$)\Z")
_NOTHING: Final = re.compile(r"(?:None|null)(?![^\s,;)}\]&\"'])")
_BRACKETS: Final = re.compile(r"\"(?:[^\"\\]|\\.)*+\"|'(?:[^'\\]|\\.)*+'|[()\[\]{}]", re.DOTALL)
# Of YAML: text over several lines, and a list.
_BLOCK: Final = re.compile(r"[|>][+\-\d]{0,2}[^\S\n]*+(?:\n++[^\S\n]++[^\n]*+)++")
_ITEMS: Final = re.compile(r"(?<=[\n \t])- [^\n]*+(?:\n[^\S\n]*+- [^\n]*+)*+")
_TAG_END: Final = re.compile(r"/?>(?=[\s<]|\Z)")
# How far the end of an element of XML is looked for.
_MAX_ELEMENT: Final = 1_024
_LINE_END: Final = re.compile(r"[\r\n]|\Z")
# Of one value in brackets, and how many without an end are looked for before the rest of the text is masked.
_MAX_BRACKETS: Final = 4_096
_MAX_OPEN: Final = 16


def mask_pairs(text: str) -> str:
    """The text, its values under secret names masked. Done again, it changes nothing more."""
    scan = _Scan(text)
    return scan.masked()


class _Scan:
    """One way through one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open = 0

    def masked(self) -> str:
        text, parts, done, place = self._text, list[str](), 0, 0
        while (match := _PAIR.search(text, place)) is not None:
            start = match.end()
            place = start if match["tagged"] is None else match.end("name")
            named = _NAMED.match(text, start) if match["name"].lower() in NAMING_KEYS else None
            if named is not None:
                said = naming(named["name"])
                if said is Naming.NOTHING:
                    continue
                start = named.end()
                end, shown = self._value(start)
                if said is Naming.COUNT and _is_count(text[start:end]):
                    continue
            else:
                end, shown = self._found(match) or (start, "")
            if end > start:
                parts += (text[done:start], shown)
                done = place = end
        return "".join((*parts, text[done:])) if parts else text

    def _found(self, match: re.Match[str]) -> tuple[int, str] | None:
        """Where the value ends that is to be masked, and what stands there instead."""
        text, name, at, start = self._text, match["name"], match.start("name"), match.end()
        said = naming(name)
        if said is Naming.NOTHING and match["index"]:
            said = naming(match["index"])
        if said is Naming.NOTHING:
            if name.lower() not in _SECOND or match["sep"] is None:
                return None
            before = _WORD_BEFORE.search(text, max(0, at - 26), at)
            if before is None or naming(f"{before[0]}{name}") is Naming.NOTHING:
                return None
            said = naming(f"{before[0]}{name}")
        if match["comma"] is not None:
            return self._second(match)
        if match["tagged"] is not None:
            end = text.find("</", start, start + _MAX_ELEMENT)
            return (end, MASK) if end > start and text[start - 2] != "/" else None
        if match["spoken"] is not None:
            return self._quoted(start) if _SPOKEN_END.search(name) is not None else None
        if match["sep"] is not None:
            if match["sep"] == ":" and _FILE.search(name) and _PLACE.match(text, start):
                return None
            if text.startswith(f"{MASK}@", start) and text[max(0, at - 2) : at] == "//":
                return None  # the user of an address, whose password is masked already
            if match["close"] is None and name.lower() in _HEADERS:
                header = self._header(match)
                if header is not None:
                    return header
        end, shown = self._value(start)
        if said is Naming.COUNT and _is_count(text[start:end]):
            return None
        return end, shown

    def _second(self, match: re.Match[str]) -> tuple[int, str] | None:
        """The second of a pair, or the word after an option."""
        text, start, at = self._text, match.end(), match.start("name")
        prefix = text[start] if text[start] in "bBuU" else ""
        quoted = self._quoted(start + len(prefix))
        if quoted is None:
            return None
        end, shown = quoted[0], prefix + quoted[1]
        if match["dash"] is None:
            before = text[max(0, at - 10) : at].rstrip("\"'`\\").rstrip("bBuU")
            if before[-1:] not in {"(", "["} or text[end : end + 9].lstrip()[:1] not in {")", "]"}:
                return None
        return end, shown

    def _header(self, match: re.Match[str]) -> tuple[int, str] | None:
        """The whole of a header's line, or what is in quotes with its name; the scheme is worth seeing."""
        text, start = self._text, match.end()
        if match["sep"] != ":" and text[start : start + 1] in {"'", '"', "`", "(", "[", "{", "\\"}:
            return None
        at = match.start("name")
        opened = _OPENED.search(text[max(0, at - 8) : at])
        close = None if opened is None else self._close(start, len(opened[1]), opened[2])
        end = self._line_end(start, len(text) if close is None else close[0])
        scheme = _SCHEME.match(text, start, end)
        if scheme is not None and scheme.end() < end:
            return end, scheme[0] + MASK
        return end, MASK if text[start:end].strip() else text[start:end]

    def _value(self, start: int) -> tuple[int, str]:
        """Where the value ends that begins here, and what stands there instead."""
        text = self._text
        if (nothing := _NOTHING.match(text, start)) is not None:
            return nothing.end(), nothing[0]
        for lines in (_BLOCK, _ITEMS):
            if (found := lines.match(text, start)) is not None:
                return found.end(), MASK
        quoted = self._quoted(start)
        if quoted is not None:
            end, shown = quoted
            if _TAG_END.match(text, end) is not None:
                return end, shown
            rest = self._bare(end, _OPEN.match(text, start))
            return rest, shown if MASK in shown or rest == end else MASK
        if _OPEN.match(text, start) is not None:
            return self._line_end(start), MASK
        end = self._bare(start)
        return end, MASK if end > start else ""

    def _bare(self, start: int, goes_on: re.Match[str] | None = None) -> int:
        """Where a value ends that is not in quotes, or what follows its quotes, of which more may follow."""
        text, end = self._text, start
        while True:
            match = _BARE.match(text, end)
            grown = end if match is None else match.end()
            if text[grown : grown + 1] in {"(", "[", "{"}:
                grown = self._bracketed(grown)
            elif (opened := _OPEN.match(text, grown)) is not None:
                # b'…', or what goes on in the quotes that it began with
                if (goes_on is None or opened[0] != goes_on[0]) and not (
                    grown - start <= 2 and _PREFIX.match(text[start:grown])
                ):
                    return grown
                quoted = self._quoted(grown)
                grown = self._line_end(grown) if quoted is None else quoted[0]
            else:
                return grown
            end = grown
            if end >= len(text):
                return end

    def _bracketed(self, start: int) -> int:
        if self._open >= _MAX_OPEN:
            return len(self._text)
        depth = 0
        for match in _BRACKETS.finditer(self._text, start, start + _MAX_BRACKETS):
            if match[0] in {"(", "[", "{"}:
                depth += 1
            elif match[0] in {")", "]", "}"}:
                depth -= 1
                if depth == 0:
                    return match.end()
        self._open += 1
        return self._line_end(start)

    def _quoted(self, start: int) -> tuple[int, str] | None:
        """Where the quotes end that open here, and what stands there instead; None if they do not."""
        opened = _OPEN.match(self._text, start)
        if opened is None:
            return None
        close = self._close(opened.end(), len(opened[1]), opened[2])
        if close is None:
            return None
        inner = MASK if close[0] > opened.end() else ""
        return close[1], f"{opened[0]}{inner}{self._text[close[0] : close[1]]}"

    def _close(self, start: int, escaped: int, quote: str) -> tuple[int, int] | None:
        """Where the quote is that closes, with as many backslashes as the one that opened had.

        Text in quotes is often in quotes again, its own then with 1, 3 or 7 backslashes each.
        """
        for match in _CLOSE[quote].finditer(self._text, start):
            own = len(match[1]) % (2 * (escaped + 1))
            if own == escaped:
                return match.end() - 1 - own, match.end()
            if own < escaped:  # what it stands in ends here
                return match.end() - 1, match.end() - 1
        return None

    def _line_end(self, start: int, limit: int | None = None) -> int:
        match = _LINE_END.search(self._text, start, len(self._text) if limit is None else limit)
        return len(self._text) if match is None else match.start()


def _is_count(value: str) -> bool:
    return PLAIN_NUMBER.fullmatch(value.strip("\"'`\\").rstrip(".)")) is not None
