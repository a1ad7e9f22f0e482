"""The commands on rows of ratings, as a user meets them, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from films import texts, tiny, write_archive
from helpers import call, fails

from jaxrec.sources.movielens import MovieLensFiles

Capsys = pytest.CaptureFixture[str]

CONFIG: dict[str, dict[str, Any]] = {
    "data": {"validation_fraction": 0.2},
    "model": {"name": "autoint", "embedding_dim": 4, "blocks": 1, "heads": 2, "attention_dim": 4, "deep": [8]},
    "loss": {"name": "binary"},
    "optimizer": {"name": "adam", "learning_rate": 0.01},
    "training": {"epochs": 2, "batch_size": 32, "metric": "auc"},
    "evaluation": {"k": [3]},
}


def archive(path: Path, **ratings: Any) -> Path:
    """The made-up MovieLens as a zip, with columns of the ratings replaced."""
    files = tiny()
    table = files.ratings
    for name, values in ratings.items():
        replaced = pa.array(np.broadcast_to(np.asarray(values, np.int64), len(table)))
        table = table.set_column(table.column_names.index(name), name, replaced)
    return write_archive(path, texts(MovieLensFiles(table, files.users, files.movies)))


def write(file: Path, data: Path, **sections: dict[str, Any]) -> Path:
    values = {name: fields | sections.get(name, {}) for name, fields in CONFIG.items()}
    values["data"] = {"path": str(data)} | values["data"]
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``data``, ``small.yaml`` and ``checkpoints/small``; tests must not change them."""
    root = tmp_path_factory.mktemp("movielens")
    raw = archive(root / "ml-1m.zip")
    assert call("prepare", "movielens", "--raw", raw, "--out", root / "data") == 0
    config = write(root / "small.yaml", root / "data")
    assert call("train", "--config", config, "--run", root / "checkpoints" / "small") == 0
    return root


@pytest.fixture(scope="module")
def click_run(place: Path) -> Path:
    return place / "checkpoints" / "small"


@pytest.fixture
def copy(click_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(click_run, tmp_path / "run"))


# ---- evaluate ----------------------------------------------------------------------------------------------------


