"""Runs of every kind that begin with the weights of another one: on the same data nothing changes, on later data rows
move by raw id or value, new rows begin as the configuration says, and what is stopped goes on bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import arrays, assert_same_arrays, assert_same_run, call, fails, same_metrics, steps_of, write_dataset
from worlds import Clicks, Market, Ring, Sections, Shop, Worlds, kind_of, write_raw_rows, write_vectors

from jaxrec import config as configuration
from jaxrec.data.clean.protocol import RawRows
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checksum, write_sealed
from jaxrec.run import open_run
from jaxrec.tasks.base import Task, load, make_task
from jaxrec.tasks.start import open_source, taken_over
from jaxrec.train import train
from jaxrec.training.block import Training
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import TrainState

Capsys = pytest.CaptureFixture[str]
MODELS = ["gru4rec", "merrec", "autoint", "two_tower"]
Key = tuple[str, Any]
"""A field and a raw value of it; None: the unknown value, or the one row of a number."""

# ---- later data sets: some ids are gone, and others are new ----------------------------------------------------------


def later_sessions(out: Path) -> None:
    """Eight of the forty items are others."""
    names = {f"sku-{item:02}": f"sku-{item + 40}" for item in range(8)}
    write_dataset(out, [[names.get(one, one) for one in session] for session in Ring.sessions(700)], test_days=8)


def later_events(out: Path) -> None:
    """Listings 5 to 19 are others, and the last four kinds are of another category."""
    market = out.with_name("later-market")
    Market.write(market, False)
    lines = []
    for line in market.with_suffix(".csv").read_text(encoding="utf-8").splitlines():
        cells = line.split(",")
        if cells[2].isdigit():
            cells[2] = str(int(cells[2]) + (500 if 5 <= int(cells[2]) < 20 else 0))
            kind = int(cells[3].removeprefix("kind"))
            cells[10:12] = ["Home", "1"] if kind < 4 else ["Garden", "7"] if kind < 8 else ["Sports", "8"]
        lines.append(",".join(cells))
    out.with_suffix(".csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("--out", out, "--test-days", Market.test_days)
    assert call("prepare", "merrec", "--raw", out.with_suffix(".csv"), *words) == 0
    write_vectors(out)


def renamed(rows: RawRows, names: dict[str, dict[Any, Any]]) -> RawRows:
    """Rows with other raw values of some fields."""

    def values(name: str, column: Any) -> pa.Array:
        if name not in names:
            return column
        return pa.array([names[name].get(one, one) for one in column.to_pylist()], column.type)

    fields = [replace(field, values=values(field.name, field.values)) for field in rows.fields]
    shown = {side: table.set_column(0, table.column_names[0], values(table.column_names[0], table.column(0)))
             for side, table in rows.shown.items()}  # fmt: skip
    return replace(rows, fields=fields, shown=shown)


def later_clicks(out: Path) -> None:
    users, items = (
        {100 + one: 300 + one for one in range(7)},
        {Clicks.sku(one): Clicks.sku(100 + one) for one in (0, 7)},
    )
    names: dict[str, dict[Any, Any]] = {"user": users, "item": items, "device": {"desk": "tablet"}}
    write_raw_rows(out, renamed(Clicks.rows(False), names))


def later_shop(out: Path) -> None:
    customers = {Shop.customer(one): Shop.customer(one + 900) for one in range(40)}
    products = {Shop.product(one): f"q{one}" for one in (0, 1, 7, 25)}
    names: dict[str, dict[Any, Any]] = {"customer": customers, "product": products, "skin": {"dry": "very dry"}}
    write_raw_rows(out, renamed(Shop.rows(False), names))


LATER = {"sessions": later_sessions, "events": later_events, "clicks": later_clicks, "retrieval": later_shop}


def later(worlds: Worlds, model: str) -> Path:
    """A later data set of the model's kind."""
    return worlds.once(f"{kind_of(model)}-later", LATER[kind_of(model)])


# ---- where rows are, read from the files -----------------------------------------------------------------------------


