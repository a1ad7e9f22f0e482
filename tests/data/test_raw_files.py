"""What --raw takes: several files, folders, patterns, packed files, pipes; and that no row of them is lost."""

from __future__ import annotations

import gzip
import io
import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest

from jaxrec.data.reading import lines
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import integer, load, open_tables, read_line
from jaxrec.data.reading.rows import leave_out
from jaxrec.data.reading.unpacked import find_files
from jaxrec.errors import UserError

HEADER = "visit,sku,at\n"
WANTED = [(visit, sku, 86_400 * visit + sku) for visit in range(1, 7) for sku in (1, 2, 3)]
DAYS = ["".join("{},{},{}\n".format(*row) for row in WANTED[at : at + 6]) for at in (0, 6, 12)]
TEXT = (HEADER + DAYS[0]).encode()


def read(duck: Any, *raw: object, names: Sequence[str] = ("visit", "sku", "at"), **options: Any) -> tuple[Any, Any]:
    """The rows of the files as they stand in ``raw``, and what was read of them, with the notes."""
    paths, notes = find_files([str(one) for one in raw])
    table = open_tables(duck, paths, **options)
    duck.execute("DROP TABLE IF EXISTS raw")
    fields = [Field(f"f{i}", name, lambda sql: integer(f"CAST({sql} AS VARCHAR)"), "an integer")
              for i, name in enumerate(names)]  # fmt: skip
    loaded = load(duck, table, fields, None)
    return duck.execute("SELECT * FROM raw ORDER BY rowid").fetchall(), loaded.read | {"notes": notes}


