"""The table of personas: the words that tell one, and the distributions of its customers' attributes.

``personas.yaml`` beside this file is the default table and says how one is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic import model_validator as checks

from jaxrec.cli.text import read_yaml
from jaxrec.errors import UserError, explained

DEFAULT = Path(__file__).with_name("personas.yaml")
UNNAMED = "persona_"  # begins the name of a persona that has no rule; its number follows
LARGEST = 2**53  # whole numbers up to here are exact as float64

Text = Annotated[str, Field(strict=True, pattern=r"\S")]
Whole = Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(strict=True, gt=0, le=LARGEST)]


class Range(BaseModel):
    """A whole number from ``low`` to ``high``: uniform, or normal with ``mean`` and ``deviation``, cut to the range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Number | None = None
    deviation: Positive | None = None
    low: Whole
    high: Whole

    @checks(mode="after")
    def _fits(self) -> Self:
        mean = self.low if self.mean is None else self.mean
        if not self.low <= mean <= self.high or (self.mean is None) != (self.deviation is None):
            raise ValueError("expected low <= high, alone or with low <= mean <= high and a deviation")
        return self


def _kind(attribute: Any) -> str:
    keys = set(attribute) if isinstance(attribute, dict) else {"low"} if isinstance(attribute, Range) else set()
    return "int" if keys & {"low", "high"} and keys <= set(Range.model_fields) else "str"


def _file_name(name: str) -> str:
    if "/" in name or "\0" in name or len(name.encode()) > 200:
        raise ValueError("expected a name without a / and of at most 200 bytes")
    return name


Choices = Annotated[dict[Text, Positive], Field(min_length=1)]  # text, each value with its weight
# Tags that ``explained`` leaves out of the place.
Attribute = Annotated[Annotated[Range, Tag("int")] | Annotated[Choices, Tag("str")], Discriminator(_kind)]


class Rule(BaseModel):
    """A persona of the table: ``words`` that its reviews use more than others do, and by name distributions of
    ``attributes``, of which every rule of a table has the same names, of the same kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", exclude=True)
    title: Text
    words: Annotated[list[Text], Field(min_length=1)]
    attributes: Annotated[dict[Annotated[Text, AfterValidator(_file_name)], Attribute], Field(min_length=1)]


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
    first, *others = ({name: type(kind) for name, kind in rule.attributes.items()} for rule in rules)
    for rule, kinds in zip(rules[1:], others, strict=True):
        if kinds != first:
            raise UserError(f"{source}: {rule.name}.attributes: {', '.join(kinds)}; {rules[0].name} has "
                            f"{', '.join(first)}; give all personas the same ones, of the same kinds")  # fmt: skip
        if re.fullmatch(UNNAMED + r"\d+", rule.name):
            raise UserError(f"{source}: {rule.name}: the name of a persona without a rule; choose another one")
    return rules