def places(folder: Path, model: str) -> dict[str, dict[Key, int]]:
    """Of each table of a model the row of each key, by a data set, or by what a run keeps of one."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    kind, tables = kind_of(model), dict[str, dict[Key, int]]()
    if kind in ("sessions", "events"):
        ids = pq.read_table(folder / "items.parquet")["item"].to_pylist()
        tables["item"] = {("item", one): row for row, one in enumerate(ids)}
    if kind == "events":  # the fields c0 and price, see worlds.KINDS
        trained = pq.read_table(folder / "attributes.parquet")["c0_id"].slice(0, manifest["counts"]["trained"])
        keys = [("c0", None), *(("c0", one) for one in sorted(set(trained.to_pylist())))]
        keys += [("price", bucket or None) for bucket in range(41)]
        tables["fields"] = {key: row for row, key in enumerate(keys)}
    if kind in ("clicks", "retrieval"):
        for table in ("field",) if kind == "clicks" else ("user", "item"):
            rows = list[Key]()
            fields = [one for one in manifest["fields"] if table in ("field", one["side"])]
            for field in (one for one in fields if one["kind"] != "numerical"):
                values = pq.read_table(folder / "vocabulary" / f"{field['name']}.parquet")["value"].to_pylist()
                rows += [(field["name"], one) for one in (None, *values)]
            rows += [(one["name"], None) for one in fields if one["kind"] == "numerical" and table == "field"]
            tables[table] = {key: row for row, key in enumerate(rows)}
    return tables


def trained_keys(run: Path, model: str) -> set[Key]:
    """What a run was trained on."""
    folder, kind = run / "dataset", kind_of(model)
    keys = [key for table in places(folder, model).values() for key in table]
    if kind == "sessions":
        return set(keys)
    name = "item_counts" if kind == "events" else "value_counts"
    counts = np.load(folder / f"{name}.npy")
    if kind == "events":
        return {key for key, count in zip(keys, counts, strict=False) if count} | set(keys[len(counts) :])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    sides = ("user", "item", "context") if kind == "clicks" else ("user", "item")
    found, begin = {(one["name"], None) for one in manifest["fields"]}, 0
    for field in manifest["fields"]:
        if field["kind"] != "numerical" and field["side"] in sides:
            values = pq.read_table(folder / "vocabulary" / f"{field['name']}.parquet")["value"].to_pylist()
            seen = counts[begin + 1 : begin + field["size"]] > 0
            found |= {(field["name"], one) for one, was in zip(values, seen, strict=True) if was}
            begin += field["size"]
    return found


class Beginning(NamedTuple):
    """A run before its first step."""

    config: configuration.Config
    task: Task
    fresh: TrainState  # without another run
    state: TrainState


def beginning(worlds: Worlds, model: str, data: Path | None = None, *words: str) -> Beginning:
    """With the weights of the world's run, on its data or others."""
    overrides = [*(["--data.path", str(data)] if data else []), *words]
    config = configuration.load(worlds.config(model), overrides)
    dataset = open_dataset(config.data.path)
    task = make_task(config, dataset)
    training = Training(config, task.model, task.feed)
    source = open_source(worlds.run(model), Path("none"), config, dataset)
    return Beginning(config, task, training.begin(), taken_over(training.begin(), source, config))


# ---- what moves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_on_the_same_data_nothing_changes(model: str, worlds: Worlds) -> None:
    """Scores, ranks or log odds of the validation split are the other run's, bit for bit."""
    begun, source = beginning(worlds, model), load(worlds.run(model))
    ks = list(begun.config.evaluation.k)
    ours, theirs, fresh = (begun.task.judge(weights, ks) for weights in
                           (begun.state.weights(), source.weights, begun.fresh.weights()))  # fmt: skip
    assert_same_arrays(ours.arrays, theirs.arrays)
    assert ours.metrics == theirs.metrics != fresh.metrics
    assert_same_arrays(begun.state.params, source.weights["params"])


