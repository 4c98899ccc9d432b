"""Reading recorded fixes."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from services.sim.traces import BadTraceError, read_traces

HEADER = "lat,lng,datetime,uid\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "fixes.csv"
    path.write_text(text, "utf-8")
    return path


def test_a_gap_over_five_minutes_splits_and_exactly_five_does_not(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER
        + "1,2,2008-10-23 05:00:00,a\n1,2,2008-10-23 05:05:00,a\n"
        + "1,2,2008-10-23 05:10:01,a\n1,2,2008-10-23 04:00:00,b\n",
    )
    traces = read_traces(path)
    assert [(trace.uid, trace.number, len(trace)) for trace in traces] == [
        ("b", 0, 1),
        ("a", 0, 2),
        ("a", 1, 1),
    ]


def test_speed_is_of_the_way_from_the_fix_before_and_within_the_contract(tmp_path: Path) -> None:
    # 0.001 degrees of latitude are 111.19 m; in 10 s that is 40.03 km/h. Then a leap no fix may report.
    path = write(
        tmp_path,
        HEADER
        + "0,0,2008-10-23 05:00:00,a\n0.001,0,2008-10-23 05:00:10,a\n"
        + "50,0,2008-10-23 05:00:11,a\n50,0,2008-10-23 05:00:11,a\n",
    )
    [trace] = read_traces(path)
    np.testing.assert_allclose(trace.speed_kph, [0, 40.03, 2000, 0], rtol=1e-3)


def test_columns_may_stand_in_any_order_and_the_file_may_be_packed(tmp_path: Path) -> None:
    path = tmp_path / "fixes.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("uid,extra,datetime,lng,lat\na,x,2008-10-23T05:00:00,2,1\n")
    [trace] = read_traces(path)
    assert (trace.lat.tolist(), trace.lon.tolist()) == ([1.0], [2.0])


GOOD = "1,2,2008-10-23 05:00:00,a\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lat,lng,uid\n1,2,a\n", ": line 1 has no column datetime"),
        (
            HEADER + GOOD + "x,2,2008-10-23 05:00:00,a\n",
            ": line 3 has 'x' in column lat, expected is a latitude",
        ),
        (HEADER + ",2,2008-10-23 05:00:00,a\n", ": line 2 has '' in column lat, expected is a latitude"),
        (HEADER + "91,2,2008-10-23 05:00:00,a\n", " has '91' in column lat, .* in degrees from -90 to 90"),
        (HEADER + "nan,2,2008-10-23 05:00:00,a\n", " has 'nan' in column lat, "),
        (HEADER + "1,-181,2008-10-23 05:00:00,a\n", " has '-181' in column lng, .* from -180 to 180"),
        (HEADER + GOOD + "\n1,2\n", ": line 4 has 2 columns, expected are 4: lat,lng,datetime,uid"),
        (HEADER + "1,2,yesterday,a\n", " has 'yesterday' in column datetime, expected is a time in UTC"),
        (HEADER + "1,2,,a\n", ": line 2 has '' in column datetime, expected is a time in UTC"),
        (HEADER, "holds no fix"),
        ("", "no column"),
    ],
)
def test_a_bad_file_is_refused_with_line_column_and_what_is_expected(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(BadTraceError, match=words):
        read_traces(write(tmp_path, text))


def test_each_fix_knows_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "1,2,2008-10-23 05:00:10,a\n\n1,2,2008-10-23 05:00:00,a\n")
    [trace] = read_traces(path)
    assert trace.line.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fixes.csv.gz", gzip.compress(HEADER.encode() * 100)[:-30], "it ends too early"),
        ("fixes.csv.gz", gzip.compress(HEADER.encode())[:10] + b"\xff" * 30, "it is damaged"),
        ("fixes.csv", HEADER.encode() + b"\xff", "it is not text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_words(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadTraceError, match=f"{name} cannot be read: {words}"):
        read_traces(tmp_path / name)


def test_a_file_that_is_not_packed_although_its_name_says_so_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fixes.csv.gz"
    path.write_text(HEADER)
    with pytest.raises(BadTraceError, match="cannot be read: it is not packed by gzip"):
        read_traces(path)


@pytest.mark.realdata
def test_the_real_sample_holds_549_deliveries() -> None:
    folder = os.environ.get("WAYMESH_BENCH_DATA")
    if not folder:
        pytest.skip("WAYMESH_BENCH_DATA is not set")
    traces = read_traces(Path(folder) / "gps" / "geolife_sample.csv.gz")
    assert sum(map(len, traces)) == 217_653
    assert sum(trace.scored for trace in traces) == 549
    assert sum(int((trace.speed_kph > 200).sum()) for trace in traces) == 146
