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
import pyarrow.parquet as pq
import pytest
from helpers import open_sessions, prepared, sessions
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxrec.data.clean.protocol import DAY, Cleaning
from jaxrec.data.dataset import SPLITS
from jaxrec.errors import UserError
from jaxrec.prepare import main

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED} (set JAXREC_SHARED_DATA)")
ORIGIN = 18_262 * DAY  # of the times of events here: 2020, as times before 1980 are refused


class Event(NamedTuple):
    session: Any
    item: Any
    time: int  # ms


Click = tuple[int, int, Any]  # time, row, item
Clicks = dict[Any, list[Click]]  # by session
Split = list[tuple[list[Any], list[int]]]  # items and times of each session, in order
Decoded = tuple[dict[str, Split], list[tuple[Any, int]]]


def reference(events: list[Event], cleaning: Cleaning, leave_one_out: bool) -> Decoded | None:
    """The protocol of jaxrec/data/clean/pipeline.py, written down a second time; None where nothing would be left."""
    sessions: Clicks = {}
    for row, event in enumerate(events):
        sessions.setdefault(event.session, []).append((event.time, row, event.item))
    for clicks in sessions.values():
        clicks.sort(key=lambda click: click[:2])
        if cleaning.drop_repeats:
            clicks[:] = [c for i, c in enumerate(clicks) if i == 0 or clicks[i - 1][2] != c[2]]

    def long_enough(sessions: Clicks) -> Clicks:
        return {s: clicks for s, clicks in sessions.items() if len(clicks) >= cleaning.min_session_length}

    dates = {s: clicks[-1][0] for s, clicks in sessions.items()}  # also where that click is dropped below
    first = {s: min(row for _, row, _ in clicks) for s, clicks in sessions.items()}
    sessions = long_enough(sessions)
    support = Counter(item for clicks in sessions.values() for _, _, item in clicks)
    sessions = {s: [c for c in clicks if support[c[2]] >= cleaning.min_item_support] for s, clicks in sessions.items()}
    sessions = long_enough(sessions)
    if not sessions:
        return None
    cut = held_out(sessions) if leave_one_out else by_time(sessions, cleaning, dates)
    known = Counter(item for split in ("train", "validation") for clicks in cut[split].values() for *_, item in clicks)
    if leave_one_out:
        cut["test"] = {s: clicks for s, clicks in cut["test"].items() if clicks[-1][2] in known}
        trained = Counter(item for clicks in cut["train"].values() for *_, item in clicks)
        vocabulary = {item: trained[item] for item in known}
    else:
        vocabulary = dict(known)
        cut["test"] = long_enough({s: [c for c in clicks if c[2] in known] for s, clicks in cut["test"].items()})
    ordered = {}
    for split, part in cut.items():
        date = {s: clicks[-1][0] if leave_one_out else dates[s] for s, clicks in part.items()}
        ordered[split] = [part[s] for s in sorted(part, key=lambda s: (date[s], first[s]))]
    if cleaning.fraction < 1:
        ordered["train"] = tail(ordered["train"], cleaning.fraction)
    needed = [split for split, days in (("validation", cleaning.validation_days), ("test", cleaning.test_days))
              if days or leave_one_out]  # fmt: skip
    if not any(len(clicks) > 1 for clicks in ordered["train"]) or not all(ordered[split] for split in needed):
        return None
    splits = {split: [([c[2] for c in clicks], [c[0] for c in clicks]) for clicks in ordered[split]]
              for split in SPLITS}  # fmt: skip
    return splits, sorted(vocabulary.items(), key=lambda entry: (-entry[1], entry[0]))


def held_out(sessions: Clicks) -> dict[str, Clicks]:
    """SASRec, section IV: the last event is the test target, the one before it the validation target."""
    held = {s: clicks for s, clicks in sessions.items() if len(clicks) >= 3}
    train = {s: clicks[:-2] if s in held else clicks for s, clicks in sessions.items()}
    return {"train": train, "validation": {s: clicks[:-1] for s, clicks in held.items()}, "test": held}


def by_time(sessions: Clicks, cleaning: Cleaning, dates: dict[Any, int]) -> dict[str, Clicks]:
    last_date = max(dates[s] for s in sessions)
    test_from = last_date - cleaning.test_days * DAY if cleaning.test_days else last_date + 1
    validation_from = test_from - cleaning.validation_days * DAY
    return {
        "train": {s: clicks for s, clicks in sessions.items() if dates[s] < validation_from},
        "validation": {s: clicks for s, clicks in sessions.items() if validation_from <= dates[s] < test_from},
        "test": {s: clicks for s, clicks in sessions.items() if dates[s] > test_from},
    }


def tail(sessions: list[list[Click]], fraction: Fraction) -> list[list[Click]]:
    """The last part of the targets: the last sessions, and of the one in which it begins the first clicks."""
    keep = sum(len(clicks) - 1 for clicks in sessions) * fraction.numerator // fraction.denominator
    kept: list[list[Click]] = []
    for clicks in reversed(sessions):
        if keep > 0:
            kept.insert(0, clicks[: keep + 1])
            keep -= len(kept[0]) - 1
    return kept


