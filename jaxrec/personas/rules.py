"""The table of personas: the words that tell one, and the distributions of its customers' attributes.

``personas.yaml`` beside this file is the default table and says how one is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.cli.yaml_text import read_yaml
from jaxrec.errors import UserError, nearest, shown

DEFAULT = Path(__file__).with_name("personas.yaml")
UNNAMED = "persona_"  # begins the name of a persona that has no rule; its number follows
PARTS = ("title", "words", "attributes")
UNIFORM, NORMAL = ("low", "high"), ("mean", "deviation", "low", "high")
LARGEST = 2**53  # whole numbers up to here are exact as float64


@dataclass(frozen=True)
class Range:
    """A whole number from ``low`` to ``high``: uniform, or normal with ``mean`` and ``deviation``, cut to the range."""

    low: int
    high: int
    mean: float | None = None
    deviation: float | None = None

    def as_json(self) -> dict[str, Any]:
        bounds: dict[str, Any] = {"low": self.low, "high": self.high}
        return bounds if self.mean is None else {"mean": self.mean, "deviation": self.deviation, **bounds}


@dataclass(frozen=True)
class Choices:
    """One of ``values``, drawn in proportion to ``weights``."""

    values: tuple[str, ...]
    weights: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        return dict(zip(self.values, self.weights, strict=True))


@dataclass(frozen=True)
class Rule:
    """A persona of the table.

    Attributes:
        name, title: for programs and for people.
        words: that its reviews use more than others do.
        attributes: distribution by name; every rule of a table has the same names, of the same kinds.
    """

    name: str
    title: str
    words: tuple[str, ...]
    attributes: Mapping[str, Range | Choices]

    def as_json(self) -> dict[str, Any]:
        """What ``parse_rules`` takes as the entry of this name."""
        attributes = {name: one.as_json() for name, one in self.attributes.items()}
        return {"title": self.title, "words": list(self.words), "attributes": attributes}


def read_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """The rules of a YAML file, in its order; of the default table where ``path`` is None."""
    path = DEFAULT if path is None else path
    return parse_rules(read_yaml(path, "the personas"), str(path))


def parse_rules(entries: Any, source: str) -> tuple[Rule, ...]:
    """The rules of a mapping from names to titles, words and attributes, as YAML and JSON files hold it."""
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{source}: found {_short(entries)}; expected personas by name, each with {_list(PARTS)}")
    rules = tuple(_rule(source, name, entry) for name, entry in entries.items())
    first = rules[0]
    for rule in rules[1:]:
        place = f"{source}: {rule.name}.attributes"
        for name in [*first.attributes, *rule.attributes]:
            if name not in rule.attributes or name not in first.attributes:
                lacks, other = (rule, first) if name not in rule.attributes else (first, rule)
                raise UserError(f"{place}: {lacks.name} has no '{name}'{nearest(name, lacks.attributes)}, "
                                f"{other.name} has; give all personas the same attributes")  # fmt: skip
            if type(rule.attributes[name]) is not type(first.attributes[name]):
                kinds = [_kind(one.attributes[name]) for one in (rule, first)]
                raise UserError(f"{place}.{name}: {kinds[0]}, but {kinds[1]} in {first.name}; an attribute is of one "
                                "kind")  # fmt: skip
    return rules


def _rule(source: str, name: Any, entry: Any) -> Rule:
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{source}: found the persona name {_short(name)}; expected text; put it in quotes")
    if re.fullmatch(UNNAMED + r"\d+", name):
        raise UserError(f"{source}: {name}: the name of a persona without a rule; choose another one")
    place = f"{source}: {name}"
    if not isinstance(entry, dict):
        raise UserError(f"{place}: found {_short(entry)}; expected {_list(PARTS)}")
    for key in entry:
        if key not in PARTS:
            raise UserError(f"{place}: no '{key}' here{nearest(str(key), PARTS)}; there are {_list(PARTS)}")
    for key in PARTS:
        if key not in entry:
            raise UserError(f"{place}: '{key}' is missing; there have to be {_list(PARTS)}")
    title, words, attributes = (entry[key] for key in PARTS)
    if not isinstance(title, str) or not title.strip():
        raise UserError(f"{place}.title: found {_short(title)}; expected text")
    if not isinstance(words, list) or not words:
        raise UserError(f"{place}.words: found {_short(words)}; expected a list of at least one word")
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"{place}.words[{number}]: found {_short(word)}; expected text; put it in quotes")
    if not isinstance(attributes, dict) or not attributes:
        raise UserError(f"{place}.attributes: found {_short(attributes)}; expected a mapping such as "
                        "age: {low: 20, high: 39}")  # fmt: skip
    return Rule(name, title, tuple(words), {
        attribute: _attribute(f"{place}.attributes", attribute, one) for attribute, one in attributes.items()
    })  # fmt: skip


def _attribute(place: str, name: Any, entry: Any) -> Range | Choices:
    # Values of text become a file of this name.
    if not isinstance(name, str) or not name.strip() or "/" in name or "\0" in name or len(name.encode()) > 200:
        raise UserError(f"{place}: found the name {_short(name)}; expected text without a / and of at most 200 bytes")
    place = f"{place}.{name}"
    if not isinstance(entry, dict) or not entry:
        raise UserError(f"{place}: found {_short(entry)}; expected {{low: …, high: …}} or values with weights, such as "
                        "{dry: 2, oily: 1}")  # fmt: skip
    return (
        _range(place, entry) if set(entry) & {"low", "high"} and set(entry) <= set(NORMAL) else _choices(place, entry)
    )


def _range(place: str, entry: dict[Any, Any]) -> Range:
    wanted = NORMAL if set(entry) - set(UNIFORM) else UNIFORM
    for key in wanted:
        if key not in entry:
            raise UserError(f"{place}: '{key}' is missing; a number has low and high, or mean, deviation, low and high")
        number = entry[key]
        whole = key in UNIFORM
        if not _is_number(number) or abs(number) > LARGEST or (whole and number != int(number)):
            raise UserError(f"{place}.{key}: found {_short(number)}; expected a {'whole ' if whole else ''}number")
    low, high = int(entry["low"]), int(entry["high"])
    if low > high:
        raise UserError(f"{place}: low {low} is above high {high}; exchange them")
    if wanted == UNIFORM:
        return Range(low, high)
    mean, deviation = float(entry["mean"]), float(entry["deviation"])
    if not low <= mean <= high:
        raise UserError(f"{place}.mean: found {mean:g}; expected a number from low {low} to high {high}")
    if deviation <= 0:
        raise UserError(
            f"{place}.deviation: found {deviation:g}; expected more than 0, or leave out mean and deviation"
        )
    return Range(low, high, mean, deviation)


def _choices(place: str, entry: dict[Any, Any]) -> Choices:
    for value, weight in entry.items():
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: found the value {_short(value)}; expected text; put it in quotes")
        if not _is_number(weight) or not 0 < weight <= LARGEST:
            raise UserError(f"{place}.{value}: found the weight {_short(weight)}; expected a number above 0")
    return Choices(tuple(entry), tuple(float(weight) for weight in entry.values()))


def _is_number(value: Any) -> bool:
    """Whether it is one and finite; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (
        isinstance(value, int) or math.isfinite(value))  # fmt: skip


def _kind(attribute: Range | Choices) -> str:
    return "a number" if isinstance(attribute, Range) else "values with weights"


def _list(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _short(value: Any) -> str:
    """A value as a message shows it."""
    return "nothing" if value is None else shown(value)
