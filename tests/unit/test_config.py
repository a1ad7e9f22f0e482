"""The configuration: what is wrong is named, what is right survives a round trip, and nothing changes in place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxrec import config as configuration
from jaxrec.config import Config, finding
from jaxrec.config.former import FORMER
from jaxrec.errors import UserError

BASE = "data:\n  path: data/here\n"
NARM, SASREC, TOWERS = (f"--model.name {name}" for name in ("narm", "sasrec", "two_tower"))
SOFTMAX = "--loss.name softmax"


def load(tmp_path: Path, *overrides: str, text: str = BASE) -> Config:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return configuration.load(file, overrides)


def message(tmp_path: Path, *overrides: str, text: str = BASE) -> str:
    with pytest.raises(UserError) as error:
        load(tmp_path, *overrides, text=text)
    assert "\n" not in str(error.value), "one line"
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("--optimizer.learning_rate 1e-3", "optimizer.learning_rate", 1e-3),
        ("--optimizer.learning_rate=0.25", "optimizer.learning_rate", 0.25),
        ("--optimizer.learning_rate 1", "optimizer.learning_rate", 1.0),
        ("--optimizer.clip_norm 2.5", "optimizer.clip_norm", 2.5),
        ("--optimizer.clip_norm null", "optimizer.clip_norm", None),
        ("--optimizer.epsilon 1E-12", "optimizer.epsilon", 1e-12),
        ("--training.epochs 3", "training.epochs", 3),
        ("--training.seed 4294967295", "training.seed", 2**32 - 1),
        ("--training.metric mrr@5", "training.metric", "mrr@5"),
        ("--model.layers 64", "model.layers", (64,)),
        ("--model.layers 64 32", "model.layers", (64, 32)),
        ("--model.layers=[64,32,16]", "model.layers", (64, 32, 16)),
        ("--evaluation.k 1 20", "evaluation.k", (1, 20)),
        ("--model.embedding onehot", "model.embedding", "onehot"),
        ("--loss.name bpr_max", "loss.name", "bpr_max"),
        ("--data.path 2024", "data.path", "2024"),
        ("--data.path 1e3", "data.path", "1e3"),
        ("--data.path null", "data.path", "null"),
    ],
)
def test_overrides(override: str, field: str, value: Any, tmp_path: Path) -> None:
    section, name = field.split(".")
    found = getattr(getattr(load(tmp_path, *override.split(" ")), section), name)
    assert found == value
    assert type(found) is type(value)


def test_the_file_is_overridden_field_by_field(tmp_path: Path) -> None:
    words = ["--training.epochs", "4", "--loss.n_sample", "7"]
    found = load(tmp_path, *words, text=BASE + "training:\n  epochs: 2\n  batch_size: 9\n")
    assert (found.training.epochs, found.training.batch_size, found.loss.n_sample) == (4, 9, 7)


def test_floats_in_the_file_need_no_dot(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a string."""
    assert load(tmp_path, text=BASE + "optimizer:\n  learning_rate: 1e-3\n").optimizer.learning_rate == 1e-3