def decoded(path: Path) -> Decoded:
    """A dataset directory in the form of ``reference``."""
    dataset = open_sessions(path)
    dataset.verify()
    vocabulary = pq.read_table(path / "items.parquet").to_pydict()
    splits: dict[str, Split] = {}
    for split in SPLITS:
        part = dataset.split(split)
        assert (part.items.dtype, part.times.dtype, part.offsets.dtype) == (np.int32, np.int64, np.int64)
        assert part.last_only == ("scored" in dataset.manifest and split != "train")
        counts = dataset.manifest["counts"][split]
        targets = len(part.offsets) - 1 if part.last_only else len(part.items) - len(part.offsets) + 1
        assert counts == {"sessions": len(part.offsets) - 1, "events": len(part.items), "targets": targets}
        times = np.split(part.times - ORIGIN, part.offsets[1:-1])
        splits[split] = [(items, own.tolist()) for items, own in zip(sessions(path, split), times, strict=False)]
    return splits, list(zip(vocabulary["item"], vocabulary["count"], strict=True))


def prepare_events(folder: Path, events: list[Event], cleaning: Cleaning, loo: bool = False, *more: str) -> Path:
    """Write the events as CSV and prepare them; returns the dataset directory."""
    with open(folder / "raw.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("s", "i", "t"), *(event._replace(time=ORIGIN + event.time) for event in events)])
    out = folder / f"out{len(list(folder.iterdir()))}"
    choices = {f"--{name.replace('_', '-')}": value for name, value in cleaning.options().items()}
    words = ["--drop-repeats"] * choices.pop("--drop-repeats") + ["--split=leave_one_out"] * loo
    words += [f"{name}={value}" for name, value in choices.items() if not loo or name.startswith("--min")]
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


LOGS = logs(st.integers(-3, 200), st.integers(8, 12)) | logs(TEXTS.map("s{}".format), TEXTS.map("x{}".format))


@given(LOGS, CLEANINGS, st.booleans())
@example(  # a test session that loses an item unseen in training, and one dated exactly at the split
    [Event(s, i, day * DAY) for s, day, items in ((1, 1, "ab"), (2, 9, "bca"), (3, 7, "ab")) for i in items],
    Cleaning(min_item_support=1, test_days=2), False,
)  # fmt: skip
@example(  # users of 2 to 4 events; c is a test target that is nowhere before, d only the validation knows
    [Event(s, i, 0) for s, items in ((1, "abc"), (2, "abda"), (3, "ab"), (4, "bad"), (5, "bba")) for i in items],
    Cleaning(min_item_support=1), True,
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_agrees_with_the_protocol_written_in_plain_python(events: list[Event], cleaning: Cleaning, loo: bool) -> None:
    cleaning = Cleaning(cleaning.min_session_length, cleaning.min_item_support) if loo else cleaning
    bare: list[Any] = [tuple(one.strip() if isinstance(one, str) else one for one in event) for event in events]
    expected = reference([Event(*event) for event in bare], cleaning, loo)
    with tempfile.TemporaryDirectory() as name:
        if expected is None:
            with pytest.raises(UserError, match=r"no .* left"):
                prepare_events(Path(name), events, cleaning, loo)
            assert os.listdir(name) == ["raw.csv"]
            return
        out = prepare_events(Path(name), events, cleaning, loo)
        assert decoded(out) == expected
        if not loo:
            left = sum(len(items) for split in expected[0].values() for items, _ in split)
            dropped = open_sessions(out).manifest["dropped"].values()
            assert len(events) - sum(amounts["events"] for amounts in dropped) == left


def test_bytes_do_not_depend_on_threads_memory_or_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, random = 20_000, np.random.default_rng(3)
    own, items = random.integers(0, n // 6, n), (random.random(n) ** 3 * n / 50).astype(int)
    times = random.integers(0, 500, n) * (DAY // 20)  # many ties, within sessions and between them
    events = [Event(*map(int, row)) for row in zip(own, items, times, strict=True)]
    cleaning = Cleaning(fraction=Fraction(2, 3), drop_repeats=True, validation_days=3)
    first = prepare_events(tmp_path, events, cleaning)
    expected = {file.relative_to(first): file.read_bytes() for file in first.rglob("*.*")}
    assert len(expected) == 11 and decoded(first) == reference(events, cleaning, False)
    for chunk, words in ((1 << 20, ["--threads=5", "--memory-limit=100MB"]), (7, ["--threads=1"])):
        monkeypatch.setattr("jaxrec.data.clean.pipeline.CHUNK", chunk)
        other = prepare_events(tmp_path, events, cleaning, False, *words)
        assert {file.relative_to(other): file.read_bytes() for file in other.rglob("*.*")} == expected


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


@pytest.mark.parametrize(("seed", "denominator"), [(0, 1), (1, 4), (2, 64)])
def test_random_sessions_give_the_published_pairs(tmp_path: Path, seed: int, denominator: int) -> None:
    """Of 1 to 7 clicks within four days, in the file in no order of theirs, many ending in the same second."""
    random, start = np.random.default_rng(seed), np.datetime64("2014-04-01T00:00:00.000", "ms")
    lines = []
    for session in random.permutation(1500):
        moments = np.sort(random.integers(0, 400, random.integers(1, 8)) * 864_000 + random.integers(0, 1000))
        items = (random.random(len(moments)) ** 2 * 90).astype(int)
        lines += [f"{session},{start + ms}Z,{item},0\n" for ms, item in zip(moments, items, strict=True)]
    (tmp_path / "clicks.dat").write_text("".join(lines))
    expected = published(tmp_path / "clicks.dat", denominator)
    assert len(expected[1]) >= 5 and len(expected[2]) >= 300
    prepared(tmp_path / "out", "yoochoose", tmp_path / "clicks.dat", f"--fraction=1/{denominator}")
    known = set(pq.read_table(tmp_path / "out" / "items.parquet")["item"].to_pylist())
    assert (known, pairs(sessions(tmp_path / "out")), pairs(sessions(tmp_path / "out", "test"))) == expected


@needs_data
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
    assert str(tmp_path) not in json.dumps(manifest)
