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
