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

from jaxrec.cli.wording import listed
from jaxrec.config.sections import (
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RecommendationConfig,
    Section,
    TrainingConfig,
)
from jaxrec.errors import UserError, nearest, shown

MODEL, OPTIMIZER = "gru4rec", "adagrad"  # where none is named
SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig, "training": TrainingConfig, "evaluation": EvaluationConfig,
    "recommendation": RecommendationConfig, "mesh": MeshConfig,
}  # fmt: skip
"""Sections that are the same for all losses and optimizers of a model."""


# ---- names to classes ------------------------------------------------------------------------------------------------


@cache
def models() -> dict[str, type[ModelConfig]]:
    """The section of each model in ``jaxrec.models``, by name."""
    found = {}
    for module in _modules("jaxrec.models"):
        section = getattr(module, "Config", None)
        if hasattr(module, "Model") and isinstance(section, type) and issubclass(section, ModelConfig):
            found[module.__name__.rpartition(".")[2]] = section
    return found


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
        own = {_name(kind): kind} if _name(kind) else {}
        for name, loss in (own | {name: one for name, one in losses().items() if issubclass(one, kind)}).items():
            found.setdefault(name, loss)
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
    for attribute in attributes:
        if not hasattr(module, attribute):
            raise UserError(f"{field}: {name} has no {attribute}; a module of your own has {listed(attributes)}")
    return module


def _users_own(field: str, name: Any, attribute: str, kind: type[Section], *more: str) -> ModuleType | None:
    """The module of the user's with a class of a kind; None where the name has no dot."""
    if not isinstance(name, str) or "." not in name:
        return None
    module = find_module(field, name, (attribute, *more))
    value = getattr(module, attribute)
    if not isinstance(value, type) or not issubclass(value, kind):
        raise UserError(f"{field}: {name}.{attribute} is no {kind.__name__}; make it a subclass")
    return module


def find_model(name: Any) -> ModuleType:
    """The module of a model."""
    if module := _users_own("model.name", name, "Config", ModelConfig, "Model"):
        for attribute in ("task", "losses"):
            if not hasattr(module.Config, attribute):
                raise UserError(f"model.name: {name}.Config has no {attribute}; see jaxrec.config.sections.ModelConfig")
        return module
    if isinstance(name, str) and name.isidentifier():
        place = f"jaxrec.models.{name}"  # found without importing the others
        if importlib.util.find_spec(place) and hasattr(importlib.import_module(place), "Config"):
            return importlib.import_module(place)
    raise UserError(f"model.name: {_expected(name, models())}, or a module of your own")


def find_task(model: type[ModelConfig] | ModelConfig) -> ModuleType:
    """The folder of a model's task."""
    if "." in model.task:
        return find_module(f"model.name: task {model.task}", model.task, ("READS",))
    return importlib.import_module(f"jaxrec.tasks.{model.task}")


def find_loss(model: type[ModelConfig], called: str, name: Any) -> type[LossConfig]:
    """The class of a loss, for a model that is ``called`` so."""
    known = losses_of(model)
    if isinstance(name, str) and name in known:
        return known[name]
    if module := _users_own("loss.name", name, "Loss", LossConfig):
        loss: type[LossConfig] = module.Loss
        kinds = tuple(kind for kind in model.losses if not _name(kind))
        if not issubclass(loss, kinds):
            takes = listed([kind.__name__ for kind in kinds], "or") if kinds else "none but its own"
            raise UserError(f"loss.name: {called} cannot be trained with {name}; its losses are {takes}")
        return loss
    if having := [other for other, section in models().items() if name in list(losses_of(section))]:
        raise UserError(f"loss.name: found {shown(name)}, but it belongs to {listed(having)}; choose "
                        f"{listed(list(known), 'or')} for {called}")  # fmt: skip
    raise UserError(f"loss.name: {_expected(name, known)}")


