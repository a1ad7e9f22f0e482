"""Times in people's own logs: each way of writing them, and what is refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.reading.duck import connect
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import load, open_table
from jaxrec.data.reading.times import CALENDARS, plausible_range, read_times
from jaxrec.errors import UserError

MOMENT = 1_700_000_550_000  # 2023-11-14 22:22:30 UTC, in ms


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with connect(tmp_path_factory.mktemp("spill"), threads=1) as connection:
        yield connection


def times_of(duck: Any, file: Path, unit: str = "auto", time_format: str | None = None) -> tuple[str, list[int]]:
    """The unit found, and the column ``t`` in ms."""
    table = open_table(duck, file)
    times = read_times(duck, table, "t", unit, time_format)
    duck.execute("DROP TABLE IF EXISTS raw")
    load(duck, table, [Field("time", "t", times.parse, times.expected)])
    return times.unit, [row[0] for row in duck.execute("SELECT time FROM raw").fetchall()]


def written(folder: Path, values: Sequence[str]) -> Path:
    file = folder / "t.csv"
    file.write_text("t,x\n" + "".join(f'"{value}",1\n' for value in values))
    return file


@pytest.mark.parametrize(
    ("unit", "more", "texts"),
    [
        ("yyyymmddhhmmss", (), ["20231114222230", "20231114222231"]),
        ("yyyymmddhhmm", (), ["202311142222", "202311142223"]),
        ("yyyymmddhh", (), ["2023111422", "2023111423"]),
        ("yyyymmdd", (), ["20231114", "20231115", "20231114.0"]),
        ("s", (), ["1700000550", "1700000550.25"]),
        ("ms", (), ["1700000550000", "1.70000055E12"]),
        ("us", (), ["1700000550000000"]),
        ("ns", (), ["1700000550000000000"]),
        ("iso", (), ["2023-11-14 22:22:30.000", "2023-11-14T23:22:30.5+01:00", "2023/11/14"]),
        ("iso", (), [" 2023-11-14T22:22:30Z "]),
        ("format", ("auto", "%d/%m/%Y %H:%M:%S"), ["14/11/2023 22:22:30", "01/12/2023 00:00:00"]),
        ("format", ("auto", "%d.%m.%y"), ["14.11.23"]),
        ("order", ("order",), ["3", "1", "20231114"]),
    ],
)
def test_times_as_people_write_them(
    duck: Any, tmp_path: Path, unit: str, more: tuple[str, ...], texts: list[str]
) -> None:
    day = MOMENT // 86_400_000 * 86_400_000
    expected = {
        "yyyymmddhhmmss": [MOMENT, MOMENT + 1000],
        "yyyymmddhhmm": [MOMENT - 30_000, MOMENT + 30_000],
        "yyyymmddhh": [day + 22 * 3_600_000, day + 23 * 3_600_000],
        "yyyymmdd": [day, day + 86_400_000, day],
        "s": [MOMENT, MOMENT + 250],
        "ms": [MOMENT, MOMENT],
        "us": [MOMENT],
        "ns": [MOMENT],
        "iso": [MOMENT] if len(texts) == 1 else [MOMENT, MOMENT + 500, day],
        "format": [day] if len(texts) == 1 else [MOMENT, day + 17 * 86_400_000],
        "order": [3, 1, 20231114],
    }[unit]
    assert times_of(duck, written(tmp_path, texts), *more) == (unit, expected)


@pytest.mark.parametrize(
    ("texts", "more", "message"),
    [
        (["1700000550", "1700000550000"], (), "row 2, column 't': found '1700000550000', expected a number of s since"),
        (["1700000550000", "1700000550"], (), "row 2, column 't': found '1700000550', expected a number of ms since"),
        (["1700000550", "20231114"], (), "row 2, column 't': found '20231114'"),
        (["20231114", "20231314"], (), "row 2, column 't': found '20231314', expected digits yyyymmdd"),
        (["20231114", "20231114222230"], (), "row 2, column 't'"),
        (["2023-11-14", "14/11/2023"], (), "row 2, column 't': found '14/11/2023', expected a time like 2014"),
        (["2023-11-14", "1700000550"], (), "row 2, column 't'"),
        (["14/11/2023"], (), "found '14/11/2023', no time between 1980 and .* --time-format"),
        (["23-11-14"], (), "found '23-11-14', no time between 1980 and .* --time-format"),
        (["231114"], (), "found '231114', no time .* --time-unit"),
        (["17", "18"], (), "found '17', no time .* order"),
        (["1979-12-31"], (), "found '1979-12-31', no time between 1980"),
        (["2023-11-14", "2123-11-14"], (), "row 2, column 't': found '2123-11-14'"),
        (["1700000550", "0"], (), "row 2, column 't': found '0'"),
        (["1700000550", "-1700000550"], (), "row 2, column 't'"),
        (["1700000550", "inf"], (), "row 2, column 't': found 'inf'"),
        (["20231114222230"], ("ms",), "row 1, column 't': found '20231114222230', expected a number of ms"),
        (["1.5"], ("order",), "row 1, column 't': found '1.5', expected a whole number"),
        (["14/13/2023"], ("auto", "%d/%m/%Y"), "row 1, column 't': found '14/13/2023', expected a time written %d"),
        (["14/11/2023"], ("auto", "%Q"), "--time-format '%Q': .*%Q; give one such as"),
        (["14/11/2023"], ("iso", "%d/%m/%Y"), "--time-format: says what --time-unit would"),
    ],
)
def test_times_that_are_refused(
    duck: Any, tmp_path: Path, texts: list[str], more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        times_of(duck, written(tmp_path, texts), *more)
    assert "\n" not in str(caught.value)


def test_typed_times(duck: Any, tmp_path: Path) -> None:
    moment = datetime.datetime(2023, 11, 14, 22, 22, 30)
    file = tmp_path / "t.parquet"
    for values, unit, first in (
        (pa.array([moment], pa.timestamp("s")), "iso", MOMENT),
        (pa.array([moment], pa.timestamp("ns")), "iso", MOMENT),
        (pa.array([moment], pa.timestamp("ms", "Europe/Berlin")), "iso", MOMENT),
        (pa.array([moment.date()]), "iso", MOMENT // 86_400_000 * 86_400_000),
        (pa.array([20231114], pa.int32()), "yyyymmdd", MOMENT // 86_400_000 * 86_400_000),
        (pa.array([20231114222230], pa.uint64()), "yyyymmddhhmmss", MOMENT),
        (pa.array([20231114222230.0]), "yyyymmddhhmmss", MOMENT),
        (pa.array([1700000550.25]), "s", MOMENT + 250),
        (pa.array(["2023-11-14 22:22:30"]).dictionary_encode(), "iso", MOMENT),
    ):
        pq.write_table(pa.table({"t": values}), file)
        assert times_of(duck, file) == (unit, [first])
    for values in (pa.array([moment.time()]), pa.array([True]), pa.array([[1]])):
        pq.write_table(pa.table({"t": values}), file)
        with pytest.raises(UserError, match="column 't' is of type"):
            times_of(duck, file)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.integers(plausible_range()[0] // 3_600_000 + 1, plausible_range()[1] // 3_600_000 - 1),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["s", "ms", "us", "ns", "iso", *CALENDARS]),
)
def test_every_time_comes_back(
    duck: Any, tmp_path_factory: pytest.TempPathFactory, hours: list[int], unit: str
) -> None:
    step = 24 if unit == "yyyymmdd" else 1
    times = [hour // step * step * 3_600_000 for hour in hours]
    days = [datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=time) for time in times]
    scale = {"s": 1e-3, "ms": 1, "us": 1000, "ns": 1_000_000}
    texts = [
        str(int(time * scale[unit])) if unit in scale
        else day.isoformat() if unit == "iso"
        else day.strftime("%Y%m%d%H%M%S")[: CALENDARS[unit]]
        for time, day in zip(times, days, strict=True)
    ]  # fmt: skip
    assert times_of(duck, written(tmp_path_factory.mktemp("t"), texts)) == (unit, times)