@pytest.mark.parametrize("model", MODELS)
def test_rows_move_by_raw_id_or_value(model: str, worlds: Worlds) -> None:
    """Of tables and of what the optimizer keeps of them; ids that the other run was not trained on begin as ever."""
    run, data = worlds.run(model), later(worlds, model)
    begun, source = beginning(worlds, model, data), load(run)
    before, now, trained = places(run / "dataset", model), places(data, model), trained_keys(run, model)
    assert set(now) == set(begun.state.tables)
    former = Checkpoints(run).last_state(Training(source.run.config, source.model, begun.task.feed).state_like())
    assert former is not None
    moved = 0
    for name, rows in now.items():
        pairs: list[tuple[Any, Any, Any]] = [
            (begun.state.tables[name], begun.fresh.tables[name], source.weights["tables"][name])
        ]
        parts = [arrays(one.table_optimizer[name]) for one in (begun.state, begun.fresh, former)]
        pairs += [(parts[0][path], parts[1][path], parts[2][path]) for path in parts[0] if np.ndim(parts[0][path])]
        assert len(pairs) > 1
        for ours, fresh, theirs in pairs:
            assert len(ours) == len(rows)
            for key, row in rows.items():
                old = key in before[name] and key in trained
                moved += old
                expected = theirs[before[name][key]] if old else fresh[row]
                np.testing.assert_array_equal(ours[row], expected, err_msg=f"{name} {key}")
    assert moved
    assert_same_arrays(begun.state.params, source.weights["params"])
    if "statistics" in source.weights:
        assert_same_arrays(begun.state.carry["statistics"], source.weights["statistics"])


# ---- how new rows begin ----------------------------------------------------------------------------------------------


def attribute(data: Path, model: str, name: str) -> dict[Any, Any]:
    """An attribute of the items of a data set, by raw id."""
    if kind_of(model) == "events":
        return dict(zip(pq.read_table(data / "items.parquet")["item"].to_pylist(),
                        pq.read_table(data / "attributes.parquet")[name].to_pylist(), strict=True))  # fmt: skip
    dataset = open_dataset(data)
    schema: Any = dataset.schema  # type: ignore[union-attr]
    codes = np.load(data / "items.npy")[:, schema.side("item").columns((name,))[0]]
    values = pq.read_table(data / "vocabulary" / f"{name}.parquet")["value"].to_pylist()
    ids = pq.read_table(data / "vocabulary" / f"{schema.item}.parquet")["value"].to_pylist()
    return {one: values[code - 1] for one, code in zip(ids, codes[1:], strict=True)}


CATEGORIES = {"merrec": "c0_name", "autoint": "kind", "two_tower": "brand"}


@pytest.mark.parametrize(("model", "how"), [*((model, "mean") for model in MODELS),
                                            *((model, "category") for model in CATEGORIES)])  # fmt: skip
def test_new_rows_begin_at_means(model: str, how: str, worlds: Worlds) -> None:
    """Of the old rows of their field, or of the items with the same attribute; all else moves as ever."""
    run, data = worlds.run(model), later(worlds, model)
    words = ["--start.attribute", CATEGORIES[model]] if how == "category" else []
    begun = beginning(worlds, model, data, "--start.new_rows", how, *words)
    trained, new_items = trained_keys(run, model), 0
    of_item = attribute(data, model, CATEGORIES[model]) if how == "category" else {}
    item = open_run(run).manifest.get("item", "item")
    for name, rows in places(data, model).items():
        table = np.asarray(begun.state.tables[name], np.float64)
        old = {key: row for key, row in rows.items() if key in trained and key[1] is not None
               and not (name == "fields" and key[0] == "price")}  # fmt: skip
        for key, row in rows.items():
            if key in trained or key[1] is None or key[0] == "price":
                continue
            alike = [at for one, at in old.items() if one[0] == key[0]]
            if key[0] == item and how == "category":
                same = [at for one, at in old.items() if one[0] == item and of_item[one[1]] == of_item[key[1]]]
                alike, new_items = same or alike, new_items + bool(same)
            np.testing.assert_allclose(table[row], table[alike].mean(axis=0), rtol=1e-5, atol=1e-6, err_msg=f"{key}")
    assert new_items or how == "mean"
    plain = beginning(worlds, model, data)
    assert_same_arrays(begun.state.params, plain.state.params)
    assert_same_arrays(begun.state.table_optimizer, plain.state.table_optimizer)


