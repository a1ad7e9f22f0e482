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
from jaxrec.config.help import field_help
from jaxrec.errors import UserError

BASE = "data:\n  path: data/here\n"
NARM, TOWERS = "--model.name narm", "--model.name two_tower"


def load(tmp_path: Path, *overrides: str, text: str = BASE) -> Config:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return configuration.load(tmp_path / "c.yaml", overrides)


def message(tmp_path: Path, *overrides: str, text: str = BASE) -> str:
    with pytest.raises(UserError) as error:
        load(tmp_path, *overrides, text=text)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("--optimizer.learning_rate 1e-3", "optimizer.learning_rate", 1e-3),
        ("--optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--optimizer.clip_norm null", "optimizer.clip_norm", None),
        ("--model.layers 64", "model.layers", (64,)),
        ("--model.layers 64 32", "model.layers", (64, 32)),
        ("--model.layers=[64,32,16]", "model.layers", (64, 32, 16)),
        ("--model.embedding onehot", "model.embedding", "onehot"),
        ("--data.path 2024", "data.path", "2024"),
        ("--data.path null", "data.path", "null"),
    ],
)
def test_overrides(override: str, field: str, value: Any, tmp_path: Path) -> None:
    section, name = field.split(".")
    found = getattr(getattr(load(tmp_path, *override.split(" ")), section), name)
    assert found == value and type(found) is type(value)


def test_the_file_is_overridden_field_by_field(tmp_path: Path) -> None:
    text = BASE + "training:\n  epochs: 2\n  batch_size: 9\noptimizer:\n  learning_rate: 1e-3\n"
    found = load(tmp_path, "--training.epochs", "4", "--loss.n_sample", "7", text=text)
    assert (found.training.epochs, found.training.batch_size, found.loss.n_sample) == (4, 9, 7)
    assert found.optimizer.learning_rate == 1e-3, "YAML 1.1 takes it for a string"


@pytest.mark.parametrize(("override", "names"), [
    # names
    ("--optimizer.learning_rat 1", r"--optimizer.learning_rat: no such field .did you mean --optimizer.learning_rate"),
    ("--name sgd", r"mean --model.name, --loss.name or --optimizer.name"),
    ("--training 1", r"--training: a section of the configuration; .* such as --training\."),
    ("training.epochs 1", r"'training.epochs': expected --section.field"),
    ("--training.epochs", r"--training.epochs: a value is missing"),
    ("--training.epochs 3 --training.epochs=4", r"--training.epochs: given twice"),
    ("--training.epochs 1 2", r"--training.epochs: one value expected, found '1 2'"),
    # values
    ("--optimizer.learning_rate 0", r"--optimizer.learning_rate: found 0; .*greater than 0"),
    ("--optimizer.learning_rate nan", r"learning_rate: found 'nan'; .*finite"),
    ("--training.batch_size 2.5", r"batch_size: found 2.5; .*integer"),
    ("--training.epochs true", r"epochs: found True; .*number"),
    ("--training.epochs 010", r"epochs: found '010'; .*number"),
    ("--training.metric recal@20", r"metric: found 'recal@20'; .* recall, mrr"),
    ("--model.layers 10 0", r"model.layers.1: found 0; .*greater than or equal to 1"),
    ("--model.embedding onehod", r"embedding: found 'onehod'; .*mean 'onehot'"),
    ("--loss.name cross_entorpy", r"loss.name: found 'cross_entorpy'; .*'bpr'.*mean 'cross_entropy'"),
    # what would do nothing
    ("--loss.final_activation leaky_relu", r"loss.activation_alpha"),
    ("--optimizer.tables rowwise_adagrad", r"optimizer.tables: found rowwise_adagrad, .* gru4rec reads"),
    # what another model, loss or optimizer has
    ("--loss.logq 1 --loss.name bpr", r"loss.logq: found 1, but it belongs to cross_entropy; leave it out for bpr"),
    ("--optimizer.name adam --optimizer.momentum 0.5", r"momentum: found 0.5, .* adagrad and sgd"),
    ("--loss.name softmax", r"loss.name: found 'softmax', .* choose cross_entropy, .* for gru4rec"),
    ("--model.window 10", r"model.window: found 10, .* merrec, narm and sasrec"),
    # of other models
    (f"{NARM} --training.batch_size 19", r"batch_size: 19 targets a step .* model.window 20"),
    (f"{NARM} --training.average 0.99", r"training.average: needs loss.name softmax, found cross_entropy"),
    (f"{TOWERS} --loss.hard_negatives 9 --loss.hard_pool 4", r"9 cannot be drawn from a loss.hard_pool of 4"),
    (f"{TOWERS} --recommendation.rules [{{boost:{{a:b}},by:2}}]", r"rules.0.by: found 2"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(override: str, names: str, tmp_path: Path) -> None:
    words = (word.replace(":", ": ") if "{" in word else word for word in override.split(" "))
    assert re.search(names, message(tmp_path, *words))


@pytest.mark.parametrize(("text", "names"), [
    ("- 1\n", "expected sections"), ("model:\n  name: gru4rec\n", "data: missing"),
    (BASE + "modle:\n  layers: [3]\n", "modle: no such field .did you mean 'model'"),
    (BASE + "model:\n  layer: [3]\n", "model.layer: no such field .did you mean 'model.layers'"),
    (BASE + "model:\n  layers: [3\nloss: {}\n", r"line \d: not YAML"),
    (BASE + "training:\n  epochs: many\n", "training.epochs: found 'many'; .*integer"),
    (BASE + "training:\n  seed: 1\ntraining:\n  epochs: 1\n", r"line 5: 'training' is there already \(line 3\)"),
])  # fmt: skip
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
    assert hash(config) == hash(load(tmp_path)), "it can be a static argument"
    assert config == load(tmp_path) != load(tmp_path, "--training.epochs", "11")


COUNT, FRACTION = st.integers(1, 2**31 - 1), st.floats(0.0, 1.0, exclude_max=True)
POSITIVE = st.floats(0.0, 1e30, exclude_min=True, allow_nan=False)
VALID = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"path": st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)})},
    optional={
        "model": st.fixed_dictionaries({}, optional={
            "layers": st.lists(COUNT, min_size=1, max_size=8), "dropout_hidden": FRACTION}),
        "optimizer": st.fixed_dictionaries({"name": st.sampled_from(["adagrad", "sgd"]), "learning_rate": POSITIVE},
                                           optional={"clip_norm": st.none() | POSITIVE, "momentum": FRACTION}),
        "training": st.fixed_dictionaries({"metric": st.sampled_from(["recall@1", "hit_rate@100"])}),
        "evaluation": st.fixed_dictionaries({}, optional={"k": st.lists(COUNT, min_size=1), "memory": COUNT}),
    },
)  # fmt: skip


