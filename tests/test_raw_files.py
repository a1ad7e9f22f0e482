"""What --raw takes: several files, folders, patterns, packed files, pipes; and that no row of them is lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest
from helpers import call, fails

from jaxrec.data.dataset import open_sessions
from jaxrec.data.reading import lines

HEADER = "visit,sku,at\n"
DAYS = ["".join(f"{visit},{sku},{1_700_000_000 + 86_400 * visit + sku}\n" for visit in visits for sku in (1, 2, 3))
        for visits in ((1, 2), (3, 4), (5, 6))]  # fmt: skip
WANTED = [[1, 2, 3]] * 6
COLUMNS = ["--session=visit", "--item=sku", "--time=at"]
PLAIN = ["--test-days=0", "--min-item-support=1", "--threads=1"]


def items(path: Path) -> list[list[Any]]:
    """The sessions of a data set as raw ids."""
    split = open_sessions(path).split("train")
    names = pq.read_table(path / "items.parquet")["item"].to_pylist()
    return [
        [names[index] for index in split.items[a:b]] for a, b in zip(split.offsets, split.offsets[1:], strict=False)
    ]


def prepared(out: Path, *raw: object, source: str = "events", more: tuple[str, ...] = (*COLUMNS,)) -> dict[str, Any]:
    """Prepare; returns the manifest."""
    assert call("prepare", source, "--raw", *map(str, raw), *more, *PLAIN, "--out", str(out)) == 0
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return manifest


def refused(capsys: pytest.CaptureFixture[str], out: Path, *raw: object, names: str, more: Any = COLUMNS) -> str:
    line = fails(capsys, "prepare", "events", "--raw", *raw, *more, *PLAIN, "--out", out, names=names)
    assert not out.exists() and not list(out.parent.glob(".*.tmp"))
    return line


def days(folder: Path, *names: str) -> list[Path]:
    """Files of one day each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in names]
    for file, day in zip(files, DAYS, strict=False):
        file.write_text(HEADER + day)
    return files


