"""The experiment as frozen, validated types: data, model, loss, optimizer, training, evaluation.

A YAML file gives the values, ``--section.field value`` overrides them, and the resolved result is written to the run.
Which fields there are depends on the model, its loss and the optimizer, whose classes are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from jaxrec.cli.options import no_such_option
from jaxrec.cli.yaml_text import parse_yaml, read_yaml
from jaxrec.config import finding
from jaxrec.config.former import FORMER
from jaxrec.config.sections import (
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RecommendationConfig,
    TrainingConfig,
)
from jaxrec.errors import UserError, explained, listed, nearest, shown

EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
Values = Mapping[str, Any]
"""Sections of fields, as a YAML file has them."""

__all__ = [
    "Config", "DataConfig", "EvaluationConfig", "LossConfig", "MeshConfig", "ModelConfig", "OptimizerConfig",
    "RecommendationConfig", "TrainingConfig",
    "choices", "dump", "fields", "load", "number", "override", "parse", "read_overrides",
]  # fmt: skip


def load(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``--section.field value`` pairs, and validate.

    A run's own ``config.yaml`` may be of an earlier version (see ``parse``).
    """
    path = Path(file)
    values = read_yaml(path, "the configuration")
    sections = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(part, dict) and all(isinstance(name, str) for name in part) for part in sections):
        raise UserError(f"{path}: expected sections with fields, such as 'data:' with 'path: …' under it")
    of_a_run = path.name == "config.yaml" and (path.parent / "dataset").is_dir()
    return override(values, overrides, str(path), of_a_run)


def override(values: Values, overrides: Sequence[str], source: str, former: bool = False) -> Config:
    """Validate sections of fields in which ``--section.field value`` pairs win.

    Args:
        source: of ``values``, for messages; what is wrong in a pair is blamed on the pair.
        former: whether ``values`` may be of an earlier version.
    """
    values = without_former(values) if former else values
    pairs = dict(read_overrides(overrides, values))
    whole = {section: dict(fields) for section, fields in values.items()}
    for name, value in pairs.items():
        section, _, field = name.partition(".")
        whole.setdefault(section, {})[field] = value
    try:
        return parse(whole, source="")
    except UserError as error:
        message = str(error).removeprefix(": ")
    place = ".".join(message.partition(": ")[0].split(".")[:2])
    if place in pairs:
        raise UserError(f"--{message}")
    if pairs and place.partition(".")[0] in values:
        parse(values, source)  # is it wrong by itself, or beside what is given?
        source = f"{source} with {' and '.join(f'--{name} {shown(value)}' for name, value in pairs.items())}"
    raise UserError(f"{source}: {message}")


def parse(values: Values, source: str = "configuration", former: bool = False) -> Config:
    """Validate a nested dictionary; a UserError names the first field that is wrong.

    Args:
        former: whether ``values`` may be of an earlier version, which wrote the fields of all models into every run.
    """
    values, kind = without_former(values) if former else values, Config
    try:
        kind = finding.experiment(values)
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, values, kind)}") from None
    except UserError as error:  # of data.path, or a name
        raise UserError(f"{source}: {error}") from None


def without_former(values: Values) -> Values:
    """The values without fields that the model, loss or optimizer has not, where they hold their former default."""
    try:
        known = fields(finding.experiment(values))
    except UserError:  # which ``parse`` tells
        return values
    kept = {section: dict(part) for section, part in values.items()}
    for place, value in FORMER.items():
        section, _, field = place.partition(".")
        if place not in known and kept.get(section, {}).get(field, ...) == value:
            del kept[section][field]
    return kept


