"""Catalogues smaller than the default cut-offs: what was not given is lowered, and what was given is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import call, fails, ranked, write_config, write_dataset

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import Dataset, open_dataset
from jaxrec.errors import UserError
from jaxrec.recommend import Recommender
from jaxrec.run import open_run
from jaxrec.tasks.cutoffs import fit_cutoffs

Capsys = pytest.CaptureFixture[str]
TWELVE = 12
SEVEN = 7


def of_items(n: int) -> Dataset:
    return Dataset(Path("shop"), {"kind": "sessions", "counts": {"items": n}})


def config_of(**sections: dict[str, Any]) -> Config:
    return configuration.parse({"data": {"path": "shop"}, **sections})


@pytest.mark.parametrize(("items", "ks", "metric"), [
    (1, (1,), "recall@1"), (2, (1,), "recall@1"), (3, (2,), "recall@2"), (5, (4,), "recall@4"),
    (6, (5,), "recall@5"), (10, (5,), "recall@5"), (12, (5, 10), "recall@10"), (20, (5, 10), "recall@10"),
    (21, (5, 10, 20), "recall@20"),
])  # fmt: skip
def test_defaults_are_lowered(items: int, ks: tuple[int, ...], metric: str, capsys: Capsys) -> None:
    found = fit_cutoffs(config_of(), of_items(items))
    assert (found.evaluation.k, found.training.metric) == (ks, metric)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (items < 21)
    if lines:
        assert f"evaluation.k is {' '.join(map(str, ks))} instead of 5 10 20" in lines[0]
        assert f"training.metric is {metric} instead of recall@20" in lines[0]


def test_what_was_given_stays_or_is_refused() -> None:
    given = config_of(evaluation={"k": [3, 12]}, training={"metric": "mrr@12"})
    assert fit_cutoffs(given, of_items(12)) == given
    some = fit_cutoffs(config_of(evaluation={"k": [3]}), of_items(12))
    assert (some.evaluation.k, some.training.metric) == ((3,), "recall@10")
    with pytest.raises(UserError, match=r"evaluation\.k: 13 is more than the 12 items of shop; lower it, or leave"):
        fit_cutoffs(config_of(evaluation={"k": [13]}), of_items(12))


def test_a_resumed_run_keeps_its_own_cutoffs() -> None:
    stored = config_of(training={"metric": "recall@20"}, evaluation={"k": [5, 10, 20]})  # by an earlier version
    found = fit_cutoffs(config_of(), of_items(12), stored)
    assert (found.evaluation.k, found.training.metric) == ((5, 10, 20), "recall@20")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions over twelve items."""
    sessions = [[(number + step) % TWELVE for step in range(4)] for number in range(150)]
    return write_dataset(tmp_path_factory.mktemp("shop") / "data", sessions)


@pytest.fixture(scope="module")
def shop_config(shop: Path) -> Path:
    return write_config(shop.with_name("shop.yaml"), shop, evaluation={"k": None}, training={"epochs": 1})


def test_sessions_of_a_small_shop(shop: Path, shop_config: Path, tmp_path: Path, capsys: Capsys) -> None:
    run = tmp_path / "run"
    assert call("train", "--config", shop_config, "--run", run) == 0
    assert "training.metric is recall@10 instead of recall@20" in capsys.readouterr().err
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["evaluation"]["k"], stored["training"]["metric"]) == ([5, 10], "recall@10")
    assert call("train", "--config", shop_config, "--run", run, "--resume") == 0
    assert "already trained to its end" in capsys.readouterr().out

    assert call("evaluate", "--run", run, "--baselines", "pop", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert {name for name in found if name.startswith("recall")} == {"recall@5", "recall@10"}
    assert call("evaluate", "--data", shop, "--baselines", "pop", "--json") == 0
    out, err = capsys.readouterr()
    assert {name for name in json.loads(out)["baselines"]["pop"] if name.startswith("recall")} == {
        "recall@5",
        "recall@10",
    }
    assert err == "jaxrec: note: --k is 5 10 instead of 5 10 20: there are 12 items\n"

    for words, count in ((["--items", 3], 11), (["--items", 3, "--include-seen"], 12), (["--similar-to", 3], 11)):
        assert call("recommend", "--run", run, *words, "--json") == 0
        out, err = capsys.readouterr()
        assert len({row["item"] for row in json.loads(out)["recommendations"]}) == count
        assert err == "jaxrec: note: --k is 12 instead of 20: there are 12 items\n"
    fails(capsys, "recommend", "--run", run, "--items", 3, "--k", 13, names="k = 13: expected 1 to 12")
    recommender = Recommender.load(run)
    batch, _ = ranked(recommender, [[3], [4, 5]])
    assert (len(batch[0]), len(batch[1]), len(recommender.similar(3).items)) == (11, 10, 11)


def test_runs_of_earlier_versions_are_evaluated(shop: Path, shop_config: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Without validation a run on a small catalogue could hold any cut-offs."""
    run = tmp_path / "run"
    words = ["--data.validation_fraction", 0]
    assert call("train", "--config", shop_config, "--run", run, *words) == 0
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("  - 10\n", "  - 10\n  - 20\n").replace("recall@10", "recall@20"))
    assert open_run(run).config.evaluation.k == (5, 10, 20)
    assert call("train", "--config", shop_config, "--run", run, *words, "--resume") == 0
    capsys.readouterr()
    assert call("evaluate", "--run", run, "--json") == 0
    out, err = capsys.readouterr()
    assert "recall@10" in json.loads(out) and "recall@20" not in json.loads(out)
    assert err == "jaxrec: note: --k is 5 10 instead of 5 10 20: there are 12 items\n"
    (run / "config.yaml").write_text(config.replace("  - 10\n", "  - 13\n"))
    fails(capsys, "evaluate", "--run", run, names=r"its evaluation\.k 13 is more than its 12 items; give a lower --k")


def test_two_towers_of_a_small_shop(tmp_path: Path, capsys: Capsys) -> None:
    rows = [f"{user},{(user + step) % SEVEN},{int(step < 3)}" for user in range(40) for step in range(4)]
    (tmp_path / "rows.csv").write_text("\n".join(["who,what,liked", *rows]) + "\n")
    data, run = tmp_path / "data", tmp_path / "run"
    words: list[Any] = ["--user", "who", "--item", "what", "--label", "liked"]
    words += ["--raw", tmp_path / "rows.csv", "--out", data]
    assert call("prepare", "rows", *words) == 0
    values = {
        "data": {"path": str(data), "validation_fraction": 0.2},
        "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [], "output_dim": 4},
        "training": {"epochs": 1, "batch_size": 16},
    }
    (tmp_path / "towers.yaml").write_text(yaml.safe_dump(values))
    assert call("train", "--config", tmp_path / "towers.yaml", "--run", run) == 0
    assert "evaluation.k is 5 instead of 5 10 20, training.metric is recall@5 instead of recall@10" in (
        capsys.readouterr().err
    )
    assert open_run(run).config.training.metric == "recall@5"
    assert call("recommend", "--run", run, "--user", 3, "--json", "--include-seen") == 0
    out, err = capsys.readouterr()
    assert sorted(row["item"] for row in json.loads(out)["recommendations"]) == list(range(SEVEN))
    assert err == "jaxrec: note: --k is 7 instead of 20: there are 7 items\n"
    with pytest.raises(UserError, match=r"evaluation\.k: 8 is more than the 7 items"):
        fit_cutoffs(configuration.parse(values | {"evaluation": {"k": [8]}}), open_dataset(data))
