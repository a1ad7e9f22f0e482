"""What python -m jaxrec.tune searches: fields of the configuration with their choices or ranges, from a YAML file."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jaxrec import config as configuration
from jaxrec.cli.text import read_yaml
from jaxrec.config import Config
from jaxrec.errors import UserError, explained, nearest
from jaxrec.ops.parallel import make_mesh

EXAMPLE = "'optimizer.learning_rate: {low: 0.001, high: 0.1, log: true}' or 'model.embedding_dim: {choices: [16, 32]}'"
SAME_FOR_ALL = (
    "data.path", "data.validation_fraction", "data.protocol", "data.split_seed", "data.test_fraction",
    "training.metric",
)  # fmt: skip
"""Fields that say what the value of a trial is measured on, and how: with several of them values mean nothing."""
COMBINATIONS = 2000  # at most so many are validated before the search


class Parameter(BaseModel):
    """A field of the configuration that is searched: ``choices``, or the range from ``low`` to ``high``, both
    included, of integers where both are. A range is searched by its logarithm (``log``) or in steps (``step``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.choices is None) == (self.low is None or self.high is None) or (self.choices and self.low is not None):
            raise ValueError("give choices, or low and high")
        if self.low is None or self.high is None:
            return self
        if self.low > self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError(f"found low {self.low} and high {self.high}; low is at most high, and with log above 0, "
                             "without step")  # fmt: skip
        return self

    @property
    def labels(self) -> list[Any]:
        """The choices as Optuna stores them: lists as text."""
        plain = (str, int, float, type(None))
        return [one if isinstance(one, plain) else json.dumps(one, default=str) for one in self.choices or ()]

    def suggest(self, trial: Any, field: str) -> None:
        """Let a trial draw a value, unless it has one already."""
        if self.choices:
            trial.suggest_categorical(field, self.labels)
        elif all(isinstance(one, int) for one in (self.low, self.high, self.step or 1)):
            trial.suggest_int(field, self.low, self.high, step=self.step or 1, log=self.log)
        else:
            trial.suggest_float(field, float(self.low or 0), float(self.high or 0), step=self.step, log=self.log)

    def value(self, stored: Any) -> Any:
        """The configuration's value of what Optuna stores."""
        return self.choices[self.labels.index(stored)] if self.choices else stored

    def probes(self) -> list[Any]:
        """Values that stand for all of them: every choice; both ends of a range and one within."""
        low, high = self.low or 0, self.high or 0
        if self.choices or low == high:
            return list(self.choices or [low])
        if self.step is not None or (isinstance(low, int) and isinstance(high, int)):
            return [low, min(low + (self.step or 1), high), high]
        return [low, math.sqrt(low * high) if self.log else low + (high - low) * 0.381966, high]


@dataclass(frozen=True)
class Space:
    """What the file ``source`` says by field (``entries``): fields with several values, and with a single one."""

    source: str
    entries: dict[str, Any]
    parameters: dict[str, Parameter]
    fixed: dict[str, Any]

    def config(self, base: Config, stored: Mapping[str, Any]) -> Config:
        """The configuration of a trial: ``base`` with Optuna's ``stored`` value of each parameter."""
        return self._with(base, {name: one.value(stored[name]) for name, one in self.parameters.items()})

    def check(self, base: Config) -> Config:
        """Validate the values, all combinations of them where they are not too many; returns one configuration."""
        probes = [one.probes() for one in self.parameters.values()]
        every = [tuple(one[i % len(one)] for one in probes) for i in range(max(map(len, probes)))]  # each value once
        every += itertools.islice(itertools.product(*probes), COMBINATIONS)
        configs = [self._with(base, dict(zip(self.parameters, values, strict=True))) for values in every]
        for batch in {config.training.batch_size for config in configs}:
            make_mesh(base.mesh.data, batch)  # a trial in the middle of the search is late to be told
        return configs[0]

    def _with(self, base: Config, values: dict[str, Any]) -> Config:
        # Only what was set: another model or loss has fields and defaults of its own.
        sections = base.model_dump(mode="json", exclude_unset=True)
        for name, value in (self.fixed | values).items():
            section, _, field = name.partition(".")
            sections.setdefault(section, {})[field] = value
        return configuration.parse(sections, source=self.source)


def load_space(file: str | Path, base: Config | None = None) -> Space:
    """Read a tuning space: ``section.field`` with ``choices`` or with ``low``, ``high``, ``log`` and ``step``, of the
    fields that jaxrec or the configuration ``base`` has."""
    entries = read_yaml(Path(file), "the tuning space") or {}
    known = configuration.fields() | (configuration.fields(type(base)) if base is not None else {})
    parameters: dict[str, Parameter] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if name not in known:
            raise UserError(f"{file}: {name}: no such field{nearest(str(name), known)}; write such as {EXAMPLE}")
        try:
            parameters[name] = Parameter.model_validate(entry)
        except ValidationError as error:
            there = f"; there are {', '.join(Parameter.model_fields)}"
            raise UserError(f"{file}: {name}: {explained(error, there)}") from None
    fixed = {name: one.probes()[0] for name, one in parameters.items() if len(one.probes()) == 1}
    parameters = {name: one for name, one in parameters.items() if name not in fixed}
    if not parameters:
        raise UserError(f"{file}: an empty tuning space: no field has several values; add one, such as {EXAMPLE}")
    if several := [name for name in SAME_FOR_ALL if name in parameters]:
        raise UserError(f"{file}: {several[0]}: several values make the trials' results incomparable; give a single "
                        "choice or leave it to the configuration")  # fmt: skip
    return Space(str(file), entries, parameters, fixed)
