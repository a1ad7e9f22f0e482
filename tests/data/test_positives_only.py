"""Rows without labels, or of which all are positive: for models that rank items for users."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import call

from jaxrec.config import parse
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.tasks.base import make_task

# Users of even numbers have the even ones of 10 items, but one each; the others the odd ones.
PAIRS = [(user, item) for user in range(1, 21) for item in range(10) if item % 2 == user % 2 and item // 2 != user % 5]


def prepared(out: Path, label: str = "", *argv: object) -> RowsDataset:
    """Purchases, with a column of labels that are all the same or without."""
    (file := out.with_suffix(".csv")).write_text("u,i,y\n" + "".join(f"{u},{i},{label}\n" for u, i in PAIRS))
    assert call("prepare", "rows", "--raw", file, "--user", "u", "--item", "i", *argv, "--out", out) == 0
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


def test_rows_without_labels_or_all_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = prepared(tmp_path / "none")
    rows = dataset.rows()
    assert rows.labels.tolist() == rows.ratings.tolist() == [1] * len(PAIRS)
    assert dataset.manifest["label"] == {"threshold": 1.0, "low": 1.0, "high": 1.0}
    assert rows.columns.tolist() == [[user, item + 1] for user, item in PAIRS]
    for label, more in (("yes", ()), ("5", ("--positive", "4"))):
        other = prepared(tmp_path / label, label, "--label", "y", *more)
        assert f"column 'y': all {len(PAIRS)} labels are positive" in capsys.readouterr().err
        assert (other.manifest["content_hash"] == dataset.manifest["content_hash"]) == (label != "5")
    config = parse({"data": {"path": str(dataset.path), "protocol": "paper"}, "model": {"name": "two_tower"}})
    data = Retrieval.open(config, dataset)
    positives = data.queries(data.splits.train)
    assert len(positives.users) == len(data.splits.train) > len(data.splits.test) > 0
    assert make_task(config, dataset).size == f"{len(positives.users)} positives of 20 users and 10 items"
    with pytest.raises(UserError, match="the train split are all 1, and autoint tells positive rows from others"):
        make_task(parse({"data": {"path": str(dataset.path)}, "model": {"name": "autoint"}}), dataset)