@given(VALID)
@settings(max_examples=40, deadline=None)
def test_a_dumped_configuration_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    config = configuration.parse(values)
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(configuration.dump(config), encoding="utf-8")
    assert configuration.load(file) == config


def test_every_field_is_dumped_and_says_what_it_is(tmp_path: Path) -> None:
    config = load(tmp_path)
    dumped = yaml.safe_load(configuration.dump(config))
    fields = configuration.fields(type(config))
    assert {f"{section}.{name}" for section, values in dumped.items() for name in values} == set(fields)
    assert "model.layers" in fields and not {"model.window", "loss.margin", "data.protocol"} & set(fields)
    silent = [name for name, field in configuration.fields().items() if not field.description]
    assert silent == ["model.name", "loss.name", "optimizer.name"], "whose classes say it"
    assert all((kind.__doc__ or "").strip() for section, _, kind in finding.all_sections() if section in finding.NAMED)


@pytest.mark.parametrize("model", finding.models())
def test_a_models_help_lists_what_it_accepts_and_the_rest_is_refused(model: str) -> None:
    text, words = field_help(None, ["--model.name", model]), ["--model.name", model]
    for loss in configuration.choices("loss.name"):
        chosen = ["--loss.name", loss]
        if loss in finding.losses_of(finding.models()[model]):
            assert configuration.override({"data": {"path": "d"}}, words + chosen, "").loss.name == loss
        else:
            with pytest.raises(UserError, match=r"loss\.name: found .*, but it belongs to"):
                configuration.override({"data": {"path": "d"}}, words + chosen, "")
    own = configuration.fields(type(configuration.override({"data": {"path": "d"}}, words, "")))
    assert set(re.findall(r"\n  --([a-z_.0-9]+) \[", text)) == set(own)
    for name in set(configuration.fields()) - set(own):
        with pytest.raises(UserError, match=f"{name}: found .*1.*, but it belongs to .*; leave it out for"):
            configuration.override({"data": {"path": "d"}}, [*words, f"--{name}", "1"], "")


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
