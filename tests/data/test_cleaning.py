"""The cleaning pipeline and the published splits against the protocols, written down a second time."""

from __future__ import annotations

import calendar
import csv
import json
import os
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from preparing import prepared, sessions

from jaxrec.data.clean.choices import DAY, Cleaning
from jaxrec.data.clean.pipeline import CHUNK
from jaxrec.data.dataset import SPLITS, open_sessions
from jaxrec.errors import UserError
from jaxrec.prepare import main

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
NO_DATA = f"the real data is not at {SHARED} (set JAXREC_SHARED_DATA)"
ORIGIN = 18_262 * DAY  # of the times of events here: 2020, as times before 1980 are refused


# --- against an implementation in plain Python ------------------------------------------------------------------------


class Event(NamedTuple):
    session: Any
    item: Any
    time: int  # ms


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
    targets = sum(len(sessions[s]) - 1 for s in cut["train"])
    keep = targets * cleaning.fraction.numerator // cleaning.fraction.denominator
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
    splits = {split: [([c[2] for c in sessions[s]], [c[0] for c in sessions[s]]) for s in cut[split]]
              for split in SPLITS}  # fmt: skip
    return splits, sorted(seen.items(), key=lambda entry: (-entry[1], entry[0]))


def decoded(path: Path) -> tuple[dict[str, Split], list[tuple[Any, int]]]:
    """A dataset directory in the form of ``reference``."""
    dataset = open_sessions(path)
    dataset.verify()
    vocabulary = pq.read_table(path / "items.parquet").to_pydict()
    splits: dict[str, Split] = {}
    for split in SPLITS:
        part = dataset.split(split)
        assert (part.items.dtype, part.times.dtype, part.offsets.dtype) == (np.int32, np.int64, np.int64)
        times = np.split(part.times - ORIGIN, part.offsets[1:-1])
        splits[split] = [(items, own.tolist()) for items, own in zip(sessions(path, split), times, strict=False)]
    return splits, list(zip(vocabulary["item"], vocabulary["count"], strict=True))


def prepare_events(folder: Path, events: list[Event], cleaning: Cleaning, *more: str) -> Path:
    """Write the events as CSV and prepare them; returns the dataset directory."""
    with open(folder / "raw.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("s", "i", "t"), *(event._replace(time=ORIGIN + event.time) for event in events)])
    out = folder / f"out{len(list(folder.iterdir()))}"
    choices = {f"--{name.replace('_', '-')}": value for name, value in cleaning.options().items()}
    words = ["--drop-repeats"] * choices.pop("--drop-repeats") + [f"{name}={value}" for name, value in choices.items()]
    main(["events", "--raw", str(folder / "raw.csv"), "--session=s", "--item=i", "--time=t", "--time-unit=ms",
          '--quote="', "--out", str(out), *words, *(more or ["--threads=1"])])  # fmt: skip
    return out


# Few distinct values, so that ties, repeats, rare items and items unseen in training all happen.
TEXTS = st.sampled_from(["a", "B", "é", "it's", 'qu"ote', "a,b", "07", " ", "new\nline", "10", "9"])
CLEANINGS = st.builds(
    Cleaning, min_session_length=st.integers(2, 3), min_item_support=st.sampled_from([1, 1, 2, 3]),
    test_days=st.integers(0, 2), validation_days=st.integers(0, 2), drop_repeats=st.booleans(),
    fraction=st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(7, 8)]),
)  # fmt: skip


@st.composite
def logs(draw: st.DrawFn, ids: st.SearchStrategy[Any], items: st.SearchStrategy[Any]) -> list[Event]:
    """Sessions on a day each, some reaching into the next, written in any order."""
    click = st.tuples(items, st.sampled_from([0, 0, 1, 5, DAY - 1, DAY]))
    session = st.tuples(ids, st.integers(-1, 6), st.lists(click, min_size=1, max_size=6))
    found = draw(st.lists(session, min_size=4, max_size=20, unique_by=lambda session: session[0]))
    return draw(st.permutations([Event(id, i, day * DAY + ms) for id, day, clicks in found for i, ms in clicks]))


@given(st.one_of(logs(st.integers(-3, 200), st.integers(8, 12)),
                 logs(TEXTS.map(lambda s: "s" + s), TEXTS.map(lambda s: "x" + s))), CLEANINGS)  # fmt: skip