def days(folder: Path, *names: str) -> list[Path]:
    """Files of one day each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in names]
    for file, day in zip(files, DAYS, strict=False):
        file.write_text(HEADER + day)
    return files


def zip_bytes(members: dict[str, bytes], encrypted: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    whole = bytearray(stream.getvalue())
    if encrypted:  # it says so, in both places
        whole[6] |= 1
        whole[whole.index(b"PK\x01\x02") + 8] |= 1
    return bytes(whole)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def as_parquet(text: str, file: Path, **changed: pa.DataType) -> Path:
    """A CSV text as Parquet, columns of other types where named."""
    table = pc_csv.read_csv(io.BytesIO(text.encode()))
    for name, kind in changed.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, file)
    return file


# --- which files ------------------------------------------------------------------------------------------------------


def test_files_folders_and_patterns_are_read_in_their_order(duck: Any, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    a, b, c = days(logs, "day2'\".csv", "day3 *?.csv", "day[1].csv")
    for hidden in ("_SUCCESS", ".day[1].csv.crc"):
        (logs / hidden).touch()
    days(logs / "_temporary", "day9.csv")
    for raw in ([a, b, c], [logs], [tmp_path / "l*"], [logs / "day*"]):
        assert read(duck, *raw) == (WANTED, {"rows": 18, "files": 3, "notes": []})
    assert read(duck, c, a)[0] == WANTED[12:] + WANTED[:6]


def test_what_is_empty_or_unknown_is_left_out_and_said(duck: Any, tmp_path: Path) -> None:
    days(tmp_path / "logs", "part-0", "part-1")
    (tmp_path / "logs" / "part-2").touch()
    rows, about = read(duck, tmp_path / "logs")
    assert rows == WANTED[:12]
    assert about["notes"] == [f"{tmp_path}/logs: left out what is empty or no raw file: part-2"]
    days(tmp_path / "logs", "c.csv")
    rows, about = read(duck, tmp_path / "logs")
    assert rows == WANTED[:6] and "part-0, part-1, part-2" in about["notes"][0]
    assert read(duck, tmp_path / "logs" / "part*")[0] == WANTED[:12]


def test_columns_go_by_name_and_kinds_of_files_may_differ(duck: Any, tmp_path: Path) -> None:
    (a,) = days(tmp_path, "a.csv")
    (other := tmp_path / "b.csv").write_text("sku,at,visit\n" + "".join(f"{s},{t},{v}\n" for v, s, t in WANTED[6:12]))
    (packed := tmp_path / "c.csv.gz").write_bytes(gzip.compress((HEADER + DAYS[2]).encode()))
    parquet = [as_parquet(HEADER + DAYS[0], tmp_path / "a.parquet"),
               as_parquet(HEADER + DAYS[1], tmp_path / "b.parquet", visit=pa.int16()),
               as_parquet(HEADER + DAYS[2], tmp_path / "c.parquet", at=pa.string())]  # fmt: skip
    for files in ([a, other, packed], parquet, [parquet[0], other, packed], [a, parquet[1], packed]):
        assert read(duck, *files)[0] == WANTED


def test_packed_files_and_pipes(duck: Any, tmp_path: Path) -> None:
    text = (HEADER + "".join(DAYS)).encode()
    packed = gzip.compress(text[:90]) + gzip.compress(text[90:])
    members = {"folder/": b"", "folder/a.csv": text, "__MACOSX/folder/._a.csv": b"x"}
    for data in (packed, zstd(text), zip_bytes(members), zip_bytes({"a.csv.gz": packed})):
        (tmp_path / "a").write_bytes(data)
        assert read(duck, tmp_path / "a")[0] == WANTED
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(packed))
    thread.start()
    kept = os.dup(0)
    try:
        os.dup2(os.open(tmp_path / "pipe", os.O_RDONLY), 0)
        assert read(duck, "-")[0] == WANTED
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        thread.join()


def test_files_without_a_header_line(duck: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(DAYS[0])
    assert read(duck, file, columns=["visit", "sku", "at"])[0] == WANTED[:6]
    for columns, message in ((["visit", "sku"], r"3 field\(s\), expected 2"),
                             (["visit", "sku", "at", "x"], r"3 field\(s\), expected 4"),
                             (["visit", "x", "at"], "no column 'sku'")):  # fmt: skip
        with pytest.raises(UserError, match=f"a.csv: .*{message}"):
            read(duck, file, columns=columns, names=columns[:1] if len(set(columns)) != 3 else ("sku",))
    file.write_text('"AT",Sku , visit\n' + DAYS[0])
    with pytest.raises(UserError, match="its first line names the columns"):
        read(duck, file, columns=["visit", "sku", "at"])


def test_names_of_columns_count_with_their_case(duck: Any, tmp_path: Path) -> None:
    columns: dict[str, list[int]] = {"u": [1, 1], "Item": [10, 11], "item": [1, 2], "ITEM ": [5, 6]}
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")
    pq.write_table(pa.table(dict(reversed(columns.items()))), tmp_path / "2.parquet")
    for item in ("Item", "item", "ITEM "):
        rows, _ = read(duck, tmp_path / "1.parquet", tmp_path / "2.parquet", names=["u", item])
        assert rows == [(1, one) for one in columns[item]] * 2
    with pytest.raises(UserError, match=r"no column 'iTem', but 'Item', 'item', 'ITEM '; the case"):
        read(duck, tmp_path / "1.parquet", names=["iTem"])
    table = pa.Table.from_arrays([pa.array([1])] * 3, names=["u", "x", "x"])
    pq.write_table(table, tmp_path / "3.parquet")
    assert read(duck, tmp_path / "3.parquet", names=["u"])[0] == [(1,)]
    with pytest.raises(UserError, match=r"3.parquet: more than one column 'x'; rename the others"):
        read(duck, tmp_path / "3.parquet", names=["x"])


def test_what_cannot_be_read_together(duck: Any, tmp_path: Path) -> None:
    a, b, c = days(tmp_path, "a.csv", "b.csv", "c.csv")

    def refused(*raw: object, message: str) -> None:
        with pytest.raises(UserError, match=message):
            read(duck, *raw)

    refused(a, b, tmp_path / "." / "a.csv", message=r"a\.csv: named twice in --raw")
    b.write_text("visit,sku,when,note\n1,2,3,4\n")
    refused(a, b, message=r"b\.csv: lacks 'at' and has 'when', 'note', unlike .*a\.csv; .*same columns")
    b.write_text(HEADER + DAYS[1] + "7,8,never\n")
    refused(a, b, c, message=r"b\.csv: row 7, column 'at': found 'never', expected an integer")
    b.write_text(HEADER + DAYS[1])
    c.write_text(HEADER + DAYS[2] + "7,8\n")
    refused(a, b, c, message=r"c\.csv: line 8: 2 field\(s\), expected 3")
    pq.write_table(pa.table({"visit": [1], "sku": [[1]], "at": [1]}), tmp_path / "d.parquet")
    refused(a, tmp_path / "d.parquet", message=r"d\.parquet: column 'sku' is BIGINT\[\], and in .*a\.csv")
    refused(f"{tmp_path}/x*.csv", message=r"x\*\.csv: no raw files")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("loop", "missing", "a.csv/x"):
        refused(tmp_path / name, message=f"{name}: cannot be read")


def test_rows_that_were_left_out_move_no_number(duck: Any, tmp_path: Path) -> None:
    files = days(tmp_path, "a.csv", "b.csv")
    read(duck, *files)
    assert leave_out(duck, "f0 = 1") == 3 and leave_out(duck, "f1 = 1") == 3
    assert duck.execute("SELECT count(*) FROM raw").fetchone() == (6,)
    table = open_tables(duck, files)
    assert [table.value(duck, "visit", row) for row in (0, 5)] == [
        (f"{files[0]}: row 5", "2"), (f"{files[1]}: row 6", "4")]  # fmt: skip


# --- no row is lost ---------------------------------------------------------------------------------------------------


def test_a_quote_over_several_lines_is_refused_or_said(duck: Any, tmp_path: Path) -> None:
    text = HEADER.replace("\n", ",title\n") + '1,1,1,a\n\n1,2,2,"b\n1,3,3,c\n1,4,4,d"\n1,5,5,e\n'
    for data in (text.encode(), gzip.compress(text.encode()), zstd(text.encode()), zip_bytes({"a": text.encode()})):
        (tmp_path / "a.csv").write_bytes(data)
        with pytest.raises(UserError, match=r"a.csv: row 2, column 'title': a quote makes one field .*--quote none; .*"
                                            r"--quote '\"'"):  # fmt: skip
            read(duck, tmp_path / "a.csv")
    rows, about = read(duck, tmp_path / "a.csv", quote="none")
    assert rows == [(1, i, i) for i in range(1, 6)] and about.pop("notes") == []
    assert about == {"rows": 5, "files": 1, "blank_lines": 1}
    rows, about = read(duck, tmp_path / "a.csv", quote='"')
    assert [row[1] for row in rows] == [1, 2, 5] and about["lines_in_quotes"] == 2
    assert read_line(about) == "read 3 rows of 1 file, 1 blank lines, 2 more lines inside quoted fields"
    (tmp_path / "b.csv").write_text("visit,sku,at\n1,'2',3\n")
    assert read(duck, tmp_path / "b.csv", quote="'")[0] == [(1, 2, 3)]


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_lines_are_counted_whatever_the_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", size)
    data = b"a\r\n\r\nb\rc\n\n\nd\0\ne"
    assert lines.count_lines(io.BytesIO(data)) == lines.Lines(5, 3, 7, 3, ("CRLF", "CR", "LF"))
    assert lines.count_lines(io.BytesIO(b"a\r")) == lines.Lines(1, 0, 0, 2, ("CR",))
    assert lines.count_lines(io.BytesIO(b"\xef\xbb\xbfa")) == lines.Lines(1, 0, 0, 1, ())


def test_a_long_line_is_read(duck: Any, tmp_path: Path) -> None:
    rows = [f"{row},{'x' * (2_100_000 if at == 3 else 1)}" for at, row in enumerate(TEXT.decode().splitlines())]
    (tmp_path / "a.csv").write_text("\r\n".join(rows), newline="")
    assert read(duck, tmp_path / "a.csv")[0] == WANTED[:6]


@pytest.mark.parametrize("data", [
    b"\xef\xbb\xbf" + TEXT, TEXT.replace(b"\n", b"\r\n"), TEXT.replace(b"\n", b"\r"), b"\n\n" + TEXT,
    b"\xef\xbb\xbf\n" + TEXT, TEXT.rstrip(), TEXT + b"\n\n",
], ids=["BOM", "CRLF", "CR", "blank first", "BOM and blank", "no last end", "blank last"])  # fmt: skip
def test_texts_that_are_well(data: bytes, duck: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert read(duck, tmp_path / "a.csv")[0] == WANTED[:6]


MANY = HEADER.encode() + b"".join(b"%d,%d,%d\n" % (n, n % 97, n * 7919 % 9_999_991) for n in range(5_000))


@pytest.mark.parametrize(("data", "message"), [
    (TEXT.decode().encode("utf-16"), "UTF-16 text; convert it to UTF-8"),
    (TEXT.replace(b"2,3", b"2\0,3"), "a NUL byte stands in line 7"),
    (MANY.replace(b"\n4321,", b"\n4\x00321,"), "line 4,323: a NUL byte"),
    (TEXT.replace(b"2,3", b"2,\xff"), "not UTF-8 text"),
    (HEADER.encode().replace(b"sku", b"\xff"), "line 1 cannot be read as column names"),
    (HEADER.encode(), "no events"), (b"", "empty"), (b"\xef\xbb\xbf\n", "empty"),
    (b"\n\r\n" + TEXT, "its lines end in CRLF and LF"),
    (TEXT.replace(b"\n", b"\r\n", 3), "its lines end in CRLF and LF"),
    (TEXT + b"5,6\n", r"line 8: 2 field\(s\), expected 3"),
    (TEXT + b'5,"6,1700000000\n', "a quote not closed where its field ends"),
    *((packed[:end], f"truncated or damaged {name}") for name, packed in
      (("gzip", gzip.compress(MANY)), ("zstd", zstd(MANY)), ("zip", zip_bytes({"a": MANY}))) for end in (-9, 9000)),
    (zip_bytes({"a": MANY}).replace(zip_bytes({"a": MANY})[2000:2100], b"x" * 100), "truncated or damaged zip"),
    (zip_bytes({"a.csv": TEXT}, encrypted=True), "cannot be unpacked .*encrypted"),
    (zip_bytes({"a.csv": TEXT, "b.csv": TEXT}), "a zip of 2 files, expected one"),
    (zip_bytes({"folder/": b""}), "a zip of 0 files"),
    (zip_bytes({"a.zip": zip_bytes({"a": TEXT})}), "a zip in a zip"),
    (b"BZh91AY", "packed with bzip2, which is not read"),
    (b"PAR1" + b"x" * 100, "cannot be read"),
])  # fmt: skip
def test_texts_that_are_not(data: bytes, message: str, duck: Any, tmp_path: Path) -> None:
    good, bad = days(tmp_path, "good.csv", "bad.csv")
    bad.write_bytes(data)
    with pytest.raises(UserError, match=f"bad.csv: .*{message}"):
        read(duck, *([bad] if message == "no events" else [good, bad]))
