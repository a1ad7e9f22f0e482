"""The table of personas: the words that tell one, and the distributions of its customers' attributes.

``personas.yaml`` beside this file is the default table and says how one is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic import model_validator as checks

from jaxrec.cli.yaml_text import read_yaml
from jaxrec.errors import UserError, explained, nearest

DEFAULT = Path(__file__).with_name("personas.yaml")
UNNAMED = "persona_"  # begins the name of a persona that has no rule; its number follows
LARGEST = 2**53  # whole numbers up to here are exact as float64
BOUNDS = {"low", "high"}
LONGEST = 200  # bytes of an attribute's name, which is that of a file

Text = Annotated[str, Field(strict=True, pattern=r"\S")]
Whole = Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]


class Range(BaseModel):
    """A whole number from ``low`` to ``high``: uniform, or normal with ``mean`` and ``deviation``, cut to the range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Number | None = None
    deviation: Annotated[float, Field(strict=True, gt=0, le=LARGEST)] | None = None
    low: Whole
    high: Whole

    @checks(mode="after")
    def _fits(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}; exchange them")
        if (self.mean is None) != (self.deviation is None):
            raise ValueError("a number has low and high, or mean, deviation, low and high")
        if self.mean is not None and not self.low <= self.mean <= self.high:
            raise ValueError(f"mean {self.mean:g} is not from low {self.low} to high {self.high}")
        return self


Choices = dict[Text, Annotated[float, Field(strict=True, gt=0, le=LARGEST)]]
"""Text, each value with its weight."""


def _kind(attribute: Any) -> str:
    if isinstance(attribute, Range):
        return "int"
    keys = set(attribute) if isinstance(attribute, dict) else set()
    return "int" if keys & BOUNDS and keys <= set(Range.model_fields) else "str"


def _file_name(name: str) -> str:
    if "/" in name or "\0" in name or len(name.encode()) > LONGEST:
        raise ValueError(f"expected a name without a / and of at most {LONGEST} bytes")
    return name


# Tags that ``explained`` leaves out of the place.
Attribute = Annotated[
    Annotated[Range, Tag("int")] | Annotated[Choices, Tag("str"), Field(min_length=1)], Discriminator(_kind)
]


class Rule(BaseModel):
    """A persona of the table.

    Attributes:
        name, title: for programs and for people.
        words: that its reviews use more than others do.
        attributes: distribution by name; every rule of a table has the same names, of the same kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", exclude=True)
    title: Text
    words: Annotated[list[Text], Field(min_length=1)]
    attributes: Annotated[dict[Annotated[Text, AfterValidator(_file_name)], Attribute], Field(min_length=1)]

    def as_json(self) -> dict[str, Any]:
        """What ``parse_rules`` takes as the entry of this name."""
        return self.model_dump(exclude_none=True)


def validated(kind: Any, value: Any, source: str, advice: str = "") -> Any:
    """``value`` as the type ``kind``; a message begins with ``source`` and ends with ``advice``."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{source}: {explained(error)}{advice}") from None


def read_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """The rules of a YAML file, in its order; of the default table where ``path`` is None."""
    path = DEFAULT if path is None else path
    return parse_rules(read_yaml(path, "the personas"), str(path))


def parse_rules(entries: Any, source: str) -> tuple[Rule, ...]:
    """The rules of a mapping from names to titles, words and attributes, as YAML and JSON files hold it."""
    table = Annotated[dict[Text, Rule], Field(min_length=1)]
    found = validated(table, entries, source, "; see jaxrec/personas/personas.yaml for how a table is written")
    rules = tuple(rule.model_copy(update={"name": name}) for name, rule in found.items())
    first = rules[0]
    for rule in rules:
        if re.fullmatch(UNNAMED + r"\d+", rule.name):
            raise UserError(f"{source}: {rule.name}: the name of a persona without a rule; choose another one")
        for name in [*first.attributes, *rule.attributes]:
            for lacks, other in ((rule, first), (first, rule)):
                if name not in lacks.attributes:
                    raise UserError(f"{source}: {lacks.name}.attributes: no '{name}'{nearest(name, lacks.attributes)}, "
                                    f"which {other.name} has; give all personas the same attributes")  # fmt: skip
            if type(rule.attributes[name]) is not type(first.attributes[name]):
                raise UserError(f"{source}: {rule.name}.attributes.{name}: of another kind than in {first.name}; an "
                                "attribute is a number, or text with weights, in all")  # fmt: skip
    return rules
