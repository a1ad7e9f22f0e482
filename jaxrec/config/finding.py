"""Models, losses, optimizers and tasks by name: a module or class of that name, or a module of the user's.

    model      ``gru4rec`` is the module ``jaxrec.models.gru4rec``; its section is ``Config``, and ``Model`` builds it
    loss       the class of a module in ``jaxrec.losses`` whose ``name`` it is, among those that the model takes
    optimizer  likewise of ``jaxrec.training.optimizers``
    task       the folder of ``jaxrec.tasks`` that the model names; ``READS`` is the kind of data set that it takes, and
               sections with further fields are ``Data``, ``Training``, ``Evaluation`` and ``Recommendation``

A name with a dot is a module of the user's, with ``Config`` and ``Model``, with ``Loss``, or with ``Optimizer``.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, create_model

from jaxrec.config import sections
from jaxrec.config.sections import Config, LossConfig, ModelConfig, OptimizerConfig, Section
from jaxrec.errors import UserError, listed, nearest, shown

MODEL, OPTIMIZER = "gru4rec", "adagrad"  # where none is named
NAMED = ("model", "loss", "optimizer")  # sections whose class their name finds


# ---- names to classes ------------------------------------------------------------------------------------------------


@cache
def models() -> dict[str, type[ModelConfig]]:
    """The section of each model in ``jaxrec.models``, by name."""
    modules = {one.__name__.rpartition(".")[2]: one for one in _modules("jaxrec.models") if hasattr(one, "Model")}
    sections = {name: getattr(module, "Config", None) for name, module in modules.items()}
    return {name: one for name, one in sections.items() if isinstance(one, type) and issubclass(one, ModelConfig)}


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
    found: dict[str, type[LossConfig]] = {}
    for kind in model.losses:
        for one in (kind, *losses().values()):
            if issubclass(one, kind) and _name(one):
                found.setdefault(_name(one), one)
    return found


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
        more = ", or a module of your own" if section == "model" else ""
        raise UserError(f"{section}.name: found {shown(name)}; input should be {allowed}{near}{more}")
    found = getattr(find_module(f"{section}.name", name, attributes), attributes[0])
    if not isinstance(found, type) or not issubclass(found, kind):
        raise UserError(f"{section}.name: {name}.{attributes[0]} is no {kind.__name__}; make it a subclass")
    return found


def find_model(name: Any) -> ModuleType:
    """The module of a model."""
    place = f"jaxrec.models.{name}"  # found without importing the others
    there = isinstance(name, str) and name.isidentifier() and importlib.util.find_spec(place)
    if there and hasattr(importlib.import_module(place), "Config"):
        return importlib.import_module(place)
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


def find_optimizer(name: Any) -> type[OptimizerConfig]:
    """The class of an optimizer."""
    found: type[OptimizerConfig] = _find("optimizer", name, optimizers(), OptimizerConfig, "Optimizer")
    return found


def _modules(package: str) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        yield importlib.import_module(found.name)


def _named(modules: Any, kind: type[Any]) -> dict[str, Any]:
    """The classes of a kind that stand in modules and have a name, by that name."""
    return {
        _name(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__ and _name(value)
    }


def _name(section: type[Section]) -> str:
    """What a class is called in a configuration; empty for one that only others build on."""
    field = section.model_fields["name"]
    return "" if field.is_required() else str(field.default)


# ---- an experiment's class -------------------------------------------------------------------------------------------


def experiment(values: Mapping[str, Any]) -> type[Config]:
    """The class of the configuration that nested ``values`` describe, told by the names in them."""
    parts = {section: part for section in NAMED if isinstance(part := values.get(section), Mapping)}
    names = {section: part["name"] for section, part in parts.items() if "name" in part}
    model = find_model(called := names.get("model", MODEL)).Config
    loss = find_loss(model, called, names.get("loss", next(iter(losses_of(model)))))
    default = model.defaults.get("optimizer", {}).get("name", OPTIMIZER)
    return _experiment(model, loss, find_optimizer(names.get("optimizer", default)))


@cache
def _experiment(
    model: type[ModelConfig], loss: type[LossConfig], optimizer: type[OptimizerConfig]
) -> type[Config]:  # fmt: skip
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


# ---- all that there are ----------------------------------------------------------------------------------------------


def all_sections() -> Iterator[tuple[str, str, type[Section]]]:
    """Section, model and class of each that there is; those of losses and optimizers for each model."""
    for called, model in models().items():
        for name in Config.model_fields:
            own = {"model": [model], "loss": losses_of(model).values(), "optimizer": optimizers().values()}
            for kind in own.get(name, [None]):
                yield name, called, section_of(model, name, kind)


def owners(place: str, config: type[Config]) -> tuple[list[str], str]:
    """Who has ``section.field``, where a configuration of this class has it not, and what has to be another for it:
    the names of losses that its model takes, and ``loss``; of optimizers, and ``optimizer``; or of models, and
    ``model``."""
    section, _, field = place.partition(".")
    model: Any = config.model_fields["model"].annotation
    kinds: Any = losses_of(model) if section == "loss" else optimizers() if section == "optimizer" else {}
    if found := [name for name, kind in kinds.items() if field in section_of(model, section, kind).model_fields]:
        return found, section
    having = (name for part, name, kind in all_sections() if part == section and field in kind.model_fields)
    return list(dict.fromkeys(having)), "model"
