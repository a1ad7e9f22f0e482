"""Yoochoose 1/64 and 1/4 against the published protocol, written down a second time with dictionaries and prefixes.

The rules are those of SR-GNN (github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py), whose training set is a list of
(prefix, target), longest prefix of a session first, of which the fraction is a tail.
"""

from __future__ import annotations

import calendar
import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxrec.cli.command import command
from jaxrec.data.dataset import open_sessions
from jaxrec.prepare import main

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SAMPLE = SHARED / "yoochoose-100k" / "yoochoose-clicks.dat"

Pair = tuple[list[int], int]  # the clicks before a click, and the item clicked


class Published(NamedTuple):
    items: set[int]
    train: list[Pair]
    test: list[Pair]


def pairs(sessions: list[list[int]]) -> list[Pair]:
    return [(clicks[:-k], clicks[-k]) for clicks in sessions for k in range(1, len(clicks))]


def published(file: Path, denominator: int) -> Published:
    """What the published code makes of a file, in its order."""
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
    test = [[item for item in items if item in known] for items in test]
    every = pairs(train)
    return Published(known, every[-int(len(every) / denominator) :], pairs(test))


def ours(raw: Path, out: Path, fraction: str) -> Published:
    """What our command makes of it, in the same form; pairs of a session go from the longest prefix to the shortest."""
    main(["yoochoose", f"--raw={raw}", f"--out={out}", f"--fraction={fraction}"])
    vocabulary = pq.read_table(out / "items.parquet")["item"].to_pylist()
    found: dict[str, list[Pair]] = {}
    for split in ("train", "test"):
        sessions = open_sessions(out).split(split)
        bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
        found[split] = pairs([[vocabulary[i] for i in sessions.items[a:b]] for a, b in bounds])
    return Published(set(vocabulary), found["train"], found["test"])


def write_clicks(file: Path, sessions: dict[int, list[tuple[float, int]]]) -> Path:
    """Write ``{session: [(seconds since 1 April 2014, item)]}`` in the raw layout."""
    start = np.datetime64("2014-04-01T00:00:00.000", "ms")
    lines = [
        f"{session},{start + np.timedelta64(round(second * 1000), 'ms')}Z,{item},0\n"
        for session, clicks in sessions.items()
        for second, item in clicks
    ]
    file.write_text("".join(lines))
    return file


def random_sessions(seed: int) -> dict[int, list[tuple[float, int]]]:
    """Sessions of 1 to 7 clicks within four days, in the file in no order of theirs, many ending in the same second."""
    random = np.random.default_rng(seed)
    sessions: dict[int, list[tuple[float, int]]] = {}
    for session in random.permutation(1500):
        moments = np.sort(random.integers(0, 400, random.integers(1, 8)) * 864 + random.integers(0, 1000) / 1000)
        items = (random.random(len(moments)) ** 2 * 90).astype(int)
        sessions[int(session)] = list(zip(moments.tolist(), items.tolist(), strict=True))
    return sessions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("denominator", [1, 4, 64])
def test_random_sessions_give_the_published_pairs(tmp_path: Path, seed: int, denominator: int) -> None:
    raw = write_clicks(tmp_path / "clicks.dat", random_sessions(seed))
    expected = published(raw, denominator)
    assert len(expected.train) >= 5 and len(expected.test) >= 300
    assert ours(raw, tmp_path / "out", f"1/{denominator}") == expected


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"the real data is not at {SHARED} (set JAXREC_SHARED_DATA)")
@pytest.mark.parametrize(("denominator", "targets"), [(1, 52_098), (4, 13_024), (64, 814)])
def test_the_sample_gives_the_published_pairs(tmp_path: Path, denominator: int, targets: int) -> None:
    found = ours(SAMPLE, tmp_path / "out", f"1/{denominator}")
    assert (len(found.items), len(found.train), len(found.test)) == (2_808, targets, 10_102)
    assert found == published(SAMPLE, denominator)


DAY = 86_400


def common(*items: int) -> dict[int, list[tuple[float, int]]]:
    """Early sessions that make ``items`` common enough to stay: each is clicked five times."""
    return {1000 + n: [(n, item) for item in items] for n in range(5)}


def test_a_rare_last_click_still_dates_its_session(tmp_path: Path) -> None:
    sessions = common(1, 2) | {
        3: [(2 * DAY - 9, 1), (2 * DAY - 8, 2), (2 * DAY + 1, 99)],  # its two common clicks lie before the split
        2: [(2 * DAY - 9, 2), (2 * DAY - 7, 1), (2 * DAY, 98)],  # the split's very second: in neither part
        1: [(3 * DAY - 2, 1), (3 * DAY - 1, 1), (3 * DAY, 97)],  # the split lies a day before this one's last click
    }
    raw = write_clicks(tmp_path / "clicks.dat", sessions)
    found = ours(raw, tmp_path / "out", "1")
    assert found.test == [([1], 2), ([1], 1)]
    assert found.train == [([1], 2)] * 5
    assert found == published(raw, 1)


def test_the_fraction_cuts_a_session_after_its_first_clicks(tmp_path: Path) -> None:
    sessions = common(1, 2, 3) | {
        9: [(DAY, 1), (DAY + 1, 2), (DAY + 2, 3), (DAY + 3, 1)],
        8: [(DAY + 1, 3), (DAY + 2, 2), (DAY + 3, 1)],  # ends in the same second, and stands later in the file
        7: [(4 * DAY, 1), (4 * DAY + 1, 2)],
    }
    raw = write_clicks(tmp_path / "clicks.dat", sessions)
    found = ours(raw, tmp_path / "out", "1/4")  # of 15 targets the last int(15 / 4) = 3
    assert found.train == [([1], 2), ([3, 2], 1), ([3], 2)]
    assert found == published(raw, 4)


def test_a_test_item_of_the_older_part_of_training_stays_a_target(tmp_path: Path) -> None:
    sessions = common(1, 2, 3) | {
        9: [(DAY + n, item) for n, item in enumerate([1, 2] * 5)],
        8: [(4 * DAY, 1), (4 * DAY + 1, 3)],  # 3 is trained on nowhere in the fraction
        7: [(4 * DAY, 1), (4 * DAY + 1, 4), (4 * DAY + 2, 2)],  # 4 is common, but not in training
        6: [(4 * DAY + n, 4) for n in range(5)],
    }
    raw = write_clicks(tmp_path / "clicks.dat", sessions)
    found = ours(raw, tmp_path / "out", "1/4")
    assert found.items == {1, 2, 3}
    assert {item for prefix, target in found.train for item in (*prefix, target)} == {1, 2}
    assert found.test == [([1], 3), ([1], 2)]
    assert found == published(raw, 4)


def test_a_header_as_the_published_code_wants_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_clicks(tmp_path / "clicks.dat", common(1, 2))
    raw.write_text("session_id,timestamp,item_id,category\n" + raw.read_text())
    assert command(main, ["yoochoose", f"--raw={raw}", f"--out={tmp_path / 'out'}"]) == 2
    line = capsys.readouterr().err
    assert "row 1, column 'session': found 'session_id', expected an integer; " in line
    assert "column 'time': found 'timestamp', expected a time like 2014-04-07T08:51:09.277Z; mend" in line
    assert not (tmp_path / "out").exists()
