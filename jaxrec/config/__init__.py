"""The experiment as frozen, validated types: data, model, loss, optimizer, training, evaluation.

A YAML file gives the values, ``--section.field value`` overrides them, and the resolved result is written to the run.
Which fields there are depends on the model, its loss and the optimizer, whose classes are found by name.

Models, losses, optimizers and tasks are imported when they are asked for. The model ``gru4rec`` is the module
``jaxrec.models.gru4rec``; its section is ``Config``, ``Model`` builds it. A loss or an optimizer is the class in
``jaxrec.losses`` or ``jaxrec.training.optimizers`` whose ``name`` it is. A task is the folder of ``jaxrec.tasks`` that
the model names; ``READS`` is the kind of data set that it takes, and sections with further fields are ``Data``,
``Training``, ``Evaluation`` and ``Recommendation``. A name with a dot is a module of the user's, with ``Config`` and
``Model``, with ``Loss``, or with ``Optimizer``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from jaxrec.cli.text import parse_yaml, read_yaml
from jaxrec.config import files, sections
from jaxrec.config.sections import SOURCELESS, LossConfig, ModelConfig, Section
from jaxrec.config.sections import Config as Config
from jaxrec.config.sections import EvaluationConfig as EvaluationConfig
from jaxrec.config.sections import MeshConfig as MeshConfig
from jaxrec.config.sections import OptimizerConfig as OptimizerConfig
from jaxrec.errors import UserError, explained, listed, nearest, shown

MODEL, OPTIMIZER = "gru4rec", "adagrad"  # where none is named
NAMED = ("model", "loss", "optimizer")  # sections whose class their name finds
Values = Mapping[str, Any]
"""Sections of fields, as a YAML file has them."""
GENERAL = """models:
{models}

Every field of the configuration is an option, --section.field VALUE, and wins over the file. To list those of a model:
  python -m jaxrec.train --help --model.name gru4rec                       # their defaults
  python -m jaxrec.train --help --config configs/gru4rec_synthetic.yaml    # the values of a file"""