@example(  # a test session that loses an item unseen in training, and one dated exactly at the split
    [Event(s, i, day * DAY) for s, day, items in ((1, 1, "ab"), (2, 9, "bca"), (3, 7, "ab")) for i in items],
    Cleaning(min_item_support=1, test_days=2),
)
@settings(max_examples=25, deadline=None)
def test_agrees_with_the_protocol_written_in_plain_python(events: list[Event], cleaning: Cleaning) -> None:
    bare: list[Any] = [tuple(one.strip() if isinstance(one, str) else one for one in event) for event in events]
    expected = reference([Event(*event) for event in bare], cleaning)
    with tempfile.TemporaryDirectory() as name:
        if expected is None:
            with pytest.raises(UserError, match=r"no .* left"):
                prepare_events(Path(name), events, cleaning)
            assert os.listdir(name) == ["raw.csv"]
            return
        out = prepare_events(Path(name), events, cleaning)
        assert decoded(out) == expected
        left = sum(len(items) for split in expected[0].values() for items, _ in split)
        dropped = open_sessions(out).manifest["dropped"].values()
        assert len(events) - sum(amounts["events"] for amounts in dropped) == left


def many_events(n: int) -> list[Event]:
    random = np.random.default_rng(3)
    own, items = random.integers(0, n // 6, n), (random.random(n) ** 3 * n / 50).astype(int)
    times = random.integers(0, 500, n) * (DAY // 20)  # many ties, within sessions and between them
    return [Event(*map(int, row)) for row in zip(own, items, times, strict=True)]


def test_bytes_do_not_depend_on_the_run_the_threads_or_the_memory(tmp_path: Path) -> None:
    events, cleaning = many_events(60_000), Cleaning(fraction=Fraction(2, 3), drop_repeats=True)
    first = prepare_events(tmp_path, events, cleaning, "--threads=1")
    expected = {file.relative_to(first): file.read_bytes() for file in first.rglob("*.*")}
    assert len(expected) == 11
    other = prepare_events(tmp_path, events, cleaning, "--threads=5", "--memory-limit=100MB")
    assert {file.relative_to(other): file.read_bytes() for file in other.rglob("*.*")} == expected
    assert decoded(first) == reference(events, cleaning)


def test_chunks_of_the_stream_meet_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, cleaning = many_events(10_000), Cleaning(validation_days=3, fraction=Fraction(9, 10))
    assert CHUNK > 10_000
    whole = prepare_events(tmp_path, events, cleaning)
    monkeypatch.setattr("jaxrec.data.clean.pipeline.CHUNK", 7)
    pieces = prepare_events(tmp_path, events, cleaning)
    assert (pieces / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


# --- against the published code of yoochoose --------------------------------------------------------------------------

Pair = tuple[list[int], int]  # the clicks before a click, and the item clicked


def pairs(sessions: list[list[int]]) -> list[Pair]:
    return [(clicks[:-k], clicks[-k]) for clicks in sessions for k in range(1, len(clicks))]


def published(file: Path, denominator: int) -> tuple[set[int], list[Pair], list[Pair]]:
    """What the code of SR-GNN (github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py) makes of a file, in its order: its
    training set is a list of (prefix, target), longest prefix of a session first, of which the fraction is a tail."""
    clicks: dict[int, list[int]] = {}
    date: dict[int, int] = {}  # by session, in whole seconds, of the last click in the file
    for line in file.read_text().splitlines():
        session, moment, item, _ = line.split(",")
        clicks.setdefault(int(session), []).append(int(item))
        date[int(session)] = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    clicks = {session: items for session, items in clicks.items() if len(items) > 1}
    support = Counter(item for items in clicks.values() for item in items)
    clicks = {session: [item for item in items if support[item] >= 5] for session, items in clicks.items()}
    clicks = {session: items for session, items in clicks.items() if len(items) > 1}
    split = max(date[session] for session in clicks) - 86_400
    train = [clicks[session] for session in sorted(clicks, key=date.__getitem__) if date[session] < split]
    test = [clicks[session] for session in sorted(clicks, key=date.__getitem__) if date[session] > split]
    known = {item for items in train for item in items}
    every = pairs(train)
    return (known, every[-int(len(every) / denominator) :],
            pairs([[item for item in items if item in known] for items in test]))  # fmt: skip


def ours(raw: Path, out: Path, denominator: int) -> tuple[set[int], list[Pair], list[Pair]]:
    prepared(out, "yoochoose", raw, f"--fraction=1/{denominator}")
    items = set(pq.read_table(out / "items.parquet")["item"].to_pylist())
    return items, pairs(sessions(out)), pairs(sessions(out, "test"))


def write_clicks(file: Path, clicks: dict[int, list[tuple[float, int]]]) -> Path:
    """Write ``{session: [(seconds since 1 April 2014, item)]}`` in the raw layout."""
    start = np.datetime64("2014-04-01T00:00:00.000", "ms")
    file.write_text("".join(f"{session},{start + np.timedelta64(round(second * 1000), 'ms')}Z,{item},0\n"
                            for session, own in clicks.items() for second, item in own))  # fmt: skip
    return file


@pytest.mark.parametrize(("seed", "denominator"), [(0, 1), (1, 4), (2, 64)])
def test_random_sessions_give_the_published_pairs(tmp_path: Path, seed: int, denominator: int) -> None:
    """Of 1 to 7 clicks within four days, in the file in no order of theirs, many ending in the same second."""
    random = np.random.default_rng(seed)
    clicks: dict[int, list[tuple[float, int]]] = {}
    for session in random.permutation(1500):
        moments = np.sort(random.integers(0, 400, random.integers(1, 8)) * 864 + random.integers(0, 1000) / 1000)
        items = (random.random(len(moments)) ** 2 * 90).astype(int)
        clicks[int(session)] = list(zip(moments.tolist(), items.tolist(), strict=True))
    raw = write_clicks(tmp_path / "clicks.dat", clicks)
    expected = published(raw, denominator)
    assert len(expected[1]) >= 5 and len(expected[2]) >= 300
    assert ours(raw, tmp_path / "out", denominator) == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason=NO_DATA)
@pytest.mark.parametrize(("denominator", "targets"), [(4, 13_024), (64, 814)])
def test_the_sample_gives_the_published_pairs(tmp_path: Path, denominator: int, targets: int) -> None:
    raw = SHARED / "yoochoose-100k" / "yoochoose-clicks.dat"
    found = ours(raw, tmp_path / "out", denominator)
    assert [len(part) for part in found] == [2_808, targets, 10_102]
    assert found == published(raw, denominator)


@pytest.mark.skipif(not SHARED.is_dir(), reason=NO_DATA)
def test_diginetica_has_the_published_counts(tmp_path: Path) -> None:
    counts = prepared(tmp_path / "out", "diginetica", SHARED / "diginetica" / "train-item-views.csv.gz")["counts"]
    assert (counts["train"]["targets"], counts["test"]["targets"], counts["items"]) == (719_470, 60_858, 43_097)
    assert counts["train"]["events"] + counts["test"]["events"] == 982_961


def test_diginetica_orders_by_timeframe_and_splits_by_day(tmp_path: Path) -> None:
    rows = [
        (1, 11, 900, "2016-05-01"), (1, 10, 5, "2016-05-01"), (1, 12, 900, "2016-05-01"),
        (2, 10, 0, "2016-05-03"), (2, 11, 1, "2016-05-03"),  # the split day, whatever the hour
        (3, 11, 0, "2016-05-04"), (3, 99, 1, "2016-05-04"), (3, 10, 2, "2016-05-04"),
        (4, 12, 86_000_000, "2016-05-05"), (4, 10, 7, "2016-05-05"),
    ]  # fmt: skip
    text = "sessionId;userId;itemId;timeframe;eventdate\n" + "".join(f"{s};NA;{i};{f};{day}\n" for s, i, f, day in rows)
    options = ("--test-days=2", "--min-item-support=1")
    manifest = prepared(tmp_path / "out", "diginetica", text, *options)
    assert sessions(tmp_path / "out") == [[10, 11, 12]] and sessions(tmp_path / "out", "test") == [[11, 10], [10, 12]]
    assert open_sessions(tmp_path / "out").split("train").times.tolist() == [
        1462060800005, 1462060800900, 1462060800900]  # fmt: skip
    assert manifest["dropped"]["split date"] == {"sessions": 1, "events": 2}
    assert manifest["dropped"]["test items unseen in training"] == {"events": 1}
    assert manifest["counts"]["validation"] == {"sessions": 0, "events": 0, "targets": 0}
    assert str(tmp_path) not in json.dumps(manifest)
    session, item, frame, day = zip(*rows, strict=True)
    columns = {"itemId": item, "eventdate": pa.array(np.array(day, "datetime64[D]")), "timeframe": frame}
    pq.write_table(pa.table({"sessionId": session, **columns}), tmp_path / "typed.parquet")
    typed = prepared(tmp_path / "typed", "diginetica", tmp_path / "typed.parquet", *options)
    assert typed["content_hash"] == manifest["content_hash"]
