"""Configurations of merrec: its defaults, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.errors import UserError

Sections = dict[str, dict[str, Any]]


def parse(sections: Sections) -> Config:
    values: Sections = {"data": {"path": "x"}, "model": {"name": "merrec"}}
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    return configuration.parse(values)


def test_defaults_and_a_round_trip(tmp_path: Any) -> None:
    config = parse({})
    assert (config.model.head, config.model.layers, config.model.embedding_dim) == ("both", (128, 128), 128)
    assert (config.loss.name, config.loss.logq, config.loss.sample_alpha) == ("cross_entropy", 1.0, 0.5)
    assert (config.optimizer.name, config.optimizer.tables) == ("adam", "rowwise_adagrad")
    (tmp_path / "c.yaml").write_text(configuration.dump(config))
    assert configuration.load(tmp_path / "c.yaml") == config


ALLOWED: list[Sections] = [
    {"loss": {"name": "softmax"}},  # has no logq, whose default is 1 under cross_entropy
    {"loss": {"name": "softmax", "label_smoothing": 0.1}, "training": {"average": 0.9}},
    {"loss": {"logq": 0.0, "n_sample": 0, "candidates": "all"}},
    {"optimizer": {"weight_decay": 0.01}},
    {"optimizer": {"weight_decay": 0.01, "tables": "same"}, "model": {"head": "text"}},
    {"optimizer": {"weight_decay": 0.01, "tables": "same"}, "loss": {"name": "softmax"}},
    {"model": {"item_fields": ["c0"]}, "loss": {"category_weight": 0.5}},
    {"data": {"unknown_rate": 0.1, "embeddings": "m", "name_memory": 0, "half_life": 2.0}},
    {"evaluation": {"sessions": 10, "ties": "median"}},
]


@pytest.mark.parametrize("sections", ALLOWED, ids=str)
def test_what_is_allowed(sections: Sections) -> None:
    config = parse(sections).model_dump(mode="json")
    for section, fields in sections.items():
        assert fields.items() <= config[section].items()


REFUSED: list[tuple[Sections, str]] = [
    ({"loss": {"name": "bpr"}}, "loss.name: found 'bpr'"),
    ({"loss": {"name": "softmax", "prior": 0.5}}, "loss.prior: found 0.5"),
    ({"loss": {"label_smoothing": 0.1}}, "loss.label_smoothing: found 0.1"),
    ({"loss": {"category_weight": 0.5}}, "loss.category_weight: needs the top category"),
    ({"model": {"head": "items", "temperature": 2.0}}, "model.temperature: "),
    ({"model": {"head": "text"}, "data": {"unknown_rate": 0.1}}, "data.unknown_rate: belongs to model.head both"),
    ({"model": {"item_fields": ["c0", "price", "c0"]}}, "model.item_fields: one is named twice"),
    ({"model": {"item_fields": ["colour"]}}, "model.item_fields.0: found 'colour'"),
    ({"model": {"head": "names"}}, "model.head: found 'names'"),
    ({"training": {"batch_size": 8}}, "training.batch_size: 8 targets a step do not hold model.window 20"),
    ({"training": {"average": 0.5}}, "training.average: needs loss.name softmax"),
    ({"optimizer": {"tables": "same", "weight_decay": 0.1}}, "optimizer.weight_decay: needs loss.name softmax"),
    ({"optimizer": {"tables": "same", "table_learning_rate": 0.1}}, "optimizer.table_learning_rate: found 0.1"),
]
OF_ANOTHER: list[tuple[Sections, str]] = [
    ({section: {field: value}}, f"{section}.{field}: found {value!r}, but it belongs to merrec; leave it out for narm")
    for section, field, value in (
        ("loss", "category_weight", 0.5), ("loss", "candidates", "all"), ("evaluation", "sessions", 5),
        ("data", "name_memory", 7),
        ("data", "embeddings", "m"), ("model", "head", "text"), ("model", "field_dim", 3),
    )
]  # fmt: skip


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_refused(sections: Sections, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(sections)
    assert str(error.value).startswith(f"configuration: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(("sections", "message"), OF_ANOTHER, ids=lambda value: str(value)[:60])
def test_what_other_models_do_not_have(sections: Sections, message: str) -> None:
    narm: Sections = {"model": {"name": "narm"}}
    loss = {} if "candidates" in sections.get("loss", {}) else {"name": "softmax"}
    with pytest.raises(UserError) as error:
        parse({**narm, **sections, "model": {**narm["model"], **sections.get("model", {})},
               "loss": {**loss, **sections.get("loss", {})}})  # fmt: skip
    assert str(error.value) == f"configuration: {message}"