REFUSED: list[tuple[str, str]] = [
    # names
    ("--optimizer.learning_rat 1", r"--optimizer.learning_rat: no such field .did you mean --optimizer.learning_rate"),
    ("--trainig.epochs 1", r"--trainig.epochs: .* mean --training.epochs"),
    ("--epochs 1", r"--epochs: no such option .did you mean --training.epochs"),
    ("--name sgd", r"mean --model.name, --loss.name or --optimizer.name"),
    ("--batch-size 1", r"mean --training.batch_size or --evaluation.batch_size"),
    ("--training 1", r"--training: a section of the configuration; .* such as --training\."),
    ("training.epochs 1", r"'training.epochs': expected --section.field"),
    ("--training.epochs", r"--training.epochs: a value is missing"),
    ("--training.epochs 3 --training.epochs=4", r"--training.epochs: given twice, as '3' and '4'"),
    ("--training.epochs 1 2", r"--training.epochs: one value expected, found '1 2'"),
    ("--training.epochs [1", r"--training.epochs '\[1': not YAML"),
    # values
    ("--optimizer.learning_rate 0", r"--optimizer.learning_rate: found 0; .*greater than 0"),
    ("--optimizer.learning_rate fast", r"learning_rate: found 'fast'; .*number"),
    ("--optimizer.learning_rate nan", r"learning_rate: found 'nan'; .*finite"),
    ("--optimizer.momentum 1", r"momentum: found 1; .*less than 1"),
    ("--training.batch_size 2.5", r"batch_size: found 2.5; .*integer"),
    ("--training.seed 4294967296", r"seed: found 4294967296; .*less than 4294967296"),
    ("--training.epochs null", r"epochs: found None; .*integer"),
    ("--training.epochs true", r"epochs: found True; .*number"),
    ("--training.epochs 010", r"epochs: found '010'; .*number"),
    ("--training.metric recal@20", r"metric: found 'recal@20'; expected recall, mrr"),
    ("--training.metric recall@0", r"metric: found 'recall@0'"),
    ("--model.layers 10 0", r"model.layers.1: found 0; .*greater than or equal to 1"),
    ("--model.layers=[]", r"model.layers: .*at least 1"),
    ("--model.layers 1:30", r"model.layers.0: found '1:30'"),
    ("--model.embedding onehod", r"embedding: found 'onehod'; .*mean 'onehot'"),
    ("--loss.name cross_entorpy", r"loss.name: found 'cross_entorpy'; .*'bpr'.*mean 'cross_entropy'"),
    # what would do nothing
    ("--loss.final_activation leaky_relu", r"loss.activation_alpha"),
    ("--training.batch_size 1 --loss.n_sample 0", r"loss.n_sample"),
    ("--optimizer.tables rowwise_adagrad", r"optimizer.tables: found rowwise_adagrad, .* gru4rec reads"),
    ("--optimizer.table_learning_rate 1", r"optimizer.table_learning_rate: found 1"),
    # what another model, loss or optimizer has
    ("--loss.logq 1 --loss.name bpr", r"loss.logq: found 1, but it belongs to cross_entropy; leave it out for bpr"),
    ("--optimizer.name adam --optimizer.momentum 0.5", r"momentum: found 0.5, .* adagrad and sgd"),
    ("--optimizer.name sgd --optimizer.epsilon 1", r"epsilon: found 1, .* adagrad and adam"),
    ("--loss.name softmax", r"loss.name: found 'softmax', .* choose cross_entropy, .* for gru4rec"),
    ("--loss.name infonce", r"loss.name: found 'infonce', .* two_tower"),
    ("--data.half_life 7", r"data.half_life: found 7, .* merrec, narm and sasrec; leave it out for gru4rec"),
    ("--model.window 10", r"model.window: found 10, .* merrec, narm and sasrec"),
    ("--evaluation.category brand", r"category: found 'brand', .* two_tower"),
    ("--training.passes 2", r"passes: found 2, .* autoint and two_tower"),
    # of other models
    (f"{NARM} --training.batch_size 19", r"batch_size: 19 targets a step .* model.window 20"),
    (f"{SASREC} --model.heads 3", r"model.heads: 3 do not divide model.embedding_dim 100"),
    (f"{NARM} --model.stride 21", r"model.stride: 21 is more than model.window 20"),
    (f"{NARM} --model.layers 100 50", r"model.layers: narm has one GRU, found 2 layers"),
    (f"{NARM} --optimizer.name adam --optimizer.weight_decay 0.1", r"weight_decay: needs loss.name softmax"),
    (f"{NARM} --training.average 0.99", r"training.average: needs loss.name softmax, found cross_entropy"),
    (f"{SASREC} --model.layers 50", r"model.layers: .* gru4rec, merrec and narm; .* for sasrec"),
    ("--model.name autoint --loss.name triplet", r"loss.name: .* choose binary for autoint"),
    (f"{TOWERS} --loss.margin 3", r"loss.margin: found 3; .* less than or equal to 2"),
    (f"{TOWERS} --loss.hard_negatives 9 --loss.hard_pool 4", r"9 cannot be drawn from a loss.hard_pool of 4"),
    (f"{TOWERS} --loss.hard_negatives 2 --model.table rows", r"hard_negatives: needs model.table dense, found rows"),
    (f"{TOWERS} --training.average 0.9 --model.table rows", r"training.average: needs model.table dense"),
    (f"{TOWERS} --training.batch_size 1", r"loss.n_sample: 0 leaves a single lane without negatives"),
    (f"{TOWERS} --training.metric auc", r"metric: found 'auc'; expected recall, mrr, .* as recall@10"),
    (f"{TOWERS} --recommendation.rules [{{boost:{{a:b}},by:2}}]", r"rules.0.by: found 2"),
    (f"{TOWERS} --recommendation.rules [{{by:0.1}}]", r"rules.0.boost: missing"),
    (f"{TOWERS} --recommendation.rules [{{boost:{{a:b}},by:0.1,then:2}}]", r"rules.0.then: no such field"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "names"), REFUSED)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(override: str, names: str, tmp_path: Path) -> None:
    words = (word.replace(":", ": ") if "{" in word else word for word in override.split(" "))
    assert re.search(names, message(tmp_path, *words))


