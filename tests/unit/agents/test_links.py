"""Links: an answer has none, in any form in which something could follow it."""

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
    ],
)
def test_links_are_found(text: str) -> None:
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
    ],
)
def test_ordinary_text_has_none(text: str) -> None:
    assert not has_link(text)
