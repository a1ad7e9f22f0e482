"""Runs that begin with the weights of another one: rows by raw id, the optimizer's state, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import call, fails, write_dataset

from jaxrec import UserError
from jaxrec import config as configuration
from jaxrec.data.dataset import open_dataset
from jaxrec.data.items import Items
from jaxrec.run import open_run
from jaxrec.tasks.base import load, make_task
from jaxrec.tasks.start import open_source, taken_over
from jaxrec.train import train
from jaxrec.training.block import Training
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import TrainState

Capsys = pytest.CaptureFixture[str]
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "gru4rec": {"model": {"name": "gru4rec", "layers": [8]}, "loss": {"n_sample": 8},
                "optimizer": {"name": "adagrad", "learning_rate": 0.1, "momentum": 0.1}},
    "narm": {"model": {"name": "narm", "layers": [8], "embedding_dim": 6, "window": 5}, "loss": {"n_sample": 8},
             "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": "linear"}},
}  # fmt: skip


def walks(first: int, last: int, n: int, seed: int) -> list[list[int]]:
    """Sessions that go from an item to the next, around a ring of ids."""
    draw, size = np.random.default_rng(seed), last - first
    return [[first + (start + step) % size for step in range(draw.integers(2, 7))]
            for start in draw.integers(0, size, n).tolist()]  # fmt: skip


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("days") / "monday", walks(100, 130, 400, 0))


@pytest.fixture(scope="module")
def tuesday(monday: Path) -> Path:
    """Ten items are gone, and fifteen are new."""
    return write_dataset(monday.parent / "tuesday", walks(110, 145, 300, 1))


def config_of(model: str, data: Path, **training: Any) -> configuration.Config:
    return configuration.parse(MODELS[model] | {
        "data": {"path": str(data)}, "training": {"batch_size": 16, "epochs": 2} | training, "evaluation": {"k": [5]},
    })  # fmt: skip


@pytest.fixture(scope="module", params=[*MODELS])
def first(request: pytest.FixtureRequest, monday: Path) -> Path:
    train(config_of(request.param, monday), run := monday.parent / request.param)
    return run


def ids_of(data: Path) -> list[Any]:
    return Items.read(data / "items.parquet").ids.values()


def beginning(run: Path, data: Path, start: Path | None, **training: Any) -> tuple[Training, TrainState]:
    """What a run of the model of ``run`` begins with."""
    config = config_of(open_run(run).config.model.name, data, **training)
    dataset = open_dataset(data)
    task = make_task(config, dataset)
    begun = Training(config, task.model, task.feed)
    state = begun.begin()
    return begun, state if start is None else taken_over(
        state, open_source(start, Path("none"), config, dataset), config
    )


def test_rows_move_by_raw_id_and_what_is_new_begins_as_ever(first: Path, monday: Path, tuesday: Path) -> None:
    """Of tables and of what the optimizer keeps of them; parameters are those of the run."""
    old, new = ids_of(monday), ids_of(tuesday)
    known = {place: old.index(item) for place, item in enumerate(new) if item in old}
    assert len(known) == 20 and len(new) == 35 and any(place != row for place, row in known.items())
    (training, fresh), (_, state) = beginning(first, tuesday, None), beginning(first, tuesday, first)
    source = load(first)
    former = Checkpoints(first).last_state(beginning(first, monday, None)[1])
    assert former is not None

    def check(ours: Any, begins: Any, theirs: Any) -> None:
        for place in range(len(new)):
            expected = theirs[known[place]] if place in known else begins[place]
            np.testing.assert_array_equal(ours[place], expected)

    for name, table in state.tables.items():
        check(*(np.asarray(one) for one in (table, fresh.tables[name], source.weights["tables"][name])))
    assert_leaves(state.params, source.weights["params"])
    parts = [dict(leaves(part)) for part in
             (state.table_optimizer, fresh.table_optimizer, former.table_optimizer)]  # fmt: skip
    for path, leaf in parts[0].items():
        if np.ndim(leaf):
            check(leaf, parts[1][path], parts[2][path])
    assert int(state.step) == 0 and training.config.training.epochs == 2


def leaves(tree: Any) -> list[tuple[str, np.ndarray]]:
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def assert_leaves(one: Any, other: Any) -> None:
    for (path, left), (_, right) in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=path)


def test_a_schedule_begins_anew_and_the_moments_go_on(monday: Path) -> None:
    if not (run := monday.parent / "narm").exists():
        train(config_of("narm", monday), run)
    _, state = beginning(run, monday, run)
    counts = {path: int(leaf) for path, leaf in leaves(state.optimizer) if path.endswith("count")}
    steps = max(counts.values())
    assert sorted(counts.values()) == [0, steps] and steps > 10
    _, other = beginning(run, monday, run, seed=1)
    assert_leaves(other.tables, state.tables)


def test_it_learns_faster_and_goes_on_without_the_first(
    first: Path, tuesday: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """The command; and what is killed before its first epoch has ended still begins there."""
    model = open_run(first).config.model.name
    file = tmp_path / "config.yaml"
    file.write_text(configuration.dump(config_of(model, tuesday, epochs=1, steps_per_block=1)))
    losses = []
    for words in ([], ["--start-from", first]):
        run = tmp_path / f"run{len(words)}"
        assert call("train", "--config", file, "--run", run, *words) == 0
        losses.append(float(capsys.readouterr().out.split("loss ")[1].split(",")[0]))
    assert losses[1] < losses[0] - 0.2
    stopped = tmp_path / "stopped"
    with pytest.raises(SystemExit):
        train(config_of(model, tuesday, epochs=1, steps_per_block=1), stopped, over=lambda: True, start_from=first)
    assert "20 ids known, 15 new, 10 gone" in capsys.readouterr().out
    train(config_of(model, tuesday, epochs=1, steps_per_block=1), stopped, resume=True, start_from=tmp_path / "gone")
    weights = [load(run).weights for run in (stopped, tmp_path / "run2")]
    assert_leaves(*weights)


def test_what_is_refused(monday: Path, tuesday: Path, tmp_path: Path, capsys: Capsys) -> None:
    if not (run := monday.parent / "gru4rec").exists():
        train(config_of("gru4rec", monday), run)
    far = write_dataset(tmp_path / "far", walks(1000, 1030, 300, 1))

    def refused(names: str, *words: object, data: Path = tuesday, model: str = "gru4rec") -> None:
        (file := tmp_path / "config.yaml").write_text(configuration.dump(config_of(model, data)))
        fails(capsys, "train", "--config", file, "--run", tmp_path / "no", "--start-from", *words, names=names)
        assert not (tmp_path / "no").exists()

    refused("--start-from .*gru4rec: a run of gru4rec, and model.name is narm; name a run of narm", run, model="narm")
    wider = run, "--model.layers", "16"
    refused("model.layers is .8. there and .16. here; set what differs as it is there", *wider)
    refused("knows none of the ids of .*far; name a run of such data", run, data=far)
    refused("none: no run here", "none")
    with pytest.raises(UserError, match="is the run to be trained; choose another --run"):
        train(config_of("gru4rec", tuesday), run, overwrite=True, start_from=run)
