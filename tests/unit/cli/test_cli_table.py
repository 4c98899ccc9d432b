"""Tables on terminals of several widths."""

import io
import sys

import pytest

from services.cli.table import print_table

HEADS = ["ID", "DIED", "FROM", "GROUP", "EVENT", "REPLAYED", "REASON"]
REASON = "waymesh.order.v1.OrderCommand has no field 'teleport', which the sender may have newer"
ROW = [
    "3f2a91c4",
    "2026-01-31 12:00:00Z",
    "order-commands/3@1234567",
    "waymesh.route",
    "0b7e7c0e-5a1f-4a52-9a33-3a3f6c9f9d10",
    "2026-02-01 12:00:00Z (2 times)",
    REASON,
]


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def printed(
    monkeypatch: pytest.MonkeyPatch, heads: list[str], rows: list[list[str]], columns: int | None
) -> list[str]:
    """Lines on a terminal so wide; into a file without a width."""
    stream = Terminal() if columns is not None else io.StringIO()
    monkeypatch.setenv("COLUMNS", str(columns or 20))
    monkeypatch.setattr(sys, "stdout", stream)
    print_table(heads, rows)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_narrow_terminal_gets_all_there_is(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    lines = printed(monkeypatch, HEADS, [ROW, ROW], columns)
    assert max(map(len, lines)) <= columns
    words = " ".join(" ".join(lines).split())
    for cell in (*HEADS, *ROW[:-1]):
        assert cell in words
    for word in REASON.split():
        assert words.count(word) >= 2
    assert lines[0].startswith("ID        DIED")
    assert sum(line.startswith("3f2a91c4  2026") for line in lines) == 2


def test_the_last_column_is_wrapped_where_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, ["TOPIC", "STILL TO READ"], [["orders", "a-1, " * 12 + "b-2"]], 40)
    assert lines[0] == "TOPIC   STILL TO READ"
    assert len(lines) == 4
    assert [line[:11] for line in lines[1:]] == ["orders  a-1", " " * 8 + "a-1", " " * 8 + "b-2"]


def test_an_empty_cell_makes_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, ["TOPIC" + "." * 60, "STILL TO READ"], [["orders", ""], ["x", "y" * 30]], 80)
    assert lines[2:] == ["orders", "x", "    " + "y" * 30]


def test_a_file_gets_one_line_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, HEADS, [ROW], None)
    assert len(lines) == 2
    assert lines[1].endswith(REASON)


def test_a_row_that_fits_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, ["A", "B"], [["1", "two"]], 80) == ["A  B", "1  two"]
