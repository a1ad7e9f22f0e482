"""The configuration: what is wrong is named, what is right survives a round trip, and nothing changes in place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.errors import UserError

BASE = "data:\n  path: data/here\n"


def load(tmp_path: Path, *overrides: str, text: str = BASE) -> Config:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return configuration.load(tmp_path / "c.yaml", overrides)


def test_overrides_win_field_by_field(tmp_path: Path) -> None:
    for override, value in {
        "--optimizer.learning_rate 1e-3": 1e-3, "--optimizer.learning_rate=1": 1.0, "--optimizer.clip_norm null": None,
        "--model.layers 64": (64,), "--model.layers 64 32": (64, 32), "--model.layers=[64,32,16]": (64, 32, 16),
        "--model.embedding onehot": "onehot", "--data.path 2024": "2024", "--data.path null": "null",
    }.items():  # fmt: skip
        section, name = re.split("[ =]", override[2:])[0].split(".")
        found = getattr(getattr(load(tmp_path, *override.split(" ")), section), name)
        assert found == value and type(found) is type(value), override
    text = BASE + "training:\n  epochs: 2\n  batch_size: 9\noptimizer:\n  learning_rate: 1e-3\n"
    config = load(tmp_path, "--training.epochs", "4", "--loss.n_sample", "7", text=text)
    assert (config.training.epochs, config.training.batch_size, config.loss.n_sample) == (4, 9, 7)
    assert config.optimizer.learning_rate == 1e-3, "YAML 1.1 takes it for a string"
    assert load(tmp_path, "--training.epochs", "2", text=BASE + "training: {epochs: many}").training.epochs == 2
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]
    assert hash(load(tmp_path)) == hash(load(tmp_path)), "it can be a static argument"
    assert load(tmp_path) == load(tmp_path) != load(tmp_path, "--training.epochs", "11")


@pytest.mark.parametrize(("override", "names"), [
    # names
    ("--name sgd", r"mean --model.name, --loss.name or --optimizer.name"),
    ("--training.epochs", r"--training.epochs: a value is missing"),
    # values
    ("--optimizer.learning_rate 0", r"optimizer.learning_rate: found 0; .*greater than 0"),
    ("--training.epochs 010", r"epochs: found '010'; .*number"),
    ("--loss.name cross_entorpy", r"loss.name: found 'cross_entorpy'; .*'bpr'.*mean 'cross_entropy'"),
    # what would do nothing, and what another model, loss or optimizer has
    ("--loss.logq 1 --loss.name bpr", r"loss.logq: found 1, but another model, loss or optimizer has it"),
    ("--model.name narm --training.average 0.99", r"training.average: needs loss.name softmax, found cross_entropy"),
    # files
    ("- 1\n", "expected sections"), ("model:\n  name: gru4rec\n", "data: missing"),
    (BASE + "model:\n  layer: [3]\n", "model.layer: no such field .did you mean 'model.layers'"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(override: str, names: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=names):
        load(tmp_path, text=override) if "\n" in override else load(tmp_path, *override.split(" "))


def test_every_field_is_dumped_and_says_what_it_is(tmp_path: Path) -> None:
    config = load(tmp_path)
    dumped = yaml.safe_load(configuration.dump(config))
    names = {f"{section}.{name}" for section, values in dumped.items() for name in values}
    assert names == set(configuration.fields(type(config)))
    silent = {name for name, field in configuration.fields().items() if not field.description}
    assert silent == {"model.name", "loss.name", "optimizer.name"}, "whose classes say it"
    assert all(
        (kind.__doc__ or "").strip()
        for section, _, kind in configuration.all_sections()
        if section in configuration.NAMED
    )


@pytest.mark.parametrize("model", configuration.models())
def test_a_models_help_lists_what_it_accepts_and_the_rest_is_refused(model: str) -> None:
    words, data = ["--model.name", model], {"data": {"path": "d"}}
    for loss in configuration.losses():
        if loss in configuration.losses_of(configuration.models()[model]):
            assert configuration.override(data, [*words, "--loss.name", loss], "").loss.name == loss
        else:
            with pytest.raises(UserError, match=r"loss\.name: found .*; input should be"):
                configuration.override(data, [*words, "--loss.name", loss], "")
    own = configuration.fields(type(configuration.override(data, words, "")))
    assert set(re.findall(r"\n  --([a-z_.0-9]+) \[", configuration.field_help(None, words))) == set(own)
    for name in set(configuration.fields()) - set(own):
        with pytest.raises(UserError, match=f"{name}: found .*1.*, but another model, loss or optimizer has it"):
            configuration.override(data, [*words, f"--{name}", "1"], "")


@pytest.mark.parametrize("model", configuration.models())
def test_a_run_of_an_earlier_version_is_read_without_the_fields_of_others(tmp_path: Path, model: str) -> None:
    """Each run held every field there was; in a file of the user's one that is another model's is refused."""
    config = configuration.parse({"data": {"path": "d"}, "model": {"name": model}})
    old = yaml.safe_load(configuration.dump(config))
    for section, field in (place.split(".") for place in configuration.fields()):
        old[section].setdefault(field, "x")
    (tmp_path / "dataset").mkdir()
    for file in (tmp_path / "config.yaml", tmp_path / "c.yaml"):
        file.write_text(yaml.safe_dump(old), encoding="utf-8")
    assert configuration.load(tmp_path / "config.yaml") == configuration.parse(old, former=True) == config
    with pytest.raises(UserError, match=r"c\.yaml: .*: found .*, but another model, loss or optimizer has it"):
        configuration.load(tmp_path / "c.yaml")