def dump(config: Config) -> str:
    """The configuration as YAML that ``load`` reads back to an equal ``Config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def fields(config: type[Config] | None = None) -> dict[str, FieldInfo]:
    """Every ``section.field`` with its default and its description.

    Args:
        config: the class of a configuration; None: fields of all models, losses and optimizers that jaxrec has.
    """
    if config is None:
        parts: Any = [(section, kind) for section, _, kind in finding.all_sections()]
    else:
        parts = [(section, info.annotation) for section, info in config.model_fields.items()]
    table: dict[str, FieldInfo] = {}
    for section, kind in parts:
        for name, field in kind.model_fields.items():
            table.setdefault(f"{section}.{name}", field)
    return table


def choices(name: str, config: type[Config] | None = None) -> tuple[str, ...]:
    """The names that ``section.field`` allows; empty where it is no choice of names."""
    model: Any = config and config.model_fields["model"].annotation
    if name == "loss.name":
        return tuple(finding.losses_of(model) if model else finding.losses())
    if name in ("model.name", "optimizer.name"):
        return tuple(finding.models() if name == "model.name" else finding.optimizers())
    annotation = fields(config)[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def read_overrides(overrides: Sequence[str], values: Values) -> list[tuple[str, Any]]:
    """``["--a.b", "1", "--c.d=2"]`` as ``[("a.b", 1), ("c.d", 2)]``; several values make a list."""
    pairs: dict[str, list[str]] = {}
    name = ""
    for word in overrides:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            if name in pairs:
                raise UserError(f"--{name}: given twice; leave one out")
            pairs[name] = [value] if given else []
        elif name:
            pairs[name].append(word)
        else:
            raise UserError(f"{shown(word)}: expected --section.field value")
    known = _known(pairs, values)
    for name, words in pairs.items():
        if name not in known:
            raise UserError(f"{no_such_option(f'--{name}', fields=known)}; --help lists them")
        if not words:
            raise UserError(f"--{name}: a value is missing")
    return [(name, _value(name, words, known[name].annotation)) for name, words in pairs.items()]


def _known(pairs: Mapping[str, list[str]], values: Values) -> dict[str, FieldInfo]:
    """The fields that may be given: those of the configuration that the names among the words and the values make, and,
    where something else is asked for, those of all others."""
    names = {section: dict(part) for section, part in values.items() if isinstance(part, dict)}
    for section in finding.NAMED:
        if words := pairs.get(f"{section}.name"):
            names.setdefault(section, {})["name"] = words[0]
    try:
        own = fields(finding.experiment(names))
    except UserError:  # which ``parse`` tells
        own = {}
    return own if own and set(pairs) <= set(own) else fields() | own


def _value(name: str, words: list[str], annotation: Any) -> Any:
    if name == "data.path":  # a directory may be called 2024
        return " ".join(words)
    kinds = [get_args(one)[0] if get_origin(one) is Annotated else one for one in (annotation, *get_args(annotation))]
    values = [parse_yaml(word, f"--{name} {shown(word)}", lines=False) for word in words]
    if any(get_origin(one) is tuple for one in kinds):
        return values[0] if len(values) == 1 and (isinstance(values[0], list) or values[0] is None) else values
    if len(values) > 1:
        raise UserError(f"--{name}: one value expected, found {shown(' '.join(words))}")
    return values[0] if str in kinds else number(values[0])


def number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a string; users mean a number."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _explain(error: ValidationError, values: Values, kind: type[Config]) -> str:
    problem, known = error.errors()[0], fields(kind)
    place, found = ".".join(str(part) for part in problem["loc"]), shown(problem["input"])
    if problem["type"] == "string_pattern_mismatch":  # which no user wants to read
        allowed = " ".join((known[place].description or "").split()).partition(": ")[2]
        return f"{place}: found {found}; expected {allowed}"
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 2:
        having, what = finding.owners(place, kind)
        if having:
            name = values.get(what, {}).get("name") or known[f"{what}.name"].default
            return f"{place}: found {found}, but it belongs to {listed(having)}; leave it out for {name}"
    return explained(error, nearest(place[:300], fields() if "." in place else kind.model_fields))
