"""Rows without labels, or of which all are positive: for models that rank items for users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails

from jaxrec.baselines.retrieval import Positives, als
from jaxrec.config import parse
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.tasks.base import make_task

USER_ITEM = ["--user", "u", "--item", "i"]
# Users of even numbers have the even ones of 10 items, but one each; the others the odd ones.
PAIRS = [(user, item) for user in range(1, 21) for item in range(10) if item % 2 == user % 2 and item // 2 != user % 5]


def write(file: Path, label: str | None = None) -> Path:
    """Purchases, with a column of labels that are all the same or without."""
    lines = ["u,i" + ",y" * (label is not None), *(f"{u},{i}" + f",{label}" * (label is not None) for u, i in PAIRS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prepared(out: Path, *argv: object) -> RowsDataset:
    assert call("prepare", "rows", *map(str, argv), "--out", str(out)) == 0
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


@pytest.fixture(scope="module")
def purchases(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    place = tmp_path_factory.mktemp("purchases")
    return prepared(place / "d", "--raw", write(place / "p.csv"), *USER_ITEM)


def config_of(dataset: RowsDataset, protocol: str = "rows") -> dict[str, Any]:
    return {"data": {"path": str(dataset.path), "protocol": protocol}, "model": {"name": "two_tower"},
            "evaluation": {"k": [3]}, "training": {"metric": "recall@3"}}  # fmt: skip


def test_rows_without_labels(purchases: RowsDataset) -> None:
    rows = purchases.rows()
    assert rows.labels.tolist() == rows.ratings.tolist() == [1] * len(PAIRS)
    assert purchases.manifest["label"] == {"threshold": 1.0, "low": 1.0, "high": 1.0}
    assert purchases.manifest["counts"]["positive"] == len(PAIRS) and purchases.all_positive
    assert purchases.manifest["options"]["label"] is None
    assert rows.columns.tolist() == [[user, item + 1] for user, item in PAIRS]


@pytest.mark.parametrize(
    ("label", "more", "said"),
    [("1", [], "1 or more"), ("yes", [], "1 or more"), ("5", ["--positive", "4"], "4 or more")],
)
def test_labels_that_are_all_positive(
    label: str, more: list[str], said: str, purchases: RowsDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "p.csv", label)
    dataset = prepared(tmp_path / "d", "--raw", raw, "--label", "y", *more, *USER_ITEM)
    out, err = capsys.readouterr()
    assert err == (f"jaxrec: note: column 'y': all {len(PAIRS)} labels are positive ({said}): enough for two_tower; "
                   "autoint needs both classes\n")  # fmt: skip
    assert f"{len(PAIRS)} rows, all positive (at least {said[0]}); values:" in out
    assert (dataset.manifest["content_hash"] == purchases.manifest["content_hash"]) == (label != "5")


def test_what_positives_alone_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = write(tmp_path / "p.csv", "1"), tmp_path / "d"
    for argv, names in (
        (["--user", "u"], "--label: not given, so every row is a positive, .*: that needs --item; name the column"),
        (["--categorical", "u"], "needs --user and --item; name the column, or that of the label$"),
        ([*USER_ITEM, "--positive", "1"], "--positive: belongs to --label; leave it out, or name the column"),
        (["--label", "y", "--user", "u"], "all positive .*; add rows of the other class"),
        (["--label", "y", "--positive", "2", *USER_ITEM], "all negative .*; add rows of the other"),
    ):
        fails(capsys, "prepare", "rows", "--raw", raw, *argv, "--out", out, names=names)
    assert list(tmp_path.iterdir()) == [raw]


@pytest.mark.parametrize("protocol", ["rows", "paper", "leave_one_random", "cold_users"])
def test_two_towers_and_als_learn_from_positives_alone(purchases: RowsDataset, protocol: str) -> None:
    config = parse(config_of(purchases, protocol))
    data = Retrieval.open(config, purchases)
    train = data.queries(data.splits.train)
    assert len(train.users) == len(data.splits.train) > len(data.splits.test) > 0
    task = make_task(config, purchases)
    assert task.size == f"{len(train.users)} positives of 20 users and 10 items"
    scores = als(Positives(train.users, train.items), data.n_users, data.n_items)(np.arange(1, 21, dtype=np.int32))
    known = np.isin(np.arange(1, 21), train.users)
    own, other = scores[1::2, 1::2], scores[1::2, 2::2]  # even users, items 0, 2, ...; item r has index r + 1
    assert np.all(own[known[1::2]].mean(axis=1) > other[known[1::2]].mean(axis=1) + 0.1)


def test_click_models_need_both_classes(purchases: RowsDataset) -> None:
    values = config_of(purchases) | {"model": {"name": "autoint"}, "loss": {"name": "binary"}}
    values["training"] = {"metric": "auc"}
    names = f"model.name: autoint tells positive rows from others, and all {len(PAIRS)} rows of .* choose two_tower"
    with pytest.raises(UserError, match=names):
        make_task(parse(values), purchases)
