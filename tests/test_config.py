"""The configuration: what is wrong is named, what is right survives a round trip, and nothing changes in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxrec import config as configuration
from jaxrec.config import Config, finding
from jaxrec.config.former import FORMER
from jaxrec.errors import UserError

BASE = "data:\n  path: data/here\n"


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


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "--optimizer.learning_rat 1",
            ["--optimizer.learning_rat: no such field (did you mean --optimizer.learning_rate?)"],
        ),
        ("--trainig.epochs 1", ["--trainig.epochs: no such field (did you mean --training.epochs?)"]),
        ("--epochs 1", ["--epochs: no such option (did you mean --training.epochs?)"]),
        ("--name sgd", ["(did you mean --model.name, --loss.name or --optimizer.name?)"]),
        ("--batch-size 1", ["(did you mean --training.batch_size or --evaluation.batch_size?)"]),
        ("--training 1", ["--training: a section of the configuration; give one of its fields, such as --training."]),
        ("--optimizer.learning_rate 0", ["optimizer.learning_rate", "found 0", "greater than 0"]),
        ("--optimizer.learning_rate -1", ["optimizer.learning_rate", "found -1", "greater than 0"]),
        ("--optimizer.learning_rate fast", ["optimizer.learning_rate", "found 'fast'", "number"]),
        ("--optimizer.learning_rate nan", ["optimizer.learning_rate", "found 'nan'", "finite"]),
        ("--optimizer.momentum 1", ["optimizer.momentum", "found 1", "less than 1"]),
        ("--training.batch_size 0", ["training.batch_size", "found 0", "greater than or equal to 1"]),
        ("--training.batch_size 2.5", ["training.batch_size", "found 2.5", "integer"]),
        ("--training.seed 4294967296", ["training.seed", "4294967296", "less than 4294967296"]),
        ("--training.metric recal@20", ["training.metric", "found 'recal@20'", "recall, mrr"]),
        ("--training.metric recall@0", ["training.metric", "found 'recall@0'"]),
        ("--model.layers 10 0", ["model.layers", "found 0", "greater than or equal to 1"]),
        ("--model.layers=[]", ["model.layers", "at least 1"]),
        ("--loss.name cross_entorpy", ["loss.name", "found 'cross_entorpy'", "'bpr'", "mean 'cross_entropy'"]),
        ("--evaluation.ties median_", ["evaluation.ties", "'standard'", "mean 'median'"]),
        ("--loss.logq 1 --loss.name bpr", ["loss.logq", "cross_entropy", "leave it out for bpr"]),
        ("--optimizer.name adam --optimizer.momentum 0.5", ["momentum", "belongs to adagrad and sgd"]),
        ("--training.epochs", ["--training.epochs", "value is missing"]),
        ("--training.epochs 3 --loss.logq 1 --training.epochs=4", ["--training.epochs: given twice, as '3' and '4'"]),
        ("--training.epochs 010", ["training.epochs: found '010'", "write 10"]),
        ("--model.layers 1:30", ["model.layers: found '1:30'"]),
        ("--model.layers {a:1,a:2}", ["model.layers", "found {'a:1': None, 'a:2': None}"]),
        ("--training.epochs 1 2", ["--training.epochs", "one value expected", "'1 2'"]),
        ("--training.epochs [1", ["--training.epochs '[1': not YAML"]),
        ("training.epochs 1", ["'training.epochs'", "expected --section.field"]),
        ("--training.epochs null", ["training.epochs", "found None", "integer"]),
        ("--data.validation_fraction 1.0", ["data.validation_fraction", "found 1.0", "less than 1"]),
    ],
)
def test_wrong_overrides_name_the_field_the_value_and_what_is_allowed(
    override: str, parts: list[str], tmp_path: Path
) -> None:
    found = message(tmp_path, *override.split(" "))
    for part in parts:
        assert part in found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["c.yaml", "expected sections"]),
        ("- 1\n", ["c.yaml", "expected sections"]),
        ("data: here\n", ["c.yaml", "expected sections"]),
        ("model:\n  name: gru4rec\n", ["c.yaml", "data: missing"]),
        ("data: {}\n", ["c.yaml", "data.path: missing"]),
        (BASE + "modle:\n  layers: [3]\n", ["c.yaml", "modle: no such field", "mean 'model'"]),
        (BASE + "model:\n  layer: [3]\n", ["c.yaml", "model.layer: no such field", "mean 'model.layers'"]),
        (BASE + "model:\n  layers: 100\n", ["model.layers", "found 100", "tuple"]),
        (BASE + "model:\n  layers: [3\nloss: {}\n", ["c.yaml, line", "not YAML"]),
        (BASE + "model: [\n", ["c.yaml", "not YAML"]),
        ("data:\n\tpath: x\n", ["c.yaml, line 2", "not YAML"]),
        (BASE + "training:\n  epochs: many\n", ["training.epochs", "found 'many'", "integer"]),
        (BASE + "optimizer:\n  learning_rate: .inf\n", ["optimizer.learning_rate", "found inf", "finite"]),
        (BASE + "loss:\n  name: no\n", ["loss.name", "found 'no'", "'cross_entropy'"]),
    ],
)
def test_wrong_files(text: str, parts: list[str], tmp_path: Path) -> None:
    found = message(tmp_path, text=text)
    for part in parts:
        assert part in found


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot read the configuration \(No such file"):
        configuration.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read the configuration"):
        configuration.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"data: {path: \xe9}\n")
    with pytest.raises(UserError, match="not UTF-8"):
        configuration.load(tmp_path / "latin.yaml")


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
    ("words", "names"),
    [
        (["--loss.final_activation", "leaky_relu"], "loss.activation_alpha"),
        (["--training.batch_size", "1", "--loss.n_sample", "0"], "loss.n_sample"),
        (["--epochs", "1"], "did you mean --training.epochs"),
    ],
)
def test_combinations_that_would_do_nothing(tmp_path: Path, words: list[str], names: str) -> None:
    with pytest.raises(UserError, match=names):
        load(tmp_path, *words)


NARM, SASREC, SOFTMAX = (["--model.name", "narm"], ["--model.name", "sasrec"], ["--loss.name", "softmax"])
ADAM = ["--optimizer.name", "adam"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([*NARM, "--training.batch_size", "19"], r"training\.batch_size: 19 targets a step .* model\.window 20"),
        ([*SASREC, "--model.window", "129"], r"training\.batch_size: 128 targets a step .* model\.window 129"),
        (SOFTMAX, r"loss\.name: found 'softmax', .* to merrec, narm and sasrec; choose cross_entropy, .* for gru4rec"),
        (
            ["--data.half_life", "7"],
            r"data\.half_life: found 7, .* merrec, narm and sasrec; leave it out for gru4rec",
        ),
        ([*SASREC, "--model.heads", "3"], r"model\.heads: 3 do not divide model\.embedding_dim 100"),
        ([*NARM, "--model.stride", "21"], r"model\.stride: 21 is more than model\.window 20"),
        ([*NARM, "--model.layers", "100", "50"], r"model\.layers: narm has one GRU, found 2 layers"),
        ([*NARM, *ADAM, "--optimizer.weight_decay", "0.1"], r"optimizer\.weight_decay: needs loss\.name softmax"),
        ([*NARM, *SOFTMAX, "--optimizer.weight_decay", "0.1"], r"optimizer\.weight_decay: found 0.1, .* to adam"),
        (
            ["--optimizer.name", "sgd", "--optimizer.epsilon", "1"],
            r"optimizer\.epsilon: found 1, .* adagrad and adam",
        ),
        ([*SASREC, "--model.layers", "50"], r"model\.layers: .* gru4rec, merrec and narm; .* for sasrec"),
        ([*NARM, "--loss.precision", "bfloat16"], r"loss\.precision: found 'bfloat16', .* for cross_entropy"),
        ([*NARM, *SOFTMAX, "--loss.n_sample", "5"], r"loss\.n_sample: found 5, .* leave it out for softmax"),
        (["--training.metric", "foo@20"], r"training\.metric: found 'foo@20'; expected recall, .* as recall@20"),
        ([*NARM, "--training.average", "0.99"], r"training\.average: needs loss\.name softmax, found cross_entropy"),
        ([*NARM, "--loss.label_smoothing", "0.1"], r"loss\.label_smoothing: found 0.1, but it belongs to softmax"),
        ([*SASREC, "--loss.prior", "-0.5"], r"loss\.prior: found -0.5, but it belongs to softmax"),
        ([*NARM, *SOFTMAX, "--loss.logq", "1"], r"loss\.logq: found 1, but it belongs to cross_entropy"),
        (["--model.temperature", "12"], r"model\.temperature: found 12, .* merrec, narm and sasrec; leave"),
        (["--model.window", "10"], r"model\.window: found 10, .* merrec, narm and sasrec; leave it out for gru4rec"),
        ([*SASREC, "--model.attention", "softmax"], r"model\.attention: found 'softmax', .* narm; .* for sasrec"),
        (["--optimizer.tables", "rowwise_adagrad"], r"optimizer\.tables: found rowwise_adagrad, .* and gru4rec reads"),
        ([*NARM, "--model.heads", "2"], r"model\.heads: found 2, but it belongs to autoint and sasrec"),
        ([*NARM, "--model.embedding", "onehot"], r"model\.embedding: found 'onehot', but it belongs to gru4rec"),
    ],
)
def test_what_a_model_or_a_loss_does_not_have_is_refused_before_anything_is_read(
    tmp_path: Path, words: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BASE, encoding="utf-8")  # there is no such data set
    fails(capsys, "train", "--config", file, *words, names=names)


@pytest.mark.parametrize(
    "words",
    [
        [*NARM, "--training.batch_size", "20", "--model.stride", "20", "--model.temperature", "12"],
        [*NARM, *SOFTMAX, *ADAM, "--training.average", "0.9", "--optimizer.weight_decay", "0.1", "--loss.prior", "1"],
        [*SASREC, *SOFTMAX, "--model.heads", "4", "--data.half_life", "7", "--loss.label_smoothing", "0.1"],
    ],
)
def test_the_same_is_allowed_where_it_means_something(tmp_path: Path, words: list[str]) -> None:
    config = load(tmp_path, *words)
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
