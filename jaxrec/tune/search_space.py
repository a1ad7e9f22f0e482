"""What python -m jaxrec.tune searches: fields of the configuration with their choices or ranges, from a YAML file."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from jaxrec import config as configuration
from jaxrec.cli.yaml_text import read_yaml
from jaxrec.config import Config, number
from jaxrec.errors import UserError, nearest, shown
from jaxrec.ops.parallel import make_mesh

RANGE = ("low", "high", "log", "step")
EXAMPLE = "'optimizer.learning_rate: {low: 0.001, high: 0.1, log: true}' or 'model.embedding_dim: {choices: [16, 32]}'"
SAME_FOR_ALL = (
    "data.path", "data.validation_fraction", "data.protocol", "data.split_seed", "data.test_fraction",
    "training.metric", "evaluation.ties",
)  # fmt: skip
"""Fields that say what the value of a trial is measured on, and how: with several of them values mean nothing."""
COMBINATIONS = 2000  # so many at most are validated before the search


@dataclass(frozen=True)
class Parameter:
    """A field of the configuration that is searched.

    Attributes:
        field: ``section.field``.
        choices: what it may be; empty for a range.
        low, high: of a range, both included; integers where only integers are meant.
        log: whether the range is searched by the logarithm.
        step: between two values of the range; None: any.
    """

    field: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None

    @property
    def labels(self) -> list[Any]:
        """The choices as Optuna stores them: lists as text."""
        plain = (str, int, float, type(None))
        return [one if isinstance(one, plain) else json.dumps(one, default=str) for one in self.choices]

    def suggest(self, trial: Any) -> None:
        """Let a trial draw it, unless it has it already."""
        if self.choices:
            trial.suggest_categorical(self.field, self.labels)
        elif isinstance(self.low, int):
            trial.suggest_int(self.field, self.low, self.high, step=self.step or 1, log=self.log)
        else:
            trial.suggest_float(self.field, self.low, self.high, step=self.step, log=self.log)

    def value(self, stored: Any) -> Any:
        """The configuration's value of what Optuna stores."""
        return self.choices[self.labels.index(stored)] if self.choices else stored

    def probes(self) -> list[Any]:
        """Values that stand for all of them: every choice; both ends of a range and one within."""
        if self.choices:
            return list(self.choices)
        if self.step is not None or isinstance(self.low, int):
            within = min(self.low + (self.step or 1), self.high)
        else:
            within = math.sqrt(self.low * self.high) if self.log else self.low + (self.high - self.low) * 0.381966
        return [self.low, within, self.high]


@dataclass(frozen=True)
class Space:
    """A tuning space.

    Attributes:
        source: the file, for messages.
        entries: what the file says, by field.
        parameters: the fields with several values.
        fixed: the fields with a single one, which is that of all trials.
    """

    source: str
    entries: dict[str, Any]
    parameters: tuple[Parameter, ...]
    fixed: dict[str, Any]

    def config(self, base: Config, stored: Mapping[str, Any]) -> Config:
        """The configuration of a trial.

        Args:
            base: gives the fields that are not in the space.
            stored: Optuna's value of each parameter.
        """
        return self._with(base, {one.field: one.value(stored[one.field]) for one in self.parameters})

    def check(self, base: Config) -> Config:
        """Validate the values, all combinations of them where they are not too many; returns one configuration."""
        names = [one.field for one in self.parameters]
        found = [self._with(base, dict(zip(names, values, strict=True))) for values in self._combinations()]
        for batch in {config.training.batch_size for config in found}:
            make_mesh(base.mesh.data, batch)  # a trial in the middle of the search is late to be told
        return found[0]

    def _combinations(self) -> Iterator[tuple[Any, ...]]:
        """Of the values of all parameters: all, or each value at least once and some more."""
        values = [one.probes() for one in self.parameters]
        if math.prod(map(len, values)) <= COMBINATIONS:
            yield from itertools.product(*values)
            return
        longest, draw = max(map(len, values)), random.Random(0)
        yield from (tuple(own[i % len(own)] for own in values) for i in range(longest))
        yield from (tuple(draw.choice(own) for own in values) for _ in range(COMBINATIONS - longest))

    def _with(self, base: Config, values: dict[str, Any]) -> Config:
        # Only what was set: another model or loss has fields and defaults of its own.
        sections = base.model_dump(mode="json", exclude_unset=True)
        for name, value in (self.fixed | values).items():
            section, _, field = name.partition(".")
            sections.setdefault(section, {})[field] = value
        return configuration.parse(sections, source=self.source)


