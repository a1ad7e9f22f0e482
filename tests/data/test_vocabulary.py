"""``prepare --vocabulary-of``: indices go on from those of another data set, and nothing else changes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, open_sessions, prepared, sessions, write_config, write_dataset
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from worlds import Worlds

from jaxrec import Query, Recommender, UserError
from jaxrec.data.dataset import SPLITS

Capsys = pytest.CaptureFixture[str]
LOG = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=5), min_size=3, max_size=9)
COLUMNS = ("--session=s", "--item=i", "--time=t", "--time-unit=s", "--min-item-support=2", "--test-days=1")


def csv_of(log: Sequence[Sequence[object]]) -> str:
    """Sessions, two a day, whose ids of items are integers or text."""
    lines = [f"{number},{item},{1_700_000_000 + 43_200 * number + at}" for number, session in enumerate(log)
             for at, item in enumerate(session)]  # fmt: skip
    return "\n".join(["s,i,t", *lines]) + "\n"


def vocabulary(path: Path) -> tuple[list[Any], list[int]]:
    table = pq.read_table(path / "items.parquet").to_pydict()
    return table["item"], table["count"]


@given(LOG, LOG, st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_shared_ids_keep_their_indices_and_the_events_are_the_same(
    former: list[list[int]], log: list[list[int]], text: bool, loo: bool
) -> None:
    named = [[[f"x{item}" if text else item for item in session] for session in one] for one in (former, log)]
    # twice, so that neither filters nor the split leave nothing
    texts = [csv_of([*one, *one, ["x1", "x1", "x1"] if text else [1, 1, 1]]) for one in named]
    words = [*COLUMNS[:-1], "--split=leave_one_out"] if loo else COLUMNS
    with tempfile.TemporaryDirectory() as name:
        places = [Path(name) / one for one in ("former", "plain", "out")]
        try:
            prepared(places[0], "events", texts[0], *words)
            prepared(places[1], "events", texts[1], *words)
        except UserError as error:  # of a log in which hardly an item comes often enough
            if " left: " in str(error):
                reject()
            raise
        manifest = prepared(places[2], "events", texts[1], *words, f"--vocabulary-of={places[0]}")
        (old, _), (ids, counts), (new, after) = map(vocabulary, places)
        assert new[: len(old)] == old and new[len(old) :] == [item for item in ids if item not in old]
        assert dict(zip(new, after, strict=True)) == dict.fromkeys(old, 0) | dict(zip(ids, counts, strict=True))
        told = manifest["vocabulary_of"]
        assert told["content_hash"] == open_sessions(places[0]).manifest["content_hash"]
        assert (told["items"], told["gone"], told["new"]) == (len(old), len({*old} - {*ids}), len({*ids} - {*old}))
        for split in SPLITS:
            assert sessions(places[2], split) == sessions(places[1], split)
        assert manifest["counts"] == open_sessions(places[1]).manifest["counts"] | {"items": len(new)}


def test_items_without_events_harm_nothing(tmp_path: Path) -> None:
    """Training that draws uniformly and by popularity, with logQ; baselines; popular items where nothing is known."""
    draw = np.random.default_rng(0)
    old, new = ([[low + int(item) for item in draw.integers(0, 30, 5)] for _ in range(150)] for low in (0, 20))
    former = write_dataset(tmp_path / "former", old)
    data = write_dataset(tmp_path / "data", new, vocabulary_of=former)
    ids, counts = vocabulary(data)
    assert sorted(ids[30:]) == [*range(30, 50)] and sum(count == 0 for count in counts) == 20
    for alpha in (0.0, 0.5):  # 0: uniform
        loss = {"n_sample": 16, "sample_alpha": alpha, "logq": 1.0}
        sections: dict[str, dict[str, Any]] = {
            "data": {"validation_fraction": 0.0},
            "loss": loss,
            "evaluation": {"k": [5]},
        }
        config = write_config(tmp_path / "config.yaml", data, **sections)
        run = tmp_path / f"run{alpha}"
        assert call("train", "--config", config, "--run", run) == 0
        assert call("evaluate", "--run", run, "--baselines", "all") == 0
        answer = Recommender.load(run).recommend(Query([999]), k=5)
        assert answer.popular and all(counts[ids.index(item.id)] > 0 for item in answer.items)


def test_what_is_refused(tmp_path: Path, worlds: Worlds, capsys: Capsys) -> None:
    data = write_dataset(tmp_path / "data", [[1, 2, 3]] * 120)
    (raw := tmp_path / "text.csv").write_text(csv_of([["a", "b"]] * 6))
    words = ["--raw", raw, "--out", tmp_path / "out", *COLUMNS, "--vocabulary-of"]
    fails(capsys, "prepare", "events", *words, tmp_path, names="no data set here")
    fails(capsys, "prepare", "events", *words, data, names="its item ids are integers, those of the new data text")
    fails(capsys, "prepare", "events", *words, worlds.data("clicks"), names="it holds rows; indices are kept of sess")
    fails(capsys, "prepare", "events", *words, worlds.data("events"), names="it holds events; indices are kept of sess")
    rows = ["prepare", "rows-synthetic", "--out", tmp_path / "out", "--vocabulary-of", data]
    fails(capsys, *rows, names="the new data are rows; indices are kept of sessions alone, name .* or leave it out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