@contextmanager
def standard_input(data: bytes) -> Iterator[None]:
    """A pipe with these bytes as the process's standard input."""
    kept = os.dup(0)
    read, write = os.pipe()
    os.dup2(read, 0)
    os.close(read)

    def feed() -> None:
        with open(write, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        os.dup2(kept, 0)
        os.close(kept)


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


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


def test_files_folders_and_patterns_are_read_in_their_order(tmp_path: Path) -> None:
    a, b, c = days(tmp_path / "logs", "day[1].csv", "day2'\".csv", "day3 *?.csv")
    (tmp_path / "logs" / "_SUCCESS").touch()
    (tmp_path / "logs" / ".day[1].csv.crc").write_text("x")
    (tmp_path / "logs" / "_temporary").mkdir()
    (tmp_path / "logs" / "_temporary" / "day9.csv").write_text(HEADER + DAYS[0])
    one = tmp_path / "one.csv"
    one.write_text(HEADER + "".join(DAYS))
    hashes = set()
    logs = tmp_path / "logs"
    raws: list[list[Any]] = [[one], [a, b, c], [a, "--raw", b, c], [logs], [tmp_path / "l*"], [logs / "day*"]]
    for number, raw in enumerate(raws):
        manifest = prepared(tmp_path / str(number), *raw)
        assert manifest["read"] == {"rows": 18, "files": 3 if number else 1}
        assert str(tmp_path) not in json.dumps(manifest["options"])
        hashes.add(manifest["content_hash"])
    assert len(hashes) == 1 and items(tmp_path / "0") == WANTED
    # The order as given decides among sessions of one date.
    for number, order in enumerate(((1, 2), (2, 1))):
        files = []
        for visit in order:
            files.append(tmp_path / f"visit{visit}.csv")
            files[-1].write_text(f"{HEADER}{visit},{visit},1700000000\n{visit},9,1700000001\n")
        prepared(tmp_path / f"order{number}", *files)
        assert items(tmp_path / f"order{number}") == [[visit, 9] for visit in order]


def test_columns_go_by_name_and_kinds_of_files_may_differ(tmp_path: Path) -> None:
    (a,) = days(tmp_path, "a.csv")
    other = tmp_path / "b.csv"
    other.write_text("sku,at,visit\n" + "".join(
        f"{sku},{at},{visit}\n" for visit, sku, at in (line.split(",") for line in DAYS[1].splitlines())))  # fmt: skip
    packed = tmp_path / "c.csv.gz"
    packed.write_bytes(gzip.compress((HEADER + DAYS[2]).encode()))
    assert prepared(tmp_path / "1", a, other, packed)["read"] == {"rows": 18, "files": 3}
    assert items(tmp_path / "1") == WANTED
    parquet = [as_parquet(HEADER + DAYS[0], tmp_path / "a.parquet"),
               as_parquet(HEADER + DAYS[1], tmp_path / "b.parquet", sku=pa.float64(), visit=pa.int16()),
               as_parquet(HEADER + DAYS[2], tmp_path / "c.parquet", at=pa.string())]  # fmt: skip
    for number, files in enumerate((parquet, [parquet[0], other, packed], [a, parquet[1], packed])):
        prepared(tmp_path / f"p{number}", *files)
        assert items(tmp_path / f"p{number}") == WANTED


def test_packed_files_and_pipes(tmp_path: Path) -> None:
    text = (HEADER + "".join(DAYS)).encode()
    files = {"a.csv.gz": gzip.compress(text[:90]) + gzip.compress(text[90:]), "a.csv.zst": zstd(text)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    zipped(tmp_path / "a.zip", {"folder/": b"", "folder/a.csv": text, "__MACOSX/folder/._a.csv": b"x"})
    zipped(tmp_path / "b.zip", {"a.csv.gz": files["a.csv.gz"]})
    for name in (*files, "a.zip", "b.zip"):
        out = tmp_path / f"of {name}"
        assert prepared(out, tmp_path / name)["read"] == {"rows": 18, "files": 1}
        assert items(out) == WANTED
    for name in ("-", "/dev/stdin"):
        with standard_input(files["a.csv.gz"] if name == "-" else text):
            prepared(tmp_path / f"of {name[-5:]}", name)
        assert items(tmp_path / f"of {name[-5:]}") == WANTED
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(text))
    thread.start()
    prepared(tmp_path / "of pipe", tmp_path / "pipe")
    thread.join()
    assert items(tmp_path / "of pipe") == WANTED
    assert not list(tmp_path.glob(".*"))


def test_every_source_of_raw_tables_takes_several(tmp_path: Path) -> None:
    texts = {
        "yoochoose": ("", "{v},2014-04-{v:02d}T10:00:0{i}.000Z,{i},0\n"),
        "diginetica": ("sessionId;userId;itemId;timeframe;eventdate\n", "{v};;{i};{i};2016-05-{v:02d}\n"),
    }
    for source, (header, row) in texts.items():
        for visit in (1, 2):
            rows = "".join(row.format(v=visit, i=i) for i in (1, 2, 3))
            (tmp_path / f"{source}{visit}.csv").write_text(header + rows)
        manifest = prepared(tmp_path / source, tmp_path / f"{source}?.csv", source=source, more=())
        assert manifest["read"] == {"rows": 6, "files": 2} and items(tmp_path / source) == WANTED[:2]
    for part, label in enumerate("01"):
        (tmp_path / f"rows{part}.csv").write_text(f"uid,y,tags\na,{label},x|y\nb,0,z\n")
    argv = ["--label=y", "--user=uid", "--bag=tags", "--out", str(tmp_path / "rows")]
    assert call("prepare", "rows", "--raw", str(tmp_path / "rows*.csv"), *argv) == 0
    assert np.load(tmp_path / "rows" / "rows" / "ratings.npy").tolist() == [0, 0, 1, 0]


def test_rows_name_the_file_of_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("uid,y,tags\na,1,x\nb,0,z\n")
    for label, tags, names in (("4", "x", "column 'y': found 4, so labels are not all 0 or 1"),
                               ("0", "|".join(map(str, range(300))), "column 'tags': a bag of 300 values"),
                               ("0", '"[1, 2]"', r"column 'tags': found '\[1, 2\]', a list as text")):  # fmt: skip
        (tmp_path / "b.csv").write_text(f"y,uid,tags\n0,a,x\n{label},a,{tags}\n")
        argv = ["--label=y", "--user=uid", "--bag=tags", "--out", tmp_path / "out"]
        fails(capsys, "prepare", "rows", "--raw", tmp_path / "a.csv", tmp_path / "b.csv", *argv,
              names=rf"b\.csv: row 2, {names}")  # fmt: skip


def test_movielens_takes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for raw in (["--raw", "a", "b"], ["--raw", "a", "--raw", "b"]):
        fails(capsys, "prepare", "movielens", *raw, "--out", tmp_path / "out", names="b")


def test_what_cannot_be_read_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = days(tmp_path, "a.csv", "b.csv", "c.csv")
    out = tmp_path / "out"
    refused(capsys, out, a, b, tmp_path / "." / "a.csv", names=r"a\.csv: named twice in --raw")
    b.write_text("visit,sku,when,note\n1,2,3,4\n")
    refused(capsys, out, a, b, names=r"b\.csv: lacks 'at' and has 'when', 'note', unlike .*a\.csv; .*same columns")
    b.write_text(HEADER + DAYS[1] + "7,8,never\n")
    refused(capsys, out, a, b, c, names=r"b\.csv: row 7, column 'at': found 'never'")
    c.write_text(HEADER + DAYS[2] + "7,8\n")
    days(tmp_path, "a.csv", "b.csv")
    refused(capsys, out, a, b, c, names=r"c\.csv: line 8: 2 field\(s\), expected 3")
    pq.write_table(pa.table({"visit": [1], "sku": [[1]], "at": [1]}), tmp_path / "d.parquet")
    refused(capsys, out, a, tmp_path / "d.parquet", names=r"d\.parquet: column 'sku' is BIGINT\[\], and in .*a\.csv")
    refused(capsys, out, f"{tmp_path}/x*.csv", names="no file matches this pattern")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(capsys, out, tmp_path / "loop", names="loop: a link to nothing, or to itself")


def test_files_without_a_header_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, day in enumerate(DAYS):
        (tmp_path / f"day{number}.csv").write_text(day)
    more = (*COLUMNS, "--columns", "visit", "sku", "at")
    manifest = prepared(tmp_path / "0", f"{tmp_path}/day?.csv", more=more)
    assert manifest["read"] == {"rows": 18, "files": 3} and items(tmp_path / "0") == WANTED
    assert manifest["options"]["columns"] == ["visit", "sku", "at"]
    out, file = tmp_path / "out", tmp_path / "day0.csv"
    refused(capsys, out, file, names="no column 'visit'.*name the columns with --columns")
    two = (*COLUMNS[:1], "--item=at", "--time=at", "--columns", "visit", "at")
    refused(capsys, out, file, names="line 1: 3 fields, and --columns names 2", more=two)
    refused(
        capsys, out, file, names="no column 'sku'.*as --columns says", more=(*COLUMNS, "--columns", "visit", "x", "at")
    )
    refused(capsys, out, file, names="more than one column 'sku'", more=(*COLUMNS, "--columns", "visit", "sku", "sku"))
    parquet = as_parquet(HEADER + DAYS[0], tmp_path / "a.parquet")
    refused(capsys, out, parquet, names="leave out --columns", more=more)


# --- no row is lost ---------------------------------------------------------------------------------------------------


def test_a_quote_over_several_lines_is_refused_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "a.csv", tmp_path / "out"
    titles = "visit,sku,at,title\n"
    raw.write_text(
        titles + '1,1,1700000000,a\n\n1,2,1700000001,"b\n1,3,1700000002,c\n1,4,1700000003,d"\n1,5,1700000004,e\n'
    )
    found = r"a\.csv: line 4, column 'title': a quote makes one field of 3 lines, 'b.n1,3,1700000002,c.*--quote none"
    assert "'\"'" in refused(capsys, out, raw, names=found)
    (days(tmp_path, "b.csv")[0]).write_text(titles + "9,1,1700000000,x\n9,2,1700000009,x\n")
    refused(capsys, out, tmp_path / "b.csv", raw, names=found)
    for packed, data in (("a.gz", gzip.compress(raw.read_bytes())), ("a.zst", zstd(raw.read_bytes()))):
        (tmp_path / packed).write_bytes(data)
        refused(capsys, out, tmp_path / packed, names="line 4, column 'title'")
    refused(capsys, out, zipped(tmp_path / "a.zip", {"a": raw.read_bytes()}), names="line 4, column 'title'")
    capsys.readouterr()
    text = prepared(tmp_path / "none", raw, more=(*COLUMNS, "--quote=none"))
    assert text["read"] == {"rows": 5, "files": 1, "blank_lines": 1} and text["options"]["quote"] == "none"
    assert items(tmp_path / "none") == [[1, 2, 3, 4, 5]]
    assert capsys.readouterr().out.startswith("read 5 rows of 1 file, 1 blank lines\n")
    fields = prepared(tmp_path / "fields", raw, more=(*COLUMNS, '--quote="'))
    assert fields["read"] == {"rows": 3, "files": 1, "blank_lines": 1, "lines_in_quotes": 2}
    assert items(tmp_path / "fields") == [[1, 2, 5]]
    assert "3 rows of 1 file, 1 blank lines, 2 more lines inside quoted fields" in capsys.readouterr().out


def test_another_quote(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("visit,sku,at\n1,'a,b',1700000000\n1,\"c,1700000001\n")
    prepared(tmp_path / "out", tmp_path / "a.csv", more=(*COLUMNS, "--quote='"))
    assert items(tmp_path / "out") == [['"c', "a,b"]] or items(tmp_path / "out") == [["a,b", '"c']]


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_lines_are_counted_whatever_the_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", size)
    data = b"a\r\n\r\nb\rc\n\n\nd\0\ne"
    assert lines.count_lines(io.BytesIO(data)) == lines.Lines(5, 3, 7, 3, ("CRLF", "CR", "LF"))
    assert [lines.line_number(io.BytesIO(data), n) for n in (1, 2, 3, 4, 5)] == [1, 3, 4, 7, 8]
    assert lines.count_lines(io.BytesIO(b"a\r")) == lines.Lines(1, 0, 0, 2, ("CR",))


def test_a_long_line_is_read(tmp_path: Path) -> None:
    rows = (HEADER + DAYS[0]).splitlines()
    rows = [f"{row},{'x' * (2_100_000 if at == 3 else 1)}" for at, row in enumerate(rows)]
    (tmp_path / "a.csv").write_text("\r\n".join(rows), newline="")
    prepared(tmp_path / "out", tmp_path / "a.csv")
    assert items(tmp_path / "out") == WANTED[:2]


# --- hostile files ----------------------------------------------------------------------------------------------------

TEXT = (HEADER + DAYS[0]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + TEXT,
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"\n", b"\r"),
        b"\n\n" + TEXT,
        b"\xef\xbb\xbf\n" + TEXT,
        TEXT.rstrip(),
        TEXT + b"\n\n",
    ],
    ids=["BOM", "CRLF", "CR", "blank first", "BOM and blank", "no last end", "blank last"],
)
def test_texts_that_are_well(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert prepared(tmp_path / "out", tmp_path / "a.csv")["read"]["rows"] == 6
    assert items(tmp_path / "out") == WANTED[:2]


def encrypted(data: bytes) -> bytes:
    """A zip whose member says that it is encrypted."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.csv", data)
    whole = bytearray(stream.getvalue())
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    return bytes(whole)


def zip_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


MANY = HEADER.encode() + b"".join(
    b"%d,%d,%d\n" % (n, n % 97, 1_700_000_000 + n * 7919 % 9_999_991) for n in range(5_000)
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXT.decode().encode("utf-16"), "UTF-16 text; convert it to UTF-8"),
        (TEXT.replace(b"2,3", b"2\0,3"), "a NUL byte stands in line 7"),
        (MANY.replace(b"\n4321,", b"\n4\x00321,"), "line 4,323: a NUL byte"),
        (HEADER.encode(), "no events"),
        (b"", "empty"),
        (b"\xef\xbb\xbf\n", "empty"),
        (b"\n\r\n" + TEXT, "its lines end in CRLF and LF"),
        (TEXT.replace(b"\n", b"\r\n", 3), "its lines end in CRLF and LF"),
        (TEXT + b"5,6\n", r"line 8: 2 field\(s\), expected 3"),
        (gzip.compress(MANY)[:-9], "truncated or damaged gzip"),
        (gzip.compress(MANY)[:9000], "truncated or damaged gzip"),
        (zstd(MANY)[:-9], "truncated or damaged zstd"),
        (zstd(MANY)[:9000], "truncated or damaged zstd"),
        (zip_bytes({"a": MANY})[:9000], "truncated or damaged zip"),
        (zip_bytes({"a": MANY}).replace(zip_bytes({"a": MANY})[2000:2100], b"x" * 100), "truncated or damaged zip"),
        (encrypted(TEXT), "encrypted; unpack it"),
        (zip_bytes({"a.csv": TEXT, "b.csv": TEXT}), r"holds 2 files \(a.csv, b.csv\), expected one"),
        (zip_bytes({"folder/": b""}), "holds no file"),
        (zip_bytes({"a.zip": zip_bytes({"a": TEXT})}), "a zip in a zip"),
        (b"BZh91AY", "packed with bzip2, which is not read"),
        (TEXT + b'5,"6,1700000000\n', "a quote not closed where its field ends"),
    ],
)  # fmt: skip
def test_texts_that_are_not(data: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = days(tmp_path, "good.csv", "bad.csv")
    bad.write_bytes(data)
    files = [bad] if message == "no events" else [good, bad]
    refused(capsys, tmp_path / "out", *files, names=f"bad.csv: .*{message}")


def test_empty_parts_of_a_folder_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    days(tmp_path / "logs", "part-0", "part-1")
    (tmp_path / "logs" / "part-2").touch()
    capsys.readouterr()
    assert prepared(tmp_path / "out", tmp_path / "logs")["read"] == {"rows": 12, "files": 2}
    assert "logs: left out what is empty or no raw file: part-2" in capsys.readouterr().err
    assert items(tmp_path / "out") == WANTED[:4]
