"""Links and HTML: an answer has none, in any form in which something could follow or show it."""

import pytest

from services.agents.links import has_link


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.com/x",
        "see HTTP://example.com",
        "ftp://example.com",
        "www.example.com",
        "![map](x)",
        "[here](x)",
        "mailto:a@example.com",
        "javascript:alert(1)",
        "data:text/html,x",
        '<a href="x">here</a>',
        "<IMG src=x>",
        "custom+scheme://x",
        "See collect.evil.example/track for news.",
        "collect.evil.com",
        "go to 10.0.0.1/x or 10.0.0.1:80",
        "odd.tld?x=1",
        "ｅｖｉｌ．ｃｏｍ",
        "ev\u200bil.c\u200bom",
        "evil\u3002com",
        "evil.ru",
        "look at data.evil.de, please",
        "<evil.de>",
        "[x]: evil.jp",
        "someone@evil.in",
        "\u0435vil.com",
        "\u043f\u0440\u0438\u043c\u0435\u0440.com",
        "\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444",
        "xn--e1afmkfd.xn--p1ai",
        "[a] (/x)",
    ],
)
def test_links_are_found(text: str) -> None:
    assert has_link(text)


@pytest.mark.parametrize(
    "text",
    [
        "<b>Fine</b>",
        "</p>",
        "all<br/>well",
        "<x-frame>",
        '<span class="x">',
        "<p\nid=a>",
        "<!-- a note -->",
        "<!DOCTYPE html>",
        "<input",
        "\uff1cb\uff1e",
    ],
)
def test_html_counts_as_a_link_does(text: str) -> None:
    assert has_link(text)


@pytest.mark.parametrize(
    "text",
    [
        "It arrives at 12:30, in 12 minutes.",
        "Ratio 3:2 (see above) [sic].",
        "order_1: on its way; courier_2: idle",
        "data: none",
        "a < b and b > a",
        "The way is 4.0 km/6.6 km.",
        "Late, e.g. by 4.5 min, i.e. a little.",
        "The courier waits.Then it goes on at 12.30pm.",
        "order.a.b is on its way; No.7 too",
        "versions 1.2.3 and 10.20.30.40",
        "**Late**, by 4.5.In the end\n# Why",
        "merchant #4 (12.5 km) [1] (see above)",
        "order.id and order_1.eta at 12.30.It is <3, if x<y then",
        "U.S. and a.m., at 10.30am, St. Paul; P10\u2013P90",
    ],
)
def test_ordinary_text_has_none(text: str) -> None:
    assert not has_link(text)
