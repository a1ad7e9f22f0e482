"""Models, losses, optimizers and tasks by name, imported when they are asked for.

The model ``gru4rec`` is the module ``jaxrec.models.gru4rec``; its section is ``Config``, ``Model`` builds it. A loss or
an optimizer is the class in ``jaxrec.losses`` or ``jaxrec.training.optimizers`` whose ``name`` it is. A task is the
folder of ``jaxrec.tasks`` that the model names; ``READS`` is the kind of data set that it takes, and sections with
further fields are ``Data``, ``Training``, ``Evaluation`` and ``Recommendation``. A name with a dot is a module of the
user's, with ``Config`` and ``Model``, with ``Loss``, or with ``Optimizer``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, create_model

from jaxrec.config import sections
from jaxrec.config.sections import Config, LossConfig, ModelConfig, OptimizerConfig, Section
from jaxrec.errors import UserError, listed, nearest, shown

MODEL, OPTIMIZER = "gru4rec", "adagrad"  # where none is named
NAMED = ("model", "loss", "optimizer")  # sections whose class their name finds
FORMER: dict[str, Any] = {
    "data.order": "random", "data.half_life": None, "data.protocol": "rows", "data.split_seed": 42,
    "data.test_fraction": 0.2, "data.repeats": None, "data.fields": None, "data.unknown_rate": 0.0,
    "data.embeddings": None, "data.name_memory": 8192,
    "model.layers": [100], "model.embedding": "constrained", "model.attention": "sum", "model.blocks": 2,
    "model.heads": 1, "model.attention_dim": 32, "model.deep": [], "model.norm": "none", "model.first_order": "none",
    "model.table": "dense", "model.hidden": [64], "model.output_dim": 32, "model.head": "both", "model.name_dim": 128,
    "model.text_dim": 128, "model.event_dim": 32, "model.item_fields": [], "model.field_dim": 16, "model.window": 20,
    "model.stride": 1, "model.temperature": None, "model.init_std": None, "model.dropout_attention": 0.0,
    "loss.n_sample": 2048, "loss.sample_alpha": 0.5, "loss.logq": 0.0, "loss.margin": 0.5, "loss.temperature": 0.1,
    "loss.hard_negatives": 0, "loss.hard_pool": 64, "loss.refresh_steps": 200, "loss.mask": "positives",
    "loss.bpreg": 1.0, "loss.final_activation": "linear", "loss.activation_alpha": 1.0, "loss.label_smoothing": 0.0,
    "loss.candidates": "live", "loss.category_weight": 0.0, "loss.prior": 0.0, "loss.rating_weight": 0.0,
    "loss.embedding_l2": 0.0, "loss.embedding_l2_power": 0.0, "loss.memory": 64, "loss.precision": "float32",
    "optimizer.momentum": 0.0, "optimizer.epsilon": None, "optimizer.beta1": 0.9, "optimizer.beta2": 0.999,
    "optimizer.weight_decay": 0.0,
    "training.passes": 1, "evaluation.ties": "conservative", "evaluation.sessions": None, "evaluation.category": None,
    "recommendation.rules": [],
}  # fmt: skip
"""Defaults of the fields that earlier versions wrote into every run, whatever its model. This table never changes."""


@cache
def models() -> dict[str, type[ModelConfig]]:
    """The section of each model in ``jaxrec.models``, by name."""
    return _named(_modules("jaxrec.models"), ModelConfig)


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


def find_module(field: str, name: str, attributes: tuple[str, ...]) -> ModuleType:
    """The module of the user's that ``section.field`` names."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a module of the user's raises
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{field}: no module {shown(name)}, since {shown(error.name)} is not on Python's path; "
                            "install it, or start in the directory that holds it") from None  # fmt: skip
        raise UserError(f"{field}: {name} cannot be imported ({type(error).__name__}: {error}); mend it") from None
    if not all(hasattr(module, attribute) for attribute in attributes):
        raise UserError(f"{field}: {name} lacks one of {listed(attributes)}; a module of your own has them")
    return module


