"""The experiment as frozen, validated types: data, model, loss, optimizer, training, evaluation.

A YAML file gives the values, ``--section.field value`` overrides them, and the resolved result is written to the run.
Which fields there are depends on the model, its loss and the optimizer, whose classes are found by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from jaxrec.cli.text import parse_yaml, read_yaml
from jaxrec.config import finding
from jaxrec.config.sections import Config as Config
from jaxrec.config.sections import EvaluationConfig as EvaluationConfig
from jaxrec.config.sections import MeshConfig as MeshConfig
from jaxrec.config.sections import OptimizerConfig as OptimizerConfig
from jaxrec.errors import UserError, explained, listed, nearest, shown

Values = Mapping[str, Any]
"""Sections of fields, as a YAML file has them."""
GENERAL = """models:
{models}

Every field of the configuration is an option, --section.field VALUE, and wins over the file. To list those of a model:
  python -m jaxrec.train --help --model.name gru4rec                       # their defaults
  python -m jaxrec.train --help --config configs/gru4rec_synthetic.yaml    # the values of a file"""


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
    """Validate sections of fields in which ``--section.field value`` pairs win; ``source`` begins a message."""
    values = without_former(values) if former else values
    pairs = read_overrides(overrides, values)
    whole = {section: dict(fields) for section, fields in values.items()}
    for name, value in pairs.items():
        section, _, field = name.partition(".")
        whole.setdefault(section, {})[field] = value
    return parse(whole, f"{source} with --{' --'.join(pairs)}" if pairs else source)


def parse(values: Values, source: str = "configuration", former: bool = False) -> Config:
    """Validate a nested dictionary; a UserError names the first field that is wrong. ``former`` values may be of an
    earlier version, which wrote the fields of all models into every run."""
    values, kind = without_former(values) if former else values, Config
    try:
        kind = finding.experiment(values)
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, kind)}") from None
    except UserError as error:  # of data.path, or a name
        raise UserError(f"{source}: {error}") from None


def without_former(values: Values) -> Values:
    """The values without fields that the model, loss or optimizer has not."""
    try:
        known = fields(finding.experiment(values))
    except UserError:  # which ``parse`` tells
        return values
    return {section: {field: value for field, value in part.items() if f"{section}.{field}" in known}
            for section, part in values.items()}  # fmt: skip


def dump(config: Config) -> str:
    """The configuration as YAML that ``load`` reads back to an equal ``Config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def fields(config: type[Config] | None = None) -> dict[str, FieldInfo]:
    """Every ``section.field`` of a configuration, or None: of all models, losses and optimizers that jaxrec has."""
    if config is None:
        parts: Any = [(section, kind) for section, _, kind in finding.all_sections()]
    else:
        parts = [(section, info.annotation) for section, info in config.model_fields.items()]
    return {f"{section}.{name}": field for section, kind in parts for name, field in kind.model_fields.items()}


def choices(name: str, config: type[Config]) -> tuple[str, ...]:
    """The names that ``section.field`` allows; empty where it is no choice of names."""
    model: Any = config.model_fields["model"].annotation
    named: dict[str, Any] = {"model.name": finding.models(), "loss.name": finding.losses_of(model),
                             "optimizer.name": finding.optimizers()}  # fmt: skip
    annotation = fields(config)[name].annotation
    return tuple(named.get(name) or (get_args(annotation) if get_origin(annotation) is Literal else ()))


def read_overrides(overrides: Sequence[str], values: Values) -> dict[str, Any]:
    """``["--a.b", "1", "--c.d=2"]`` as ``{"a.b": 1, "c.d": 2}``; several values make a list."""
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
    # the fields of the configuration that the names make; where something else is asked for, also those of all others
    names = {section: dict(part) for section, part in values.items() if isinstance(part, dict)}
    for section in finding.NAMED:
        if words := pairs.get(f"{section}.name"):
            names.setdefault(section, {})["name"] = words[0]
    try:
        known = fields(finding.experiment(names))
    except UserError:  # which ``parse`` tells
        known = {}
    known = known if set(pairs) <= set(known) else fields() | known
    for name, words in pairs.items():
        if name not in known:
            meant = [one for one in known if one.endswith(f".{name}")]  # a section was left out
            near = f" (did you mean {listed([f'--{one}' for one in meant], 'or')}?)" if meant else nearest(name, known)
            raise UserError(f"--{name[:300]}: no such option{near}; --help lists them")
        if not words:
            raise UserError(f"--{name}: a value is missing")
    return {name: _value(name, words, known[name].annotation) for name, words in pairs.items()}


def _value(name: str, words: list[str], annotation: Any) -> Any:
    if name == "data.path":  # a directory may be called 2024
        return " ".join(words)
    kinds = [get_args(one)[0] if get_origin(one) is Annotated else one for one in (annotation, *get_args(annotation))]
    values = [parse_yaml(word, f"--{name} {shown(word)}") for word in words]
    if any(get_origin(one) is tuple for one in kinds):
        return values[0] if len(values) == 1 and (isinstance(values[0], list) or values[0] is None) else values
    if len(values) > 1:
        raise UserError(f"--{name}: one value expected, found {shown(' '.join(words))}")
    return values[0]


def _explain(error: ValidationError, kind: type[Config]) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and place in fields():
        return f"{place}: found {shown(problem['input'])}, but another model, loss or optimizer has it; leave it out"
    return explained(error, nearest(place[:300], fields() if "." in place else kind.model_fields))


def field_help(file: str | None, overrides: Sequence[str]) -> str:
    """The end of ``train --help``: each field of a configuration file with its value and what it is; without a file of
    the model in ``overrides`` (``--section.field value`` words), or where there is none the list of models."""
    if file is not None:
        config, values = load(file, overrides), f"values of {file}"
    elif any(word.partition("=")[0] == "--model.name" for word in overrides):
        config, values = override({"data": {"path": "DIR"}}, overrides, "configuration"), "defaults"
    else:
        models = {name: " ".join((model.__doc__ or "").split()) for name, model in finding.models().items()}
        return GENERAL.format(models="\n".join(f"  {name:<10} {text}" for name, text in models.items()))
    kind, (model, loss, optimizer) = type(config), (getattr(config, section).name for section in finding.NAMED)
    lines = [f"fields of {model} with loss {loss} and optimizer {optimizer}, [{values}]; each is an option:"]
    for name, field in fields(kind).items():
        section = getattr(config, name.partition(".")[0])
        value, allowed = getattr(section, name.partition(".")[2]), choices(name, kind)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else "null" if value is None else str(value)
        among = f" One of: {', '.join(allowed)}." if len(allowed) > 1 else ""
        said = " ".join((field.description or type(section).__doc__ or "").split())
        lines += ["", f"  --{name} [{text}]", f"      {said}{among}"]
    return "\n".join([*lines, "", "Another --loss.name or --optimizer.name beside --help has other fields."])
