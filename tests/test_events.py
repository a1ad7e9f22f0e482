"""The cleaning pipeline against an independent implementation of the protocol in plain Python."""

from __future__ import annotations

import csv
import json
import tempfile
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxrec.data.clean.choices import Cleaning
from jaxrec.data.clean.pipeline import CHUNK
from jaxrec.data.clean.splits import DAY
from jaxrec.data.dataset import SPLITS, open_sessions
from jaxrec.errors import UserError
from jaxrec.prepare import main


class Event(NamedTuple):
    session: Any
    item: Any
    time: int  # ms


ORIGIN = 18_262 * DAY  # of the times of events here: 2020, as times before 1980 are refused
Split = list[tuple[list[Any], list[int]]]  # items and times of each session, in order


def reference(events: list[Event], cleaning: Cleaning) -> tuple[dict[str, Split], list[tuple[Any, int]]] | None:
    """The protocol of jaxrec/data/clean/pipeline.py, written down a second time; None where nothing would be left."""
    sessions: dict[Any, list[tuple[int, int, Any]]] = {}
    for row, event in enumerate(events):
        sessions.setdefault(event.session, []).append((event.time, row, event.item))
    for clicks in sessions.values():
        clicks.sort(key=lambda click: click[:2])
        if cleaning.drop_repeats:
            clicks[:] = [c for i, c in enumerate(clicks) if i == 0 or clicks[i - 1][2] != c[2]]

    def long_enough(sessions: dict[Any, list[tuple[int, int, Any]]]) -> dict[Any, list[tuple[int, int, Any]]]:
        return {s: clicks for s, clicks in sessions.items() if len(clicks) >= cleaning.min_session_length}

    dates = {s: clicks[-1][0] for s, clicks in sessions.items()}  # also where that click is dropped below
    first = {s: min(row for _, row, _ in clicks) for s, clicks in sessions.items()}
    sessions = long_enough(sessions)
    support = Counter(item for clicks in sessions.values() for _, _, item in clicks)
    sessions = {s: [c for c in clicks if support[c[2]] >= cleaning.min_item_support] for s, clicks in sessions.items()}
    sessions = long_enough(sessions)
    if not sessions:
        return None
    last_date = max(dates[s] for s in sessions)
    test_from = last_date - cleaning.test_days * DAY if cleaning.test_days else last_date + 1
    validation_from = test_from - cleaning.validation_days * DAY
    cut: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for session in sorted(sessions, key=lambda s: (dates[s], first[s])):
        if dates[session] < validation_from:
            cut["train"].append(session)
        elif dates[session] < test_from:
            cut["validation"].append(session)
        elif dates[session] > test_from:
            cut["test"].append(session)
    seen = Counter(item for split in ("train", "validation") for s in cut[split] for _, _, item in sessions[s])
    tests = long_enough({s: [c for c in sessions[s] if c[2] in seen] for s in cut["test"]})
    sessions |= tests
    cut["test"] = [s for s in cut["test"] if s in tests]
    keep = (
        sum(len(sessions[s]) - 1 for s in cut["train"]) * cleaning.fraction.numerator // cleaning.fraction.denominator
    )
    last: list[Any] = []
    for session in reversed(cut["train"]):
        if keep > 0:
            sessions[session] = sessions[session][: keep + 1]
            keep -= len(sessions[session]) - 1
            last.insert(0, session)
    cut["train"] = last
    wanted = {"train": 1, "validation": cleaning.validation_days, "test": cleaning.test_days}
    if any(wanted[split] and not cut[split] for split in SPLITS):
        return None
    splits = {
        split: [([c[2] for c in sessions[s]], [c[0] for c in sessions[s]]) for s in cut[split]] for split in SPLITS
    }
    return splits, sorted(seen.items(), key=lambda entry: (-entry[1], entry[0]))


def decoded(path: Path) -> tuple[dict[str, Split], list[tuple[Any, int]]]:
    """A dataset directory in the form of ``reference``."""
    dataset = open_sessions(path)
    dataset.verify()
    vocabulary = pyarrow.parquet.read_table(path / "items.parquet").to_pydict()
    splits: dict[str, Split] = {}
    for split in SPLITS:
        sessions = dataset.split(split)
        assert (sessions.items.dtype, sessions.times.dtype, sessions.offsets.dtype) == (np.int32, np.int64, np.int64)
        assert dataset.manifest["counts"][split] == sessions.counts
        bounds = list(zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True))
        splits[split] = [
            ([vocabulary["item"][i] for i in sessions.items[a:b]], (sessions.times[a:b] - ORIGIN).tolist())
            for a, b in bounds
        ]
    assert dataset.n_items == len(vocabulary["item"])
    return splits, list(zip(vocabulary["item"], vocabulary["count"], strict=True))


def options(cleaning: Cleaning) -> list[str]:
    given = [
        f"--{name.replace('_', '-')}={value}" for name, value in cleaning.options().items() if name != "drop_repeats"
    ]
    return given + ["--drop-repeats"] * cleaning.drop_repeats


def prepare(folder: Path, events: list[Event], cleaning: Cleaning, *more: str) -> Path:
    """Write the events as CSV and prepare them; returns the dataset directory."""
    raw = folder / "raw.csv"
    with open(raw, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("s", "i", "t"), *(event._replace(time=ORIGIN + event.time) for event in events)])
    columns = ["--session", "s", "--item", "i", "--time", "t", "--time-unit", "ms", "--quote", '"']
    out = folder / f"out{len(list(folder.iterdir()))}"
    threads = [] if any(option.startswith("--threads") for option in more) else ["--threads=1"]
    main(["events", "--raw", str(raw), *columns, "--out", str(out), *options(cleaning), *threads, *more])
    return out