def _find(section: str, name: Any, known: Mapping[str, Any], kind: type[Section], *attributes: str) -> Any:
    """The class that a name says: one of ``known``, or the first of the ``attributes`` of a module of the user's."""
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str) or "." not in name:
        allowed, near = listed([repr(one) for one in known], "or"), nearest(str(name), known)
        raise UserError(f"{section}.name: found {shown(name)}; input should be {allowed}{near}, or one of your own")
    found = getattr(find_module(f"{section}.name", name, attributes), attributes[0])
    if not isinstance(found, type) or not issubclass(found, kind):
        raise UserError(f"{section}.name: {name}.{attributes[0]} is no {kind.__name__}; make it a subclass")
    return found


def find_model(name: Any) -> ModuleType:
    """The module of a model."""
    if isinstance(name, str) and name.isidentifier() and importlib.util.find_spec(f"jaxrec.models.{name}"):
        module = importlib.import_module(f"jaxrec.models.{name}")  # without importing the others
        if hasattr(module, "Model"):
            return module
    section = _find("model", name, {} if "." in str(name) else models(), ModelConfig, "Config", "Model")
    if not hasattr(section, "task") or not hasattr(section, "losses"):
        raise UserError(f"model.name: {name}.Config lacks task or losses; see jaxrec.config.sections.ModelConfig")
    return importlib.import_module(name)


def find_task(model: type[ModelConfig] | ModelConfig) -> ModuleType:
    """The folder of a model's task."""
    if "." in model.task:
        return find_module(f"model.name: task {model.task}", model.task, ("READS",))
    return importlib.import_module(f"jaxrec.tasks.{model.task}")


def find_loss(model: type[ModelConfig], called: str, name: Any) -> type[LossConfig]:
    """The class of a loss, for a model that is ``called`` so."""
    known, kinds = losses_of(model), tuple(kind for kind in model.losses if not _name(kind))
    if name in list(losses()) and name not in known:
        having = [other for other, section in models().items() if name in losses_of(section)]
        raise UserError(f"loss.name: found {shown(name)}, but it belongs to {listed(having or ['no model'])}; choose "
                        f"{listed(list(known), 'or')} for {called}")  # fmt: skip
    found: type[LossConfig] = _find("loss", name, known, LossConfig, "Loss")
    if found not in known.values() and not issubclass(found, kinds):
        takes = listed([kind.__name__ for kind in kinds], "or") if kinds else "none but its own"
        raise UserError(f"loss.name: {called} cannot be trained with {name}; its losses are {takes}")
    return found


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
    loss = find_loss(model, called, names.get("loss", next(iter(losses_of(model)))))
    default = model.defaults.get("optimizer", {}).get("name", OPTIMIZER)
    found = _find("optimizer", names.get("optimizer", default), optimizers(), OptimizerConfig, "Optimizer")
    return _experiment(model, loss, found)


@cache
def _experiment(model: type[ModelConfig], loss: type[LossConfig], optimizer: type[OptimizerConfig]) -> type[Config]:
    kinds = {"model": model, "loss": loss, "optimizer": optimizer}
    parts = {name: section_of(model, name, kinds.get(name)) for name in Config.model_fields}
    fields = {name: (part, ... if name == "data" else Field(default_factory=part)) for name, part in parts.items()}
    return create_model("Config", __base__=Config, **fields)  # type: ignore[call-overload]


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
    return create_model(whole.__name__, __base__=bases, __doc__=whole.__doc__, **changed)


def all_sections() -> Iterator[tuple[str, str, type[Section]]]:
    """Section, model and class of each that there is; those of losses and optimizers for each model."""
    for called, model in models().items():
        for name in Config.model_fields:
            own = {"model": [model], "loss": losses_of(model).values(), "optimizer": optimizers().values()}
            for kind in own.get(name, [None]):
                yield name, called, section_of(model, name, kind)


def owners(place: str, config: type[Config]) -> tuple[list[str], str]:
    """Who has ``section.field``, where a configuration of this class has it not, and the section whose name has to be
    another for it: losses that its model takes, optimizers, or models."""
    section, _, field = place.partition(".")
    model: Any = config.model_fields["model"].annotation
    kinds: Any = losses_of(model) if section == "loss" else optimizers() if section == "optimizer" else {}
    if found := [name for name, kind in kinds.items() if field in section_of(model, section, kind).model_fields]:
        return found, section
    having = (name for part, name, kind in all_sections() if part == section and field in kind.model_fields)
    return list(dict.fromkeys(having)), "model"