def test_evaluating(capsys: Capsys, click_run: Path) -> None:
    capsys.readouterr()
    assert call("evaluate", "--run", click_run, "--baselines", "all", "--groups", "gender", "age") == 0
    out = capsys.readouterr().out
    result = json.loads((click_run / "eval-test.json").read_text())
    assert result["rows"] == 60 and result["checkpoint"] == "best" and 0 <= result["auc"] <= 1
    assert result["baselines"].keys() == {"popularity", "item_mean", "bias", "als", "logistic"}
    assert result["groups"].keys() == {"gender", "age"} and result["groups"]["gender"].keys() == {"F", "M"}
    lines = out.splitlines()
    assert re.match(r"test: rows 60, positive \d\d\.\d%, checkpoint best, \d+\.\d s", lines[0])
    for name in ("this run", "popularity", "item_mean", "bias", "als"):
        (line,) = (line for line in lines if line.startswith(name))
        metrics = result if name == "this run" else result["baselines"][name]
        assert f"{metrics['log_loss']:.4f}" in line and f"{metrics['auc']:.4f}" in line
    assert any(line.startswith("by gender ") for line in lines)
    assert f"written to {click_run / 'eval-test.json'}" in lines
    picture = (click_run / "eval-test-reliability.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 5000


@pytest.mark.parametrize(("words", "names"), [
    (["--groups", "gendr"], r"--groups gendr: no such group \(did you mean 'gender'\?\); there are activity, gender"),
    (["--protocol", "temporal"], "--protocol: a run brings its own"),
    (["--baselines", "stan"], "stan: none of rows; there are popularity, item_mean, bias, als, logistic, or all"),
    (["--data", "/nowhere"], "/nowhere: no data set here; if it has moved since training"),
])  # fmt: skip
def test_what_cannot_be_evaluated(capsys: Capsys, copy: Path, words: list[object], names: str) -> None:
    for file in copy.glob("eval-*"):
        file.unlink()
    fails(capsys, "evaluate", "--run", copy, *words, names=names)
    assert not list(copy.glob("eval-*"))


def test_baselines_without_a_run(capsys: Capsys, place: Path, dataset: Path) -> None:
    capsys.readouterr()
    words = ["--baselines", "item_mean", "--data", place / "data", "--json"]
    found = {}
    for protocol, rows in (("rows", 60), ("temporal", 60), ("paper", None)):
        assert call("evaluate", *words, "--protocol", protocol) == 0
        found[protocol] = json.loads(capsys.readouterr().out)
        assert rows is None or (found[protocol]["rows"], found[protocol]["fitted_on"]) == (rows, 240)
    neither = int(np.sum(tiny().ratings["rating"].to_numpy() != 3))
    assert found["paper"]["rows"] == -(-neither // 10), "a tenth of the rows that are not rated 3"
    assert found["rows"]["baselines"] != found["temporal"]["baselines"]
    fails(capsys, "evaluate", "--baselines", "als", "--data", dataset, "--protocol", "rows",
          names="--protocol: belongs to rows")  # fmt: skip


def test_a_run_and_another_data_set(capsys: Capsys, click_run: Path, dataset: Path, tmp_path: Path) -> None:
    raw = archive(tmp_path / "ml-1m.zip", time=1_000_000_000)
    assert call("prepare", "movielens", "--raw", raw, "--out", tmp_path / "other") == 0
    for other in (dataset, tmp_path / "other"):
        names = f"{other}: not the data set that .* was trained on; name that one with --data"
        fails(capsys, "evaluate", "--run", click_run, "--data", other, names=names)


# ---- train -----------------------------------------------------------------------------------------------------------

TRAIN: list[tuple[list[object], str]] = [
    (["--data.fields", "usr", "movie"], r"data\.fields: 'usr': no such field \(did you mean 'user'\?\)"),
    (["--model.heads", 3], r"model\.heads: 3 do not divide model\.attention_dim 4; choose a divisor"),
    (["--training.metric", "recall@20"], r"training\.metric: found 'recall@20'; expected auc, log_loss"),
    (["--loss.name", "softmax"], r"loss\.name: found 'softmax', but it belongs to .*; choose binary for"),
    (["--model.window", 5], r"model\.window: found 5, but it belongs to merrec, narm and sasrec; leave it out"),
    (["--data.unknown_rate", 1], r"data\.unknown_rate: found 1; .*less than 1"),
    (["--data.test_fraction", 0.999, "--data.validation_fraction", 0.99],
     r"data\.test_fraction, data\.validation_fraction: .*0\.999 and 0\.99 of 300 rows leave none to train on"),
    (["--optimizer.weight_decay", 0.1, "--model.table", "rows"], r"optimizer\.weight_decay: needs model\.table dense"),
    (["--training.early_stopping", 2, "--data.validation_fraction", 0], r"early_stopping: needs validation data"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "names"), TRAIN, ids=[" ".join(map(str, words)) for words, _ in TRAIN])
def test_configurations_that_do_not_fit(
    capsys: Capsys, place: Path, tmp_path: Path, words: list[object], names: str
) -> None:
    fails(capsys, "train", "--config", place / "small.yaml", "--run", tmp_path / "run", *words, names=names)
    assert not (tmp_path / "run").exists()


def test_models_on_data_of_the_other_kind(
    capsys: Capsys, place: Path, config_file: Path, dataset: Path, tmp_path: Path
) -> None:
    run = ["--run", tmp_path / "run"]
    fails(capsys, "train", "--config", config_file, *run, "--data.path", place / "data",
          names=r"model\.name: gru4rec does not read the rows of .*data; choose autoint")  # fmt: skip
    fails(capsys, "train", "--config", place / "small.yaml", *run, "--data.path", dataset,
          names=r"model\.name: autoint does not read the sessions of .*; choose gru4rec, narm or sasrec")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_split_of_a_single_class(capsys: Capsys, tmp_path: Path) -> None:
    """All ratings are good ones: no metric of labels can be computed, and nothing can be learned of them."""
    data = tmp_path / "data"
    assert call("prepare", "movielens", "--raw", archive(tmp_path / "a.zip", rating=5), "--out", data) == 0
    config, run = write(tmp_path / "c.yaml", data), tmp_path / "run"
    names = "model.name: autoint tells positive rows from others, and all 300 rows of .*data are positive; choose two"
    fails(capsys, "train", "--config", config, "--run", run, names=names)
    assert not run.exists()
    fails(capsys, "evaluate", "--baselines", "als", "--data", data, names="all of .*data are positive; train two_")


def test_what_is_served_needs_nothing_but_the_run(capsys: Capsys, copy: Path) -> None:
    """The data set of the configuration is gone."""
    values = yaml.safe_load((copy / "config.yaml").read_text())
    values["data"]["path"] = "/nowhere"
    (copy / "config.yaml").write_text(yaml.safe_dump(values))
    assert call("recommend", "--run", copy, "--profile", "gender=F", "--where", "genres=Drama") == 0
    fails(capsys, "evaluate", "--run", copy, names="/nowhere: no data set here")