FILES: list[tuple[str, str]] = [
    ("", "expected sections"), ("- 1\n", "expected sections"), ("data: here\n", "expected sections"),
    ("model:\n  name: gru4rec\n", "data: missing"), ("data: {}\n", "data.path: missing"),
    (BASE + "modle:\n  layers: [3]\n", "modle: no such field .did you mean 'model'"),
    (BASE + "model:\n  layer: [3]\n", "model.layer: no such field .did you mean 'model.layers'"),
    (BASE + "model:\n  layers: 100\n", "model.layers: found 100; .*tuple"),
    (BASE + "model:\n  layers: [3\nloss: {}\n", r"line \d: not YAML"),
    (BASE + "training:\n  epochs: many\n", "training.epochs: found 'many'; .*integer"),
    (BASE + "optimizer:\n  learning_rate: .inf\n", "optimizer.learning_rate: found inf; .*finite"),
    (BASE + "training:\n  seed: 1\ntraining:\n  epochs: 1\n", r"line 5: 'training' is there already \(line 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "names"), FILES)
def test_what_is_wrong_in_a_file(text: str, names: str, tmp_path: Path) -> None:
    assert re.search(f"c.yaml.*{names}", message(tmp_path, text=text))


def test_the_one_that_is_wrong_is_blamed(tmp_path: Path) -> None:
    text = BASE + "model:\n  embedding: onehot\n"
    assert message(tmp_path, "--training.epochs", "many", text=text).startswith("--training.epochs: found 'many'; ")
    assert re.search("c.yaml with --model.name 'narm': model.embedding: found 'onehot', but it belongs to gru4rec",
                     message(tmp_path, "--model.name", "narm", text=text))  # fmt: skip
    text = BASE + "training:\n  epochs: many\n"
    assert "c.yaml: training.epochs: found 'many'" in message(tmp_path, "--training.seed", "3", text=text)
    assert load(tmp_path, "--training.epochs", "2", text=text).training.epochs == 2, "what is given wins"


def test_nothing_changes_in_place(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.training = config.training  # type: ignore[misc]
    assert hash(config) == hash(load(tmp_path)), "it can be a static argument"
    assert config == load(tmp_path)
    assert config != load(tmp_path, "--training.epochs", "11")


def positive(most: float = 1e30) -> st.SearchStrategy[float]:
    return st.floats(0.0, most, exclude_min=True, allow_nan=False)


FRACTION = st.floats(0.0, 1.0, exclude_max=True)
COUNT = st.integers(1, 2**31 - 1)
PATH = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
RATES = {"learning_rate": positive(), "momentum": FRACTION, "clip_norm": st.none() | positive(),
         "schedule": st.sampled_from(["constant", "linear", "cosine"])}  # fmt: skip
VALID = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"path": PATH}, optional={
        "validation_fraction": FRACTION, "order": st.sampled_from(["random", "time"]), "device_memory": COUNT})},
    optional={
        "model": st.fixed_dictionaries({}, optional={
            "layers": st.lists(COUNT, min_size=1, max_size=8), "dropout_hidden": FRACTION,
            "embedding": st.sampled_from(["constrained", "separate", "onehot"])}),
        "loss": st.fixed_dictionaries({}, optional={
            "name": st.just("cross_entropy"), "n_sample": st.integers(0, 100_000), "logq": st.floats(0.0, 2.0),
            "sample_alpha": st.floats(0.0, 2.0), "activation_alpha": positive()}),
        "optimizer": st.fixed_dictionaries({"name": st.just("adagrad")}, optional={"epsilon": positive(), **RATES})
        | st.fixed_dictionaries({"name": st.just("sgd")}, optional=RATES),
        "training": st.fixed_dictionaries({}, optional={
            "seed": st.integers(0, 2**32 - 1), "save_every": st.floats(0.0, 1e9),
            "metric": st.sampled_from(["recall@1", "mrr@20", "ndcg@7", "hit_rate@100"])}),
        "evaluation": st.fixed_dictionaries({}, optional={"k": st.lists(COUNT, min_size=1), "memory": COUNT}),
    },
)  # fmt: skip