def test_new_rows_begin_at_what_their_names_map_to(worlds: Worlds) -> None:
    """By least squares with an intercept, over the items that the other run was trained on."""
    run, data = worlds.run("merrec"), later(worlds, "merrec")
    begun = beginning(worlds, "merrec", data, "--start.new_rows", "text")
    trained, rows = trained_keys(run, "merrec"), places(data, "merrec")["item"]
    table = np.asarray(begun.state.tables["item"], np.float64)
    vectors = np.load(next((data / "text").glob("*/vectors.npy"))).astype(np.float64)
    inputs = np.column_stack([vectors[np.load(data / "item_names.npy")], np.ones(len(rows))])
    old = np.array([key in trained for key in rows])
    kernel = np.linalg.lstsq(inputs[old], table[old], rcond=None)[0]
    assert 10 < old.sum() < len(old) - 10
    np.testing.assert_allclose(table[~old], inputs[~old] @ kernel, rtol=1e-3, atol=1e-4)
    assert np.abs(table[~old]).max() > 0.05


# ---- training --------------------------------------------------------------------------------------------------------

SHORT = ["--training.epochs", "1", "--training.steps_per_block", "5", "--training.save_every", "0"]
SLOW = [pytest.param(model, marks=() if model == "autoint" else pytest.mark.slow) for model in MODELS]


