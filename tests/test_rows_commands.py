"""The commands on rows of ratings, as a user meets them: one whole way through as processes, and every bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from films import TITLES, texts, tiny, write_archive
from helpers import call, fails, run_process

from jaxrec.sources.movielens_files import MovieLensFiles

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
    """With ``data``, ``small.yaml`` and ``checkpoints/small``, made by processes; tests must not change them."""
    root = tmp_path_factory.mktemp("movielens")
    raw = archive(root / "ml-1m.zip")
    status, out, err = run_process("prepare", "movielens", "--raw", raw, "--out", root / "data")
    assert (status, err) == (0, "")
    positive = np.mean(tiny().ratings["rating"].to_numpy() >= 4)
    assert f"300 rows, {positive:.1%} positive (at least 4); values:" in out and f"wrote {root / 'data'} in" in out
    config = write(root / "small.yaml", root / "data")
    status, out, err = run_process("train", "--config", config, cwd=root)
    assert (status, err) == (0, "")
    assert re.search(r"checkpoints/small: 192 rows \(\d\d\.\d% positive\), 15 fields, .*; 48 validation rows", out)
    assert re.search(r"epoch 2: loss 0\.\d+, [\d,]+ events/s, validation auc 0\.\d+", out)
    return root


@pytest.fixture(scope="module")
def click_run(place: Path) -> Path:
    return place / "checkpoints" / "small"


@pytest.fixture
def copy(click_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(click_run, tmp_path / "run"))


# ---- as processes ----------------------------------------------------------------------------------------------------


def test_evaluating_as_a_process(place: Path, click_run: Path) -> None:
    status, out, err = run_process("evaluate", "--run", click_run, "--baselines", "all", "--groups", "gender", "age")
    assert (status, err) == (0, "")
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


def test_recommending_as_a_process(click_run: Path) -> None:
    user = int(tiny().ratings["user"][0].as_py())
    status, out, err = run_process("recommend", "--run", click_run, "--user", user, "--k", 4)
    assert (status, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split() == ["rank", "item", "probability", "title", "genres", "year"]
    assert header.index("probability") + len("probability") == lines[0].index(" ", lines[0].index("0.")), (
        "right-aligned"
    )
    rows = [line.split(maxsplit=3) for line in lines]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    probabilities = [float(row[2]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[-1] > 0
    files = tiny()
    rated = {r["movie"] for r in files.ratings.to_pylist() if r["user"] == user}
    titles = dict(zip(files.movies["movie"].to_pylist(), files.movies["title"].to_pylist(), strict=True))
    for row in rows:
        assert int(row[1]) not in rated and row[3].startswith(titles[int(row[1])])


# ---- recommend -------------------------------------------------------------------------------------------------------


def test_recommending_for_a_profile(capsys: Capsys, click_run: Path) -> None:
    words = ["--profile", "gender=F", "age=7", "--where", "genres=Romance", "--date", "2001-02-03", "--k", "99"]
    capsys.readouterr()
    assert call("recommend", "--run", click_run, *words, "--json") == 0
    out, err = capsys.readouterr()
    assert "jaxrec: note: field 'age': training has not seen '7'; it counts as unknown" in err.splitlines()
    rows = json.loads(out)["recommendations"]
    films = tiny().movies.to_pylist()
    rated = set(tiny().ratings["movie"].to_pylist())
    assert {row["item"] for row in rows} == {
        film["movie"] for film in films if "Romance" in film["genres"].split("|") and film["movie"] in rated
    }
    assert rows == sorted(rows, key=lambda row: -row["probability"])
    assert rows[0].keys() == {"item", "probability", "title", "genres", "year"}


def test_explaining(capsys: Capsys, click_run: Path, tmp_path: Path) -> None:
    user, film = (int(tiny().ratings[name][0].as_py()) for name in ("user", "movie"))
    words = ["--user", user, "--explain", film, "--json", "--out", tmp_path / "picture.png"]
    capsys.readouterr()
    assert call("recommend", "--run", click_run, *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert 0 < found["probability"] < 1
    assert found["fields"][:2] == ["user", "movie"] and found["values"][:2] == [str(user), str(film)]
    weights = np.array(found["weights"])
    assert weights.shape == (1, 2, 15, 15)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-4)
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 5000


FILM = next(iter(TITLES))
RECOMMEND: list[tuple[list[object], str]] = [
    ([], "--user, --profile: nothing is given to recommend for"),
    (["--profile", "gendr=F"], r"field 'gendr': not one that the model reads \(did you mean 'gender'\?\)"),
    (["--profile", "genre1=Drama"], "field 'genre1': is of the item; a profile takes those of the user"),
    (["--profile", "gender"], "--profile gender: expected FIELD=VALUE, such as gender=F"),
    (["--profile", "=F"], "--profile =F: expected FIELD=VALUE"),
    (["--user", 1, "--where", "genres"], "--where genres: expected FIELD=VALUE"),
    (["--user", 1, "--where", "genre=Drama"], r"field 'genre': not one of the item's \(did you mean 'genre[123s]'\?\)"),
    (["--user", 1, "--where", "gender=F"], r"field 'gender': not one of the item's"),
    (["--user", 1, "--where", "movie=x"], "where: movie=x leaves none of 39 items; ask for less"),
    (
        ["--user", 1, "--where", "genres=Dramma"],
        r"where: genres=Dramma \(did you mean 'Drama'\?\) leaves none of 39 item",
    ),
    (["--user", 1, "--date", "yesterday"], "date 'yesterday': expected a day such as 2003-02-28"),
    (["--user", 1, "--date", "2003-02-30"], "date '2003-02-30': expected a day such as 2003-02-28"),
    (["--user", 1, "--k", 0], "k = 0: expected 1 or more"),
    (["--user", 1, "--k", "many"], "--k: invalid int value: 'many'"),
    (["--user", 1, "--out", "x.png"], "--out: belongs to --queries or --explain; leave it out"),
    (["--user", 1, "--explain", "nothing"], "item nothing: unknown to this run; name one of its 39 items"),
    (["--user", 1, "--items", 3], r"--items \(--purchased\): .*run of autoint, which does not know it"),
    (["--user", 1, "--candidates", 3], "--candidates: .*run of autoint"),
    (["--user", 1, "--similar-to", 3], "--similar-to: .*run of autoint"),
]


@pytest.mark.parametrize(("words", "names"), RECOMMEND, ids=[" ".join(map(str, words)) for words, _ in RECOMMEND])
def test_what_cannot_be_recommended(capsys: Capsys, click_run: Path, words: list[object], names: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(click_run.parent)
        fails(capsys, "recommend", "--run", click_run, *words, names=names)


def test_pictures_of_what_cannot_be_drawn(capsys: Capsys, click_run: Path, tmp_path: Path) -> None:
    film = int(tiny().ratings["movie"][0].as_py())
    words = ["--profile", "gender=F", "--explain", film, "--out"]
    for name, found in (("x.txt", r"x\.txt: found '\.txt'; end it in \.png, \.pdf, \.svg"), ("x", "without suffix")):
        fails(capsys, "recommend", "--run", click_run, *words, tmp_path / name, names=found)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--user", "--profile", "--date", "--where", "--explain"])
def test_options_of_click_models_for_a_run_of_sessions(capsys: Capsys, run: Path, option: str) -> None:
    called = r"--at \(--date\)" if option == "--date" else option
    names = rf"{called}: .* is a run of gru4rec, which does not know it; leave it out"
    fails(capsys, "recommend", "--run", run, "--items", 3, option, "a=b", names=names)


def test_notes_about_what_is_unknown(capsys: Capsys, click_run: Path) -> None:
    """Each once; and there are still recommendations."""
    capsys.readouterr()
    words = ["--profile", "occupation=99", "gender=Ff", "age=abc", "--exclude", "x", "y"]
    assert call("recommend", "--run", click_run, "--user", 4711, *words, "--k", 2, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "jaxrec: note: user 4711 is unknown to this run and counts as somebody new",
        "jaxrec: note: field 'occupation': training has not seen '99'; it counts as unknown",
        "jaxrec: note: field 'gender': training has not seen 'Ff' (did you mean 'F'?); it counts as unknown",
        "jaxrec: note: field 'age': training has not seen 'abc'; it counts as unknown",
        "jaxrec: note: exclude: 2 unknown items ignored: x, y",
    ]
    assert len(json.loads(captured.out)["recommendations"]) == 2
    films = set(tiny().ratings["movie"].to_pylist())
    assert call("recommend", "--run", click_run, "--user", 4711, "--exclude", *films) == 0
    captured = capsys.readouterr()
    assert "jaxrec: note: the exclusions leave nothing to recommend" in captured.err.splitlines()
    assert captured.out.strip() == ""
    user = int(tiny().ratings["user"][0].as_py())
    rated = {row["movie"] for row in tiny().ratings.to_pylist() if row["user"] == user}
    assert call("recommend", "--run", click_run, "--user", user, "--exclude", *(films - rated)) == 0
    allowed = f"; --include-seen allows {len(rated)} items that the user has rated before"
    assert f"jaxrec: note: the exclusions leave nothing to recommend{allowed}" in capsys.readouterr().err.splitlines()


# ---- evaluate --------------------------------------------------------------------------------------------------------

EVALUATE: list[tuple[list[object], str]] = [
    (["--groups", "gendr"], r"--groups gendr: no such group \(did you mean 'gender'\?\); there are activity, gender"),
    (["--groups", "movie"], "--groups movie: no such group"),
    (["--protocol", "temporal"], "--protocol: a run brings its own"),
    (["--no-coverage"], "--no-coverage: .* is a run of autoint"),
    (["--baselines", "stan"], "stan: none of rows; there are popularity, item_mean, bias, als, logistic, or all"),
    (["--baselines", "item_men"], r"--baselines item_men: none of rows \(did you mean 'item_mean'\?\)"),
    (["--validation-fraction", 0.1], "--validation-fraction: a run brings its own"),
    (["--k", 0], "--k 0: expected a whole number from 1|--k: '0'"),
    (["--split", "tset"], "--split.*'tset'.*'test'"),
    (["--data", "/nowhere"], "/nowhere: no data set here; if it has moved since training"),
]


@pytest.mark.parametrize(("words", "names"), EVALUATE, ids=[" ".join(map(str, words)) for words, _ in EVALUATE])
def test_what_cannot_be_evaluated(capsys: Capsys, copy: Path, words: list[object], names: str) -> None:
    for file in copy.glob("eval-*"):
        file.unlink()
    fails(capsys, "evaluate", "--run", copy, *words, names=names)
    assert not list(copy.glob("eval-*"))


@pytest.mark.parametrize(("option", "value"), [("--groups", "gender"), ("--folds", 3)])
def test_evaluating_sessions_with_options_of_rows(capsys: Capsys, run: Path, option: str, value: object) -> None:
    names = f"{option}: .* is a run of gru4rec"
    fails(capsys, "evaluate", "--run", run, option, value, names=names)


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
    (["--data.fields", "usr", "movie"], r"data\.fields: no field 'usr' \(did you mean 'user'\?\); there are user, mov"),
    (["--data.fields", "user", "movie", "user"], r"data\.fields: user, movie, user names a field twice"),
    (["--data.fields", "[]"], r"data\.fields: found .*at least 1"),
    (["--model.heads", 3], r"model\.heads: 3 do not divide model\.attention_dim 4; choose a divisor"),
    (["--model.blocks", 0, "--model.deep", "[]"], r"model\.blocks, model\.deep: neither interacting layers nor a deep"),
    (["--training.metric", "recall@20"], r"training\.metric: found 'recall@20'; expected auc, log_loss"),
    (["--training.metric", "accuracy"], r"training\.metric: found 'accuracy'; expected auc, log_loss, or ndcg"),
    (["--loss.name", "softmax"], r"loss\.name: found 'softmax', but it belongs to .*; choose binary for"),
    (["--loss.prior", 1], r"loss\.prior: found 1, but it belongs to narm and sasrec; leave it out for autoint"),
    (["--model.window", 5], r"model\.window: found 5, but it belongs to merrec, narm and sasrec; leave it out"),
    (["--data.order", "time"], r"data\.order: found 'time', but it belongs to gru4rec, merrec, narm and sasrec"),
    (["--data.protocol", "by_user"], r"data\.protocol: found 'by_user'"),
    (["--data.unknown_rate", 1], r"data\.unknown_rate: found 1; .*less than 1"),
    (["--data.test_fraction", 0.999, "--data.validation_fraction", 0.99],
     r"data\.test_fraction, data\.validation_fraction: 0\.999 and 0\.99 of 300 rows leave none to train on"),
    (["--training.average", 0.9, "--model.table", "rows"], r"training\.average: needs model\.table dense, found rows"),
    (["--optimizer.weight_decay", 0.1, "--model.table", "rows"], r"optimizer\.weight_decay: needs model\.table dense"),
    (["--evaluation.ties", "median"], r"evaluation\.ties: found 'median', .*leave it out for autoint"),
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
    fails(capsys, "train", "--config", config_file, *run, "--training.metric", "auc",
          names=r"training\.metric: found 'auc'; expected recall, mrr, ")  # fmt: skip
    fails(capsys, "train", "--config", config_file, *run, "--data.protocol", "temporal",
          names=r"data\.protocol: found 'temporal', but it belongs to autoint and two_tower; leave it out")  # fmt: skip
    fails(capsys, "train", "--config", config_file, *run, "--loss.name", "binary", "--loss.n_sample", "2048",
          names=r"loss\.name: found 'binary', but it belongs to autoint; choose")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_split_of_a_single_class(capsys: Capsys, tmp_path: Path) -> None:
    """All ratings are good ones: no metric of labels can be computed, and nothing can be learned of them."""
    data = tmp_path / "data"
    assert call("prepare", "movielens", "--raw", archive(tmp_path / "a.zip", rating=5), "--out", data) == 0
    config, run = write(tmp_path / "c.yaml", data), tmp_path / "run"
    names = "model.name: autoint tells positive rows from others, and all 300 rows of .*data are positive; choose two"
    fails(capsys, "train", "--config", config, "--run", run, names=names)
    assert not run.exists()
    fails(capsys, "evaluate", "--baselines", "als", "--data", data, names="all 300 rows of .* are positive; train two_")


def test_protocols_that_need_times(capsys: Capsys, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert call("prepare", "movielens", "--raw", archive(tmp_path / "a.zip", time=0), "--out", data) == 0
    config = write(tmp_path / "c.yaml", data)
    for protocol in ("temporal", "leave_one_out"):
        names = f"data.protocol: {protocol} needs times, and the data set has none; choose rows"
        fails(capsys, "train", "--config", config, "--run", tmp_path / "run", "--data.protocol", protocol, names=names)
        fails(capsys, "evaluate", "--baselines", "als", "--data", data, "--protocol", protocol, names=names)
    assert not (tmp_path / "run").exists()


# ---- runs that are damaged -------------------------------------------------------------------------------------------


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


EVALUATING, BY_PROFILE = ["evaluate"], ["recommend", "--profile", "gender=F"]
BY_USER = ["recommend", "--user", str(tiny().ratings["user"][0].as_py())]
DAMAGES: list[tuple[str, Callable[[Path], object], list[str], str]] = [
    ("value_counts.npy", Path.unlink, EVALUATING, r"value_counts\.npy: missing or damaged .*; train the run again"),
    ("value_counts.npy", Path.unlink, BY_USER, r"value_counts\.npy: missing or damaged .*; train the run again"),
    ("value_counts.npy", _truncate, BY_USER, r"value_counts\.npy: missing or damaged .*; train the run again"),
    ("history_offsets.npy", Path.unlink, BY_USER, r"history_offsets\.npy: missing or damaged"),
    ("history_items.npy", _truncate, BY_USER, r"history_items\.npy: missing or damaged"),
    ("last_time.npy", Path.unlink, BY_PROFILE, r"last_time\.npy: missing or damaged"),
    ("vocabulary/gender.parquet", _truncate, BY_PROFILE, r"gender\.parquet: missing or damaged; copy it there"),
    ("vocabulary/gender.parquet", Path.unlink, BY_PROFILE, r"gender\.parquet: missing or damaged; copy it there"),
    ("users.parquet", _truncate, BY_PROFILE, r"users\.parquet: missing or damaged; copy it there"),
    ("items.npy", _truncate, BY_PROFILE, r"dataset/items\.npy: damaged or missing"),
    ("manifest.json", Path.unlink, BY_USER, r"manifest\.json: missing; the run is damaged, train it again"),
    ("manifest.json", _truncate, EVALUATING, r"manifest\.json: damaged manifest"),
]


@pytest.mark.parametrize(
    ("name", "damage", "words", "names"), DAMAGES, ids=[f"{words[0]} {name}" for name, _, words, _ in DAMAGES]
)
def test_damaged_runs(
    capsys: Capsys, copy: Path, name: str, damage: Callable[[Path], object], words: list[str], names: str
) -> None:
    damage(copy / "dataset" / name)
    fails(capsys, words[0], "--run", copy, *words[1:], names=names)


def test_runs_that_were_not_trained(capsys: Capsys, copy: Path) -> None:
    shutil.rmtree(copy / "state")
    for words in (EVALUATING, BY_USER):
        fails(capsys, words[0], "--run", copy, *words[1:], names="run: no checkpoint here yet; train it")


def test_what_is_served_needs_nothing_but_the_run(capsys: Capsys, copy: Path) -> None:
    """The data set of the configuration is gone."""
    values = yaml.safe_load((copy / "config.yaml").read_text())
    values["data"]["path"] = "/nowhere"
    (copy / "config.yaml").write_text(yaml.safe_dump(values))
    assert call("recommend", "--run", copy, *BY_USER[1:]) == 0
    fails(capsys, "evaluate", "--run", copy, names="/nowhere: no data set here")