def load(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, or one that jaxrec brings by its bare name, apply ``--section.field value`` pairs, and check.

    A run's own ``config.yaml`` may be of an earlier version (see ``parse``).
    """
    path = files.find(file, "configuration")
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
        kind = experiment(values)
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, kind)}") from None
    except UserError as error:  # of data.path, or a name
        raise UserError(f"{source}: {error}") from None


def without_former(values: Values) -> Values:
    """The values without fields that the model, loss or optimizer has not."""
    try:
        known = fields(experiment(values))
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
        parts: Any = [(section, kind) for section, _, kind in all_sections()]
    else:
        parts = [(section, info.annotation) for section, info in config.model_fields.items()]
    return {f"{section}.{name}": field for section, kind in parts for name, field in kind.model_fields.items()}


def choices(name: str, config: type[Config]) -> tuple[str, ...]:
    """The names that ``section.field`` allows; empty where it is no choice of names."""
    model: Any = config.model_fields["model"].annotation
    named: dict[str, Any] = {"model.name": models(), "loss.name": losses_of(model),
                             "optimizer.name": optimizers()}  # fmt: skip
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
    for section in NAMED:
        if words := pairs.get(f"{section}.name"):
            names.setdefault(section, {})["name"] = words[0]
    try:
        known = fields(experiment(names))
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
        texts = {name: " ".join((model.__doc__ or "").split()) for name, model in models().items()}
        return GENERAL.format(models="\n".join(f"  {name:<10} {text}" for name, text in texts.items()))
    kind, (model, loss, optimizer) = type(config), (getattr(config, section).name for section in NAMED)
    lines = [f"fields of {model} with loss {loss} and optimizer {optimizer}, [{values}]; each is an option:"]
    for name, field in fields(kind).items():
        section = getattr(config, name.partition(".")[0])
        value, allowed = getattr(section, name.partition(".")[2]), choices(name, kind)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else "null" if value is None else str(value)
        among = f" One of: {', '.join(allowed)}." if len(allowed) > 1 else ""
        said = " ".join((field.description or type(section).__doc__ or "").split())
        lines += ["", f"  --{name} [{text}]", f"      {said}{among}"]
    return "\n".join([*lines, "", "Another --loss.name or --optimizer.name beside --help has other fields."])


# ---- models, losses, optimizers and tasks by name --------------------------------------------------------------------


@cache
def models() -> dict[str, type[ModelConfig]]:
    """The section of each model in ``jaxrec.models`` that can be trained, by name."""
    return {name: one for name, one in _named(_modules("jaxrec.models"), ModelConfig).items() if one.trained}


@cache
def losses() -> dict[str, type[LossConfig]]:
    """The losses in ``jaxrec.losses`` by name, module by module."""
    return _named(_modules("jaxrec.losses"), LossConfig)


@cache
def optimizers() -> dict[str, type[OptimizerConfig]]:
    """The optimizers by name."""
    return _named([importlib.import_module("jaxrec.training.optimizers")], OptimizerConfig)


@cache
def losses_of(model: type[ModelConfig]) -> dict[str, type[LossConfig]]:
    """The losses that a model can be trained with, its default first."""
    fitting = [one for kind in model.losses for one in (kind, *losses().values()) if issubclass(one, kind)]
    return {_name(one): one for one in fitting if _name(one)}


def find_module(field: str, name: str, attributes: Mapping[str, type | None]) -> ModuleType:
    """The module of the user's that a ``field`` names, with ``attributes``: subclasses of these (None: anything)."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a module of the user's raises
        raise UserError(f"{field}: {name} cannot be imported ({type(error).__name__}: {error}); mend it, or "
                        "start in the directory that holds it") from None  # fmt: skip
    for attribute, kind in attributes.items():
        found = getattr(module, attribute, None)
        if found is None or (kind and not (isinstance(found, type) and issubclass(found, kind))):
            what = f", a subclass of {kind.__name__}" if kind else ""
            raise UserError(f"{field}: {name} has no {attribute}{what}; a module of your own needs one")
    return module


def _unknown(section: str, name: Any, known: Mapping[str, Any]) -> UserError:
    allowed, near = listed([repr(one) for one in known], "or"), nearest(str(name), known)
    return UserError(f"{section}.name: found {shown(name)}; input should be {allowed}{near}, or one of your own")


def find_model(name: Any) -> ModuleType:
    """The module of a model."""
    if isinstance(name, str) and "." in name:
        module = find_module("model.name", name, {"Config": ModelConfig, "Model": None})
        if not hasattr(module.Config, "task") or not hasattr(module.Config, "losses"):
            raise UserError(f"model.name: {name}.Config lacks task or losses; see jaxrec.config.sections.ModelConfig")
        return module
    if isinstance(name, str) and name.isidentifier() and importlib.util.find_spec(f"jaxrec.models.{name}"):
        module = importlib.import_module(f"jaxrec.models.{name}")  # without importing the others
        if hasattr(module, "Model"):
            return module
    raise _unknown("model", name, models())


def find_task(model: type[ModelConfig] | ModelConfig) -> ModuleType:
    """The folder of a model's task."""
    if "." in model.task:
        return find_module(f"model.name: task {model.task}", model.task, {"READS": None})
    return importlib.import_module(f"jaxrec.tasks.{model.task}")


def _find_class(section: str, name: Any, known: Mapping[str, Any], kind: type[Section]) -> Any:
    """The class that a name says: one of ``known``, or the ``Loss`` or ``Optimizer`` of a module of the user's."""
    if not isinstance(name, str) or (name not in known and "." not in name):
        raise _unknown(section, name, known)
    attribute = section.capitalize()
    return known.get(name) or getattr(find_module(f"{section}.name", name, {attribute: kind}), attribute)


def _modules(package: str) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        yield importlib.import_module(found.name)


def _named(modules: Iterable[ModuleType], kind: type[Section]) -> dict[str, Any]:
    """The classes of a kind that stand in modules and have a name, by that name."""
    values = [(one, module) for module in modules for one in vars(module).values() if isinstance(one, type)]
    kinds = [one for one, module in values if issubclass(one, kind) and one.__module__ == module.__name__]
    return {_name(one): one for one in kinds if _name(one)}


def _name(section: type[Section]) -> str:
    """What a class is called in a configuration; empty for one that only others build on."""
    field = section.model_fields["name"]
    return "" if field.is_required() else str(field.default)


def experiment(values: Mapping[str, Any]) -> type[Config]:
    """The class of the configuration that nested ``values`` describe, told by the names in them."""
    parts = {section: part for section in NAMED if isinstance(part := values.get(section), Mapping)}
    names = {section: part["name"] for section, part in parts.items() if "name" in part}
    model = find_model(called := names.get("model", MODEL)).Config
    loss = _find_class("loss", names.get("loss", next(iter(losses_of(model)))), losses_of(model), LossConfig)
    if not issubclass(loss, model.losses):
        takes = listed([kind.__name__ for kind in model.losses], "or")
        raise UserError(f"loss.name: found {names['loss']}, which is no {takes}; {called} is trained with those alone")
    default = model.defaults.get("optimizer", {}).get("name", OPTIMIZER)
    optimizer = _find_class("optimizer", names.get("optimizer", default), optimizers(), OptimizerConfig)
    return _experiment(model, loss, optimizer)


@cache
def _experiment(model: type[ModelConfig], loss: type[LossConfig], optimizer: type[OptimizerConfig]) -> type[Config]:
    kinds = {"model": model, "loss": loss, "optimizer": optimizer}
    parts = {name: section_of(model, name, kinds.get(name)) for name in Config.model_fields}
    fields = {name: (part, ... if name == "data" else Field(default_factory=part)) for name, part in parts.items()}
    return create_model("Config", __base__=Config, __cls_kwargs__=SOURCELESS, **fields)  # type: ignore[call-overload]


@cache
def section_of(model: type[ModelConfig], name: str, kind: type[Section] | None = None) -> type[Section]:
    """A section's class: what all share (``kind``, of a model, loss or optimizer), what the model's task adds and what
    the model adds, with its defaults."""
    whole: Any = kind or getattr(find_task(model), name.capitalize(), None)
    whole = whole or getattr(sections, f"{name.capitalize()}Config")
    more, changed = model.sections.get(name), dict[str, Any]()
    for field, default in model.defaults.get(name, {}).items():
        if field != "name" and field in whole.model_fields:
            info = whole.model_fields[field]
            kept: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            changed[field] = (kept, Field(default, description=info.description))
    if more is None and not changed:
        return whole
    bases = whole if more is None else (more, whole)
    return create_model(whole.__name__, __base__=bases, __doc__=whole.__doc__, __cls_kwargs__=SOURCELESS, **changed)


def all_sections() -> Iterator[tuple[str, str, type[Section]]]:
    """Section, model and class of each that there is; those of losses and optimizers for each model."""
    for called, model in models().items():
        for name in Config.model_fields:
            own = {"model": [model], "loss": losses_of(model).values(), "optimizer": optimizers().values()}
            for kind in own.get(name, [None]):
                yield name, called, section_of(model, name, kind)