def load_space(file: str | Path, base: Config | None = None) -> Space:
    """Read a tuning space: ``section.field`` with ``choices`` or with ``low``, ``high``, ``log`` and ``step``.

    Args:
        base: the configuration that is tuned, which may have fields of a model of the user's.
    """
    entries = _read(Path(file))
    known = configuration.fields() | (configuration.fields(type(base)) if base is not None else {})
    for name in entries:
        if name not in known:
            section = name in Config.model_fields
            hint = f"; write section.field, such as {EXAMPLE}" if section else nearest(name, known)
            raise UserError(f"{file}: {name}: no such field{hint}")
    parameters, fixed = [], {}
    for name, entry in entries.items():
        one = _parameter(f"{file}: {name}", name, entry)
        single = len(one.choices) == 1 or (not one.choices and one.low == one.high)
        if single:
            fixed[name] = one.probes()[0]
            continue
        if name in SAME_FOR_ALL:
            raise UserError(f"{file}: {name}: several values make the trials' results incomparable; give a single "
                            "choice or leave it to the configuration")  # fmt: skip
        parameters.append(one)
    if not parameters:
        raise UserError(f"{file}: an empty tuning space, no field has several values; add one, such as {EXAMPLE}")
    return Space(str(file), entries, tuple(parameters), fixed)


def _read(path: Path) -> dict[str, Any]:
    entries = read_yaml(path, "the tuning space")
    if entries is None:
        entries = {}
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise UserError(f"{path}: expected fields with their choices or ranges, such as {EXAMPLE}")
    return entries


def _parameter(place: str, name: str, entry: Any) -> Parameter:
    """One field of the space; ``place`` begins the messages."""
    if not isinstance(entry, dict):
        raise UserError(f"{place}: found {shown(entry)}; expected 'choices: […]', or 'low: …' and 'high: …'")
    for key in entry:
        if key not in ("choices", *RANGE):
            raise UserError(f"{place}: no '{key}' here{nearest(str(key), ('choices', *RANGE))}; there are choices, or "
                            "low, high, log and step")  # fmt: skip
    if "choices" not in entry:
        return _range(place, name, entry)
    if len(entry) > 1:
        also = ", ".join(key for key in RANGE if key in entry)
        raise UserError(f"{place}: choices and {also} exclude each other; leave one out")
    choices = entry["choices"]
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{place}: choices: found {shown(choices)}; give a list of at least one value")
    if not name.startswith("data."):  # a directory may be called 1e3
        choices = [number(one) for one in choices]
    for index, one in enumerate(choices):
        if one in choices[:index]:
            raise UserError(f"{place}: choices: {shown(one)} is there twice; leave one out")
    return Parameter(name, tuple(choices))


def _range(place: str, name: str, entry: dict[str, Any]) -> Parameter:
    numbers = {key: number(entry[key]) for key in ("low", "high", "step") if entry.get(key) is not None}
    for key in ("low", "high"):
        if key not in numbers:
            raise UserError(f"{place}: {key}: missing; a range has low and high (for single values give choices)")
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{place}: {key}: found {shown(value)}; a number is expected")
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{place}: log: found {shown(log)}; give true or false")
    if not all(isinstance(value, int) for value in numbers.values()):
        numbers = {key: float(value) for key, value in numbers.items()}
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low > high:
        raise UserError(f"{place}: low {low} is more than high {high}; exchange them")
    if log and low <= 0:
        raise UserError(f"{place}: low: found {low}; with log it must be above 0")
    if log and step is not None:
        raise UserError(f"{place}: log and step exclude each other; leave one out")
    if step is not None:
        _check_step(place, low, high, step)
    return Parameter(name, (), low, high, log, step)


def _check_step(place: str, low: float, high: float, step: float) -> None:
    """Decimal numbers as the user writes them: 0.3 is three times 0.1."""
    if step <= 0:
        raise UserError(f"{place}: step: found {step}; it must be above 0")
    first, last, by = (Decimal(str(value)) for value in (low, high, step))
    if (last - first) % by:
        reached = first + (last - first) // by * by
        raise UserError(f"{place}: high: {high} is not reached from {low} by steps of {step}; give {reached} or "
                        f"{reached + by}")  # fmt: skip
