"""Rows without labels, or of which all are positive: for models that rank items for users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call

from jaxrec.baselines.retrieval import als, matrix
from jaxrec.config import parse
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.tasks.base import make_task

USER_ITEM = ["--user", "u", "--item", "i"]
# Users of even numbers have the even ones of 10 items, but one each; the others the odd ones.
PAIRS = [(user, item) for user in range(1, 21) for item in range(10) if item % 2 == user % 2 and item // 2 != user % 5]


def write(file: Path, *label: str) -> Path:
    """Purchases, with a column of labels that are all the same or without."""
    lines = [",".join(["u", "i", *("y" for _ in label)]), *(",".join(map(str, (*pair, *label))) for pair in PAIRS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prepared(out: Path, *argv: object) -> RowsDataset:
    assert call("prepare", "rows", *argv, "--out", out) == 0
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


@pytest.fixture(scope="module")
def purchases(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    place = tmp_path_factory.mktemp("purchases")
    return prepared(place / "d", "--raw", write(place / "p.csv"), *USER_ITEM)


def config_of(dataset: RowsDataset, **sections: Any) -> Any:
    return parse({"data": {"path": str(dataset.path)}, "model": {"name": "two_tower"}} | sections)


def test_rows_without_labels_or_all_positive(
    purchases: RowsDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = purchases.rows()
    assert rows.labels.tolist() == rows.ratings.tolist() == [1] * len(PAIRS)
    assert purchases.manifest["label"] == {"threshold": 1.0, "low": 1.0, "high": 1.0}
    assert rows.columns.tolist() == [[user, item + 1] for user, item in PAIRS]
    for label, more in (("yes", []), ("5", ["--positive", "4"])):
        raw = write(tmp_path / "p.csv", label)
        capsys.readouterr()
        dataset = prepared(tmp_path / label, "--raw", raw, "--label", "y", *more, *USER_ITEM)
        assert f"column 'y': all {len(PAIRS)} labels are positive" in capsys.readouterr().err
        assert (dataset.manifest["content_hash"] == purchases.manifest["content_hash"]) == (label != "5")


@pytest.mark.parametrize("protocol", ["rows", "paper", "leave_one_random", "cold_users"])
def test_two_towers_and_als_learn_from_positives_alone(purchases: RowsDataset, protocol: str) -> None:
    config = config_of(purchases, data={"path": str(purchases.path), "protocol": protocol})
    data = Retrieval.open(config, purchases)
    train = data.queries(data.splits.train)
    assert len(train.users) == len(data.splits.train) > len(data.splits.test) > 0
    assert make_task(config, purchases).size == f"{len(train.users)} positives of 20 users and 10 items"
    scores = als(matrix(train.users, train.items, data.n_users, data.n_items))(np.arange(1, 21, dtype=np.int32))
    known = np.isin(np.arange(1, 21), train.users)
    own, other = scores[1::2, 1::2], scores[1::2, 2::2]  # even users, items 0, 2, ...; item r has index r + 1
    assert np.all(own[known[1::2]].mean(axis=1) > other[known[1::2]].mean(axis=1) + 0.1)


def test_click_models_need_both_classes(purchases: RowsDataset) -> None:
    with pytest.raises(UserError, match="the train split are all 1, and autoint tells positive rows from others"):
        make_task(config_of(purchases, model={"name": "autoint"}), purchases)