# Few distinct values, so that ties, repeats, rare items and items unseen in training all happen.
TEXTS = st.sampled_from(["a", "B", "é", "it's", 'qu"ote', "a,b", "07", " ", "new\nline", "10", "9"])
CLEANINGS = st.builds(
    Cleaning,
    min_session_length=st.integers(2, 3),
    min_item_support=st.sampled_from([1, 1, 2, 3]),
    test_days=st.integers(0, 2),
    validation_days=st.integers(0, 2),
    fraction=st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(7, 8)]),
    drop_repeats=st.booleans(),
)


@st.composite
def logs(draw: st.DrawFn, ids: st.SearchStrategy[Any], items: st.SearchStrategy[Any]) -> list[Event]:
    """Sessions on a day each, some reaching into the next, written in any order."""
    click = st.tuples(items, st.sampled_from([0, 0, 1, 5, DAY - 1, DAY]))
    session = st.tuples(ids, st.integers(-1, 6), st.lists(click, min_size=1, max_size=6))
    sessions = draw(st.lists(session, min_size=4, max_size=20, unique_by=lambda session: session[0]))
    return draw(st.permutations([Event(id, i, day * DAY + ms) for id, day, clicks in sessions for i, ms in clicks]))


def bare(value: Any) -> Any:
    """Without the spaces around a text, which do not count."""
    return value.strip() if isinstance(value, str) else value


@given(
    events=st.one_of(
        logs(st.integers(-3, 200), st.integers(8, 12)), logs(TEXTS.map(lambda s: "s" + s), TEXTS.map(lambda s: "x" + s))
    ),
    cleaning=CLEANINGS,
)
@example(  # a test session that loses an item unseen in training, and one dated exactly at the split
    events=[Event(s, i, day * DAY) for s, day, items in ((1, 1, "ab"), (2, 9, "bca"), (3, 7, "ab")) for i in items],
    cleaning=Cleaning(min_item_support=1, test_days=2),
)
@settings(max_examples=100, deadline=None)
def test_agrees_with_the_protocol_written_in_plain_python(events: list[Event], cleaning: Cleaning) -> None:
    expected = reference([Event(*map(bare, event)) for event in events], cleaning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if expected is None:
            with pytest.raises(UserError, match=r"no .* left"):
                prepare(folder, events, cleaning)
            assert [file.name for file in folder.iterdir()] == ["raw.csv"]
            return
        out = prepare(folder, events, cleaning)
        assert decoded(out) == expected
        dropped = json.loads((out / "manifest.json").read_text())["dropped"]
        left = sum(len(items) for split in expected[0].values() for items, _ in split)
        assert len(events) - sum(amounts["events"] for amounts in dropped.values()) == left


def many_events(n: int) -> list[Event]:
    random = np.random.default_rng(3)
    sessions, items = random.integers(0, n // 6, n), (random.random(n) ** 3 * n / 50).astype(int)
    times = random.integers(0, 500, n) * (DAY // 20)  # many ties, within sessions and between them
    return [Event(*map(int, row)) for row in zip(sessions, items, times, strict=True)]


def test_bytes_do_not_depend_on_the_run_the_threads_or_the_memory(tmp_path: Path) -> None:
    events, cleaning = many_events(300_000), Cleaning(fraction=Fraction(2, 3), drop_repeats=True)
    first = prepare(tmp_path, events, cleaning, "--threads=1")
    expected = {file.relative_to(first): file.read_bytes() for file in first.rglob("*.*")}
    assert len(expected) == 11
    for more in (["--threads=2"], ["--threads=5", "--memory-limit=100MB"]):
        other = prepare(tmp_path, events, cleaning, *more)
        assert {file.relative_to(other): file.read_bytes() for file in other.rglob("*.*")} == expected
    assert decoded(first) == reference(events, cleaning)


def test_chunks_of_the_stream_meet_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, cleaning = many_events(20_000), Cleaning(validation_days=3, fraction=Fraction(9, 10))
    assert CHUNK > 20_000
    whole = prepare(tmp_path, events, cleaning)
    monkeypatch.setattr("jaxrec.data.clean.pipeline.CHUNK", 7)
    pieces = prepare(tmp_path, events, cleaning)
    assert (pieces / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_fraction_that_cuts_a_session_keeps_its_first_clicks(tmp_path: Path) -> None:
    events = [Event(s, i, s * DAY + i) for s in (1, 2) for i in (1, 2, 3, 4)]
    cleaning = Cleaning(min_item_support=1, test_days=0, fraction=Fraction(4, 6))
    splits, vocabulary = decoded(prepare(tmp_path, events, cleaning))
    assert [items for items, _ in splits["train"]] == [[1, 2], [1, 2, 3, 4]]
    assert vocabulary == [(1, 2), (2, 2), (3, 2), (4, 2)]  # of the whole training split
    splits, _ = decoded(prepare(tmp_path, events, replace(cleaning, fraction=Fraction(1, 3))))
    assert [items for items, _ in splits["train"]] == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("ids", "kind"), [([1, -2, 30], "int64"), (["1", "02", "3"], "string"), (["1", "2.5"], "string")]
)
def test_ids_are_integers_only_where_nothing_is_lost(tmp_path: Path, ids: list[Any], kind: str) -> None:
    events = [Event(s, item, s) for s in (1, 2) for item in ids]
    out = prepare(tmp_path, events, Cleaning(min_item_support=1, test_days=0))
    column = pyarrow.parquet.read_table(out / "items.parquet")["item"]
    assert column.type == kind
    assert column.to_pylist() == sorted(ids)
