"""What the source merrec says to bad input: one line that names the file and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from helpers import fails
from test_merrec_source import LOG, prepare, table, write

from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.errors import UserError

N = len(LOG)


def changed(column: str, row: int, value: Any) -> Callable[[Path], None]:
    """Write the log with one value changed."""

    def make(file: Path) -> None:
        rows = [dict(one) for one in LOG]
        rows[row][column] = value
        write(file, rows)

    return make


def typed(column: str, values: pa.Array) -> Callable[[Path], None]:
    """Write the log with another column of this name."""
    return lambda file: pq.write_table(table(LOG, **{column: values}), file)


def content(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write the log's Parquet file with other bytes."""

    def make(file: Path) -> None:
        write(file, LOG)
        file.write_bytes(change(file.read_bytes()))

    return make


def footer(raw: bytes) -> int:
    """Where what a Parquet file says about itself begins."""
    return len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")


def hole(column: str) -> Callable[[Path], None]:
    """Damage the values of a column, not what the file says about them."""

    def make(file: Path) -> None:
        pq.write_table(table(LOG * 50, **{column: pa.array([str(i) * 9 for i in range(50 * N)])}), file)
        meta = pq.read_metadata(file)
        (chunk,) = (meta.row_group(0).column(i) for i in range(25) if meta.schema.column(i).name == column)
        start = chunk.dictionary_page_offset + 60
        with open(file, "r+b") as stream:
            stream.seek(start)
            stream.write(b"\xff" * 200)

    return make