def find_optimizer(name: Any) -> type[OptimizerConfig]:
    """The class of an optimizer."""
    if module := _users_own("optimizer.name", name, "Optimizer", OptimizerConfig):
        own: type[OptimizerConfig] = module.Optimizer
        return own
    if not isinstance(name, str) or name not in optimizers():
        raise UserError(f"optimizer.name: {_expected(name, optimizers())}")
    return optimizers()[name]


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


def _expected(name: Any, known: Mapping[str, Any]) -> str:
    allowed = listed([repr(one) for one in known], "or")
    return f"found {shown(name)}; input should be {allowed}{nearest(name, known) if isinstance(name, str) else ''}"


# ---- an experiment's class -------------------------------------------------------------------------------------------


def experiment(values: Mapping[str, Any]) -> type[Config]:
    """The class of the configuration that nested ``values`` describe, told by the names in them."""

    def name(section: str, default: str) -> Any:
        part = values.get(section)
        return part.get("name", default) if isinstance(part, Mapping) else default

    called = name("model", MODEL)
    model = find_model(called).Config
    loss = find_loss(model, called, name("loss", next(iter(losses_of(model)))))
    optimizer = find_optimizer(name("optimizer", model.defaults.get("optimizer", {}).get("name", OPTIMIZER)))
    return _experiment(model, loss, optimizer)


@cache
def _experiment(
    model: type[ModelConfig], loss: type[LossConfig], optimizer: type[OptimizerConfig]
) -> type[Config]:  # fmt: skip
    kinds = {**SECTIONS, "model": model, "loss": loss, "optimizer": optimizer}
    fields: dict[str, Any] = {}
    for name in Config.model_fields:
        part = section_of(model, name, kinds[name])
        fields[name] = (part, ... if name == "data" else Field(default_factory=part))
    return create_model("Config", __base__=Config, **fields)


@cache
def section_of(model: type[ModelConfig], name: str, kind: type[Section]) -> type[Section]:
    """A section's class: what all share, what the model's task adds and what the model adds, with its defaults."""
    whole: type[Section] = getattr(find_task(model), name.capitalize(), kind) if name in SECTIONS else kind
    more = model.sections.get(name)
    defaults = model.defaults.get(name, {})
    changed: dict[str, Any] = {}
    for field in [field for field in defaults if field != "name" and field in whole.model_fields]:
        info = whole.model_fields[field]
        kept: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        changed[field] = (kept, Field(defaults[field], description=info.description))
    if more is None and not changed:
        return whole
    bases = whole if more is None else (more, whole)
    return create_model(whole.__name__, __base__=bases, __doc__=whole.__doc__, **changed)


# ---- all that there are ----------------------------------------------------------------------------------------------


def all_sections() -> Iterator[tuple[str, str, type[Section]]]:
    """Section, model and class of each that there is; those of losses and optimizers for each model."""
    for called, model in models().items():
        kinds: list[tuple[str, type[Section]]] = [("data", SECTIONS["data"]), ("model", model)]
        kinds += [("loss", loss) for loss in losses_of(model).values()]
        kinds += [("optimizer", optimizer) for optimizer in optimizers().values()]
        kinds += [(name, kind) for name, kind in SECTIONS.items() if name != "data"]
        for name, kind in kinds:
            yield name, called, section_of(model, name, kind)


def owners(place: str, config: type[Config]) -> tuple[list[str], str]:
    """Who has ``section.field``, where a configuration of this class has it not, and what has to be another for it:
    the names of losses that its model takes, and ``loss``; of optimizers, and ``optimizer``; or of models, and
    ``model``."""
    section, _, field = place.partition(".")
    model: Any = config.model_fields["model"].annotation
    kinds: Mapping[str, type[Section]] = (
        losses_of(model) if section == "loss" else optimizers() if section == "optimizer" else {}
    )
    found = [name for name, kind in kinds.items() if field in section_of(model, section, kind).model_fields]
    if found:
        return found, section
    having = (name for part, name, kind in all_sections() if part == section and field in kind.model_fields)
    return list(dict.fromkeys(having)), "model"