@pytest.mark.parametrize("model", SLOW)
def test_it_learns_on_and_what_is_killed_goes_on_without_the_other_run(
    model: str, worlds: Worlds, tmp_path: Path, capsys: Capsys
) -> None:
    """Bit for bit, while old rows warm up: which they are stands in the run."""
    passes = ["--training.passes", "1"] if kind_of(model) in ("clicks", "retrieval") else []
    more: Sections = {"model": {"head": "items"}} if model == "merrec" else {}  # names leave nothing to learn
    words = ["--data.path", str(later(worlds, model)), "--start.new_rows", "mean", "--start.warmup_steps", "8"]
    config = configuration.load(worlds.config(model, **more), [*words, *SHORT, *passes])
    first = Path(shutil.copytree(worlds.run(model, **more), tmp_path / "first"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, whole, start_from=first)
    said = capsys.readouterr()
    assert " ids known, " in said.out and "change nothing" not in said.err
    losses = [line["loss"] for line in same_metrics(whole) if line["kind"] == "train"]
    assert len(losses) > 2 and losses[-1] < losses[0]
    calls = count()
    with pytest.raises(SystemExit):  # it is asked twice a block
        train(config, killed, start_from=first, over=lambda: next(calls) >= 2)
    begun, stopped = steps_of(killed)
    assert begun < 8 and stopped == 2 * begun
    shutil.rmtree(
        killed / "state" / "latest" / str(stopped)
    )  # as if killed before the last save, and before all is warm
    shutil.rmtree(first)
    train(config, killed, resume=True, start_from=first)
    assert_same_run(killed, whole)


def test_rows_that_a_run_had_taken_over_move_on(worlds: Worlds, tmp_path: Path) -> None:
    """Also those of values that its own training did not hold."""
    run = Path(shutil.copytree(worlds.run("autoint"), tmp_path / "run"))
    folder, row = run / "dataset", places(run / "dataset", "autoint")["field"][("item", Clicks.sku(3))]
    config, dataset = open_run(run).config, open_dataset(worlds.data("clicks"))

    def moved(**arrays: np.ndarray) -> bool:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        sums = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        sums = {name: checksum(folder / f"{name}.npy") for name in sums.keys() | arrays.keys() if name != "checksum"}
        write_sealed(folder / "kept.json", sums)
        return bool(open_source(run, tmp_path, config, dataset).moves["field"].rows[row] == row)

    counts = np.array(open_run(run).kept("value_counts"))
    rows = len(load(run).weights["tables"]["field"])
    assert moved()
    counts[row] = 0
    assert not moved(value_counts=counts)
    assert moved(old_rows=np.arange(rows) == row)


# ---- what is refused, or does nothing --------------------------------------------------------------------------------

REFUSED: list[tuple[str, list[str], str]] = [
    ("autoint", ["--data.fields", "user", "item", "age"], "field 4 is none here and group .categorical. in"),
    ("autoint", ["--data.fields", "item", "user"], "field 1 is item .*set it to the fields of the run, user"),
    ("autoint", ["--loss.rating_weight", "1"], "autoint.*: loss.rating_weight is 0.0 there and 1.0 here; set what"),
    ("autoint", ["--start.new_rows", "text"], "text reads the names of items, and .* holds rows of fields"),
    ("autoint", ["--start.new_rows", "category", "--start.attribute", "kin"],
     "start.attribute: .* has no 'kin' .did you mean 'kind'.*; there are group, kind"),
    ("autoint", ["--start.attribute", "kind"], "start.attribute: found kind, and start.new_rows is random; category"),
    ("two_tower", ["--model.hidden", "8", "8"], "model.hidden is .16. there and .8, 8. here; set what differs"),
    ("merrec", ["--model.item_fields", "price"], "model.item_fields: found .'c0', 'price'. there and .'price'. here"),
    ("merrec", ["--start.new_rows", "category", "--start.attribute", "colour"], "no 'colour'.*; there are name, price"),
    ("gru4rec", ["--model.embedding", "onehot"], "model.embedding is constrained there and onehot here"),
    ("gru4rec", ["--start.new_rows", "text"], "start.new_rows: text reads the names of items, and .* has none; choose"),
    ("gru4rec", ["--start.new_rows", "category", "--start.attribute", "a"], "category reads an attribute of items"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "words", "names"), REFUSED)
def test_what_is_refused(
    model: str, words: list[str], names: str, worlds: Worlds, tmp_path: Path, capsys: Capsys
) -> None:  # fmt: skip
    run = tmp_path / "no"
    fails(capsys, "train", "--config", worlds.config(model), "--run", run, "--start-from", worlds.run(model), *words,
          names=names)  # fmt: skip
    assert not run.exists()


def test_other_name_vectors_are_refused(worlds: Worlds, tmp_path: Path, capsys: Capsys) -> None:
    data = write_vectors(Path(shutil.copytree(worlds.data("events"), tmp_path / "data")), model="other")
    words = ["--config", worlds.config("merrec"), "--run", tmp_path / "no", "--data.path", data]
    names = "the model of name vectors: found fake there and other here"
    fails(capsys, "train", *words, "--start-from", worlds.run("merrec"), names=names)


def test_a_run_that_has_saved_nothing_goes_on_as_it_began(worlds: Worlds, tmp_path: Path, capsys: Capsys) -> None:
    """With the same other run, or without one."""
    words = ["--config", worlds.config("autoint"), "--training.epochs", 1, "--training.passes", 1]
    run, source = tmp_path / "run", ["--start-from", worlds.run("autoint")]

    def begin(*more: object) -> None:
        assert call("train", *words, "--run", run, "--overwrite", *more) == 0
        shutil.rmtree(run / "state")  # killed before anything was saved

    begin(*source)
    fails(capsys, "train", *words, "--run", run, "--resume", names="was to begin with the weights of another run, and")
    assert call("train", *words, "--run", run, "--resume", *source) == 0
    begin()
    fails(capsys, "train", *words, "--run", run, "--resume", *source, names="was to begin without another run, and has")


def test_what_is_noted(worlds: Worlds, tmp_path: Path, capsys: Capsys) -> None:
    """Fields that do nothing, so that one configuration does for the first day as well; and weights of other fields."""
    words = ["--config", worlds.config("autoint"), "--training.epochs", 1, "--training.passes", 1]
    assert call("train", *words, "--run", tmp_path / "first", "--start.warmup_steps", 8) == 0
    assert "note: start: its fields are of runs that --start-from begins" in capsys.readouterr().err
    plain = tmp_path / "plain"
    assert call("train", *words, "--run", plain) == 0
    assert_same_run(tmp_path / "first", plain)
    capsys.readouterr()
    more = ["--start-from", worlds.run("autoint"), "--model.heads", 1]
    assert call("train", *words, "--run", tmp_path / "next", *more) == 0
    assert "model.heads is 2 there and 1 here; its weights are of the former" in capsys.readouterr().err