@given(VALID)
@settings(max_examples=100, deadline=None)
def test_a_dumped_configuration_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    config = configuration.parse(values)
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(configuration.dump(config), encoding="utf-8")
    assert configuration.load(file) == config


def test_a_dump_holds_every_field(tmp_path: Path) -> None:
    """Of its own model, loss and optimizer, and no other."""
    config = load(tmp_path)
    dumped = yaml.safe_load(configuration.dump(config))
    fields = configuration.fields(type(config))
    assert {f"{section}.{name}" for section, values in dumped.items() for name in values} == set(fields)
    assert "model.layers" in fields and not {"model.window", "loss.margin", "data.protocol"} & set(fields)


def test_every_field_says_what_it_is() -> None:
    fields = configuration.fields()
    assert [name for name, (_, text) in fields.items() if not text] == ["model.name", "loss.name", "optimizer.name"]
    classes = [kind for section, _, kind in finding.all_sections() if section in ("model", "loss", "optimizer")]
    assert all((kind.__doc__ or "").strip() for kind in classes), "which say it of their classes"
    assert fields["training.epochs"][0] == 10
    assert fields["data.path"][0] is None


@pytest.mark.parametrize(
    "words",
    [
        f"{NARM} --training.batch_size 20 --model.stride 20 --model.temperature 12",
        f"{NARM} {SOFTMAX} --optimizer.name adam --training.average 0.9 --optimizer.weight_decay 0.1 --loss.prior 1",
        f"{SASREC} {SOFTMAX} --model.heads 4 --data.half_life 7 --loss.label_smoothing 0.1",
    ],
)
def test_the_same_is_allowed_where_it_means_something(tmp_path: Path, words: str) -> None:
    config = load(tmp_path, *words.split(" "))
    assert configuration.parse(yaml.safe_load(configuration.dump(config))) == config


@pytest.mark.parametrize("model", finding.models())
def test_a_run_of_an_earlier_version_is_read_without_the_fields_of_others(tmp_path: Path, model: str) -> None:
    """Each run held every field there was; in a file of the user's one that is another model's is refused."""
    config = configuration.parse({"data": {"path": "d"}, "model": {"name": model}})
    old = yaml.safe_load(configuration.dump(config))
    for place, value in FORMER.items():
        section, _, field = place.partition(".")
        old[section].setdefault(field, value)
    (tmp_path / "dataset").mkdir()
    run, file = tmp_path / "config.yaml", tmp_path / "c.yaml"
    for written in (run, file):
        written.write_text(yaml.safe_dump(old), encoding="utf-8")
    assert configuration.load(run) == configuration.parse(old, former=True) == config
    with pytest.raises(UserError, match=r"c\.yaml: .* but it belongs to .*; leave it out for"):
        configuration.load(file)
    foreign = next(place for place in FORMER if place not in configuration.fields(type(config)))
    old[foreign.partition(".")[0]][foreign.partition(".")[2]] = 9
    run.write_text(yaml.safe_dump(old), encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.yaml: {foreign}: found 9, but it belongs to"):
        configuration.load(run)
