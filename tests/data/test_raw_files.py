"""What --raw takes: several files, folders, patterns, packed files; that no row of them is lost, or moves."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxrec.data.reading.columns import id_field
from jaxrec.data.reading.duck import fetch_row, integer, leave_out
from jaxrec.data.reading.table import Field, find_files, load, open_table, open_tables, read_line
from jaxrec.errors import UserError

HEADER = "visit,sku,at\n"
WANTED = [(visit, sku, 86_400 * visit + sku) for visit in range(1, 7) for sku in (1, 2, 3)]
DAYS = ["".join("{},{},{}\n".format(*row) for row in WANTED[at : at + 6]) for at in (0, 6, 12)]
TEXT = (HEADER + DAYS[0]).encode()
MANY = HEADER.encode() + b"".join(b"%d,%d,%d\n" % (n, n % 97, n * 7919 % 9_999_991) for n in range(5_000))


def read(duck: Any, *raw: object, names: Sequence[str] = ("visit", "sku", "at"), **options: Any) -> tuple[Any, Any]:
    """The rows of the files as they stand in ``raw``, and what was read of them."""
    paths = find_files([str(one) for one in raw])
    table = open_tables(duck, paths, **options)
    duck.execute("DROP TABLE IF EXISTS raw")
    fields = [Field(f"f{i}", name, lambda sql: integer(f"CAST({sql} AS VARCHAR)"), "an integer")
              for i, name in enumerate(names)]  # fmt: skip
    about, _, _ = load(duck, table, fields)
    return duck.execute("SELECT * FROM raw ORDER BY rowid").fetchall(), about


def days(folder: Path, *names: str) -> list[Path]:
    """Files of one day each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, day in zip(names, DAYS, strict=False):
        (folder / name).write_text(HEADER + day)
    return [folder / name for name in names]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def test_files_folders_and_patterns_are_read_in_their_order(duck: Any, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    a, b, c = days(logs, "day2'\".csv", "day3 *?.csv", "day[1].csv")
    for hidden in ("_SUCCESS", ".day[1].csv.crc"):
        (logs / hidden).touch()
    days(logs / "_temporary", "day9.csv")
    for raw in ([a, b, c], [logs], [tmp_path / "l*"], [logs / "day*"]):
        assert read(duck, *raw) == (WANTED, {"rows": 18, "files": 3})
    assert read(duck, c, a)[0] == WANTED[12:] + WANTED[:6]
    (logs / "part-2").touch()
    assert read(duck, logs, a)[1] == {"rows": 18, "files": 3}, "each once, without what is empty"


def test_packed_files_beside_others(duck: Any, tmp_path: Path) -> None:
    a, b, c = days(tmp_path, "a.csv", "b.csv", "c.csv")
    b.write_bytes(gzip.compress(HEADER.encode()) + gzip.compress(DAYS[1].encode()))
    c.write_bytes(zstd((HEADER + DAYS[2]).encode()))
    assert read(duck, a, b, c)[0] == WANTED


def test_a_zip_and_standard_input(duck: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in (("folder/a.csv", HEADER + "".join(DAYS)), ("__MACOSX/folder/._a.csv", "x")):
            archive.writestr(name, data)
    assert read(duck, tmp_path / "a.zip")[0] == WANTED
    kept, (source, sink) = os.dup(0), os.pipe()
    try:
        os.dup2(source, 0)
        os.write(sink, (HEADER + "".join(DAYS)).encode())
        os.close(sink)
        assert read(duck, "-")[0] == WANTED
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_names_of_columns(duck: Any, tmp_path: Path) -> None:
    """A file may lack them; they count with their case."""
    (file := tmp_path / "a.csv").write_text(DAYS[0])
    assert read(duck, file, columns=["visit", "sku", "at"])[0] == WANTED[:6]
    with pytest.raises(UserError, match=r"a\.csv: .*Columns: 2 Found: 3"):
        read(duck, file, columns=["visit", "sku"], names=["visit"])
    columns: dict[str, list[int]] = {"u": [1, 1], "Item": [10, 11], "item": [1, 2], "ITEM ": [5, 6]}
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")
    pq.write_table(pa.table(columns), tmp_path / "2.parquet")
    for item in ("Item", "item", "ITEM "):
        rows, _ = read(duck, tmp_path / "1.parquet", tmp_path / "2.parquet", names=["u", item])
        assert rows == [(1, one) for one in columns[item]] * 2


def test_a_quote_over_several_lines_is_refused_or_said(duck: Any, tmp_path: Path) -> None:
    text = HEADER.replace("\n", ",title\n") + '1,1,1,a\n\n1,2,2,"b\n1,3,3,c\n1,4,4,d"\n1,5,5,e\n'
    for data in (text.encode(), gzip.compress(text.encode())):
        (tmp_path / "a.csv").write_bytes(data)
        with pytest.raises(UserError, match=r"a.csv: row 2: a quote makes one field .*--quote none; .*--quote '\"'"):
            read(duck, tmp_path / "a.csv")
    rows, about = read(duck, tmp_path / "a.csv", quote="none")
    assert rows == [(1, i, i) for i in range(1, 6)]
    assert about == {"rows": 5, "files": 1, "blank_lines": 1}
    rows, about = read(duck, tmp_path / "a.csv", quote='"')
    assert [row[1] for row in rows] == [1, 2, 5]
    assert read_line(about) == "read 3 rows (files 1, blank lines 1, lines in quotes 2)"


LONG = "\r\n".join(f"{row},{'x' * (2_100_000 if at == 3 else 1)}" for at, row in enumerate(TEXT.decode().splitlines()))


@pytest.mark.parametrize("data", [
    b"\xef\xbb\xbf" + TEXT, TEXT.replace(b"\n", b"\r\n"), TEXT.replace(b"\n", b"\r"), b"\n\n" + TEXT,
    TEXT.rstrip(), TEXT + b"\n\n", LONG.encode(),
], ids=["BOM", "CRLF", "CR", "blank first", "no last end", "blank last", "long line"])  # fmt: skip
def test_texts_that_are_well(data: bytes, duck: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert read(duck, tmp_path / "a.csv")[0] == WANTED[:6]


@pytest.mark.parametrize(("data", "message"), [
    *((data, "not utf-8") for data in (TEXT.decode().encode("utf-16"), TEXT.replace(b"sku", b"\xff"),
                                       TEXT.replace(b"2,3", b"2,\xff"))),
    (b"", "no line of column names"), (TEXT.replace(b"\n", b"\r\n", 3), "cannot be read"),
    (TEXT + b"5,6\n", "Line: 8 .*Columns: 3 Found: 2"), (TEXT + b'5,"6,1700000000\n', "unterminated quote"),
    *((packed[:end], "cannot be read") for packed in (gzip.compress(MANY), zstd(MANY))
      for end in (-9, 9000)),
    (b"PAR1" + b"x" * 100, "cannot be read"), (b"PK\x03\x04\x14\x00" + b"\xff" * 100, "not utf-8"),
    (HEADER.encode() + b"7,8,never\n", "row 1, column 'at': found 'never', expected an integer"),
    (b"visit,sku,when\n1,2,3\n", "column '(at|when)' is not in .*same columns"),
])  # fmt: skip
def test_files_that_are_refused(data: bytes, message: str, duck: Any, tmp_path: Path) -> None:
    good, bad = days(tmp_path, "good.csv", "bad.csv")
    bad.write_bytes(data)
    with pytest.raises(UserError, match=f"bad.csv: .*{message}"):
        read(duck, good, bad)


def test_what_is_no_file_is_refused(duck: Any, tmp_path: Path) -> None:
    (a,) = days(tmp_path, "a.csv")
    (tmp_path / "b.csv").write_text(HEADER)
    for raw, message in (([f"{tmp_path}/x*.csv"], r"x\*\.csv: no raw files"), ([tmp_path / "b.csv"], "no events"),
                         ([tmp_path / "missing"], "missing: cannot be read")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read(duck, *raw)


def test_rows_that_were_left_out_move_no_number(duck: Any, tmp_path: Path) -> None:
    """Though DuckDB keeps rows in groups, of which the first is left out whole here."""
    a, b = (tmp_path / name for name in ("a.csv", "b.csv"))
    for file in (a, b):
        file.write_text("n\n" + "".join(f"{n}\n" for n in range(200_000)))
    read(duck, a, b, names=["n"])
    assert leave_out(duck, "rowid < 150000") == 150_000 and leave_out(duck, "f0 % 2 = 0") == 125_000
    duck.execute("ALTER TABLE raw ALTER f0 TYPE VARCHAR USING CAST(f0 AS VARCHAR)")
    rows = fetch_row(duck, "SELECT min(rowid), bool_and(rowid % 200000 = CAST(f0 AS INTEGER)) FROM raw")
    assert rows == (150_001, True)
    table = open_tables(duck, [a, b])
    assert [table.row_place(duck, row) for row in (150_001, 200_001)] == [f"{a}: row 150,002", f"{b}: row 2"]


def test_no_join_upsets_the_order_of_the_rows(duck: Any, tmp_path: Path) -> None:
    table = open_table(duck, days(tmp_path, "a.csv")[0])
    parsed = id_field(table, "y", "visit", None).parse(table.columns["visit"][0])
    ((_, plan),) = duck.execute(f"EXPLAIN SELECT {parsed} FROM {table.relation}").fetchall()
    assert "CSV" in plan.upper() and "JOIN" not in plan.upper()
