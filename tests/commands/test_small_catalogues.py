"""Catalogues smaller than the default cut-offs: what was not given is lowered, and what was given is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import call, fails, write_config, write_dataset

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import Dataset
from jaxrec.errors import UserError
from jaxrec.tasks.base import fit_cutoffs

Capsys = pytest.CaptureFixture[str]


def of_items(n: int, kind: str = "sessions") -> Dataset:
    rows = {"fields": [{"name": "i", "kind": "categorical", "side": "item", "size": n + 1}], "user": None, "item": "i",
            "label": {"threshold": 1, "low": 0, "high": 1}}  # fmt: skip
    return Dataset(Path("shop"), {"kind": kind, "counts": {"items": n}, **rows})


def config_of(**sections: dict[str, Any]) -> Config:
    return configuration.parse({"data": {"path": "shop"}, **sections})


@pytest.mark.parametrize(("items", "ks", "metric"), [
    (1, (1,), "recall@1"), (3, (2,), "recall@2"), (10, (5,), "recall@5"), (20, (5, 10), "recall@10"),
    (21, (5, 10, 20), "recall@20"),
])  # fmt: skip
def test_defaults_are_lowered(items: int, ks: tuple[int, ...], metric: str, capsys: Capsys) -> None:
    found = fit_cutoffs(config_of(), of_items(items))
    assert (found.evaluation.k, found.training.metric) == (ks, metric)
    err = capsys.readouterr().err
    assert (f"evaluation.k is {' '.join(map(str, ks))} instead of 5 10 20" in err) == (items < 21)
    towers = fit_cutoffs(config_of(model={"name": "two_tower"}), of_items(items, "rows"))
    assert towers.evaluation.k == ks and towers.training.metric == ("recall@10" if items > 10 else metric)


def test_what_was_given_stays_or_is_refused() -> None:
    given = config_of(evaluation={"k": [3, 12]}, training={"metric": "mrr@12"})
    assert fit_cutoffs(given, of_items(12)) == given
    with pytest.raises(UserError, match=r"evaluation\.k: 13 is more than the 12 items of shop; lower it, or leave"):
        fit_cutoffs(config_of(evaluation={"k": [13]}), of_items(12))


def test_the_commands_on_a_small_shop(tmp_path: Path, capsys: Capsys) -> None:
    shop = write_dataset(tmp_path / "data", [[(number + step) % 12 for step in range(4)] for number in range(150)])
    config = write_config(tmp_path / "shop.yaml", shop, evaluation={"k": None}, training={"epochs": 1})
    run = tmp_path / "run"
    assert call("train", "--config", config, "--run", run) == 0
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["evaluation"]["k"], stored["training"]["metric"]) == ([5, 10], "recall@10")
    assert call("train", "--config", config, "--run", run, "--resume") == 0
    for words, notes in ((["--run", run], 0), (["--data", shop], 1)):
        capsys.readouterr()
        assert call("evaluate", *words, "--baselines", "pop", "--json") == 0
        out, err = capsys.readouterr()
        assert err.count("evaluation.k is 5 10 instead of 5 10 20") == len(err.splitlines()) == notes
        pop = json.loads(out)["baselines"]["pop"]
        assert {name for name in pop if name.startswith("recall")} == {"recall@5", "recall@10"}
    for words, count in ((["--items", 3], 11), (["--similar-to", 3], 11)):
        assert call("recommend", "--run", run, *words, "--json") == 0
        assert len({row["item"] for row in json.loads(capsys.readouterr().out)["recommendations"]}) == count
    fails(capsys, "recommend", "--run", run, "--items", 3, "--k", 13, names="k = 13: expected 1 to 12")