def csv(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Write the log as CSV with other text."""

    def make(file: Path) -> None:
        pa.csv.write_csv(table(LOG), file)
        file.write_text(change(file.read_text()))

    return make


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing column": (lambda f: pq.write_table(table(LOG).drop_columns("brand_id"), f), "no column 'brand_id'"),
    "renamed column": (
        lambda f: pq.write_table(table(LOG).rename_columns({"stime": "s_time"}), f), r"no column 'stime' \(did you mean"
    ),
    "list of items": (typed("item_id", pa.array([[1]] * N)), r"'item_id' is of type BIGINT\[\]; expected an integer"),
    "times as numbers": (typed("stime", pa.array([5] * N)), "'stime' is of type BIGINT; expected a time like"),
    "lists of times": (typed("stime", pa.array([[None]] * N, pa.list_(pa.timestamp("s")))), r"is of type TIMESTAMP"),
    "binary name": (typed("name", pa.array([b"\xff"] * N)), "'name' is of type BLOB; expected text"),
    "names as numbers": (typed("name", pa.array([1.5] * N)), "'name' is of type DOUBLE; expected text"),
    "events as numbers": (typed("event_id", pa.array([1] * N)), "'event_id' is of type BIGINT; expected one of item_v"),
    "price that is text": (
        typed("price", pa.array(["1.5"] * (N - 1) + ["cheap"])), f"row {N}, column 'price': found 'cheap', expected a"
    ),
    "infinite price": (changed("price", 5, float("inf")), "row 6, column 'price': found 'inf', expected a number"),
    "half an id": (changed("c1_id", 5, 256.5), "row 6, column 'c1_id': found '256.5', expected an integer"),
    "id out of range": (typed("item_id", pa.array([2**64 - 1] * N, pa.uint64())), "row 1, column 'item_id': found '1"),
    "unknown event": (
        changed("event_id", 3, "item_share"), "row 4, column 'event_id': found 'item_share', expected one of "
        "item_view, item_like, item_add_to_cart_tap, offer_make, buy_start, buy_comp;"
    ),
    "no event": (changed("event_id", 3, None), "row 4, column 'event_id': found nothing, expected one of"),
    "no user": (changed("user_id", 2, None), "row 3, column 'user_id': found nothing"),
    "no session": (changed("session_id", 2, ""), "row 3, column 'session_id': found nothing"),
    "no sequence": (changed("sequence_id", 2, None), "row 3, column 'sequence_id': found nothing"),
    "no item": (changed("item_id", 2, None), "row 3, column 'item_id': found nothing"),
    "no time": (changed("stime", 2, None), "row 3, column 'stime': found nothing, expected a time like 2023-05-01"),
    "no such time": (changed("stime", 2, "2023-02-30"), "row 3, column 'stime': found '2023-02-30'"),
    "endless time": (changed("stime", 2, "infinity"), "row 3, column 'stime': found 'infinity'"),
    "no rows": (lambda f: write(f, []), "no events; expected one a row"),
    "empty": (content(lambda raw: b""), "empty"),
    "truncated": (content(lambda raw: raw[:-100]), "cannot be read .*fetch or write the file again"),
    "truncated early": (content(lambda raw: raw[:3000]), "cannot be read .*fetch or write the file again"),
    "damaged footer": (content(lambda raw: raw[: footer(raw)] + b"\xff" * 99 + raw[-900:]), "cannot be read"),
    "damaged sessions": (hole("session_id"), "cannot be read"),
    "damaged names": (hole("name"), "cannot be read"),
    "short line": (csv(lambda text: text + "1,2,3\n"), f"line {N + 2}: 3 field"),
    "header alone": (csv(lambda text: text.splitlines()[0] + "\n"), "no events"),
    "text for an id": (csv(lambda text: text.replace("1097", "1e3", 1)), "row 1, column 'c0_id': found '1e3'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_among_good_ones(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[name]
    folder = tmp_path / "raw"
    write(folder / "a.parquet", LOG[:4])
    make(folder / "b.parquet")
    write(folder / "c.parquet", LOG)
    line = fails(
        capsys, "prepare", "merrec", "--raw", folder, "--out", tmp_path / "out", "--test-days", 0,
        names=f"{folder / 'b.parquet'}: .*{message}",
    )  # fmt: skip
    assert "a.parquet" not in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        ("nothing", [], "nothing: cannot be read"),
        ("none*here", [], r"none\*here: no raw files"),
        ("bare", [], "bare: no raw files"),
        ("log", ["--split-seed=3"], "--split-seed 3: the split is by time; add --split random"),
        ("log", ["--test-fraction=1/4"], "--test-fraction 1/4: the split is by time"),
        ("log", ["--split=random", "--test-fraction=1"], "no train sessions left"),
        ("log", ["--split=random", "--test-fraction=1.5"], "more than 0 and at most 1"),
        ("log", ["--split=random", "--test-fraction=0.3", "--validation-days=40"], "no train sessions left"),
        ("log", ["--split=days"], "invalid choice: 'days'"),
        ("log", ["--target=brand"], "invalid choice: 'brand'"),
        ("log", ["--min-session-length=9"], "no events left: short sessions took 4 sessions and 13 events"),
        ("log", ["--drop-repeats"], "--drop-repeats: no such option"),
        ("log", ["--fraction=1/2"], "--fraction: no such option"),
    ],
)
def test_bad_options(
    raw: str, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    write(tmp_path / "log", LOG)
    fails(capsys, "prepare", "merrec", f"--raw={tmp_path / raw}", f"--out={tmp_path / 'o'}", *options, names=message)


def test_the_item_is_always_needed_and_the_product_where_it_is_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed("product_id", 4, None)(tmp_path / "raw")
    prepare(tmp_path / "raw")
    words = ["merrec", f"--raw={tmp_path / 'raw'}", f"--out={tmp_path / 'out'}", "--target=product"]
    fails(capsys, "prepare", *words, names="row 5, column 'product_id': found nothing, expected text")
    changed("item_id", 4, None)(tmp_path / "raw")
    fails(capsys, "prepare", *words, names="row 5, column 'item_id': found nothing, expected an integer")


def test_other_sources_do_not_know_these_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "prepare", "synthetic", f"--out={tmp_path / 'o'}", "--split=random", names="--split: no such option")


# --- the opened data set ----------------------------------------------------------------------------------------------


def test_types_of_events_go_along_with_their_sessions() -> None:
    sessions = Sessions(
        np.arange(7, dtype=np.int32), np.arange(7) * 10, np.array([0, 3, 5, 7]), np.arange(7, dtype=np.uint8)
    )
    for part, expected in (
        (sessions.slice(1, 3), [3, 4, 5, 6]),
        (sessions.pick(np.array([2, 0])), [5, 6, 0, 1, 2]),
        (sessions.pick(np.array([], np.int64)), []),
    ):
        assert part.items.tolist() == expected
        assert part.times.tolist() == [10 * i for i in expected]
        assert part.events is not None and part.events.tolist() == expected
        assert (part.items.dtype, part.events.dtype, part.offsets.dtype) == (np.int32, np.uint8, np.int64)
        assert part.offsets[0] == 0 and part.offsets[-1] == len(expected)
    assert sessions.pick(np.array([2, 0])).offsets.tolist() == [0, 2, 5]
    plain = Sessions(sessions.items, sessions.times, sessions.offsets)
    assert plain.pick(np.array([1])).events is None and plain.slice(0, 1).events is None


def test_a_run_keeps_the_attributes_and_a_damaged_split_is_named(tmp_path: Path) -> None:
    out = prepare(write(tmp_path / "raw", LOG))
    dataset = open_sessions(out)
    assert dataset.run_files == ("items.parquet", "attributes.parquet", "names.parquet", "item_names.npy")
    assert set(dataset.run_files) <= set(dataset.manifest["files"])
    (out / "train" / "events.npy").unlink()
    with pytest.raises(UserError, match=r"events.npy: damaged or missing"):
        dataset.split("train")
