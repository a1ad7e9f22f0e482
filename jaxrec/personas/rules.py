"""The table of personas: the words that tell one, and the distributions of its customers' attributes.

``personas.yaml`` beside this file is the default table and says how one is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic import model_validator as checks

from jaxrec.cli.text import read_yaml
from jaxrec.errors import UserError, explained

DEFAULT = Path(__file__).with_name("personas.yaml")
LARGEST = 2**53  # whole numbers up to here are exact as float64

Text = Annotated[str, Field(strict=True, pattern=r"\S")]
Name = Annotated[str, Field(strict=True, pattern=r"^[^/\s\x00][^/\x00]{0,59}$")]  # also of a file
Whole = Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Weight = Annotated[float, Field(strict=True, gt=0, le=LARGEST)]


class Range(BaseModel):
    """A whole number from ``low`` to ``high``, each as often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Whole
    high: Whole

    @checks(mode="after")
    def _fits(self) -> Self:
        if self.low > self.high:
            raise ValueError("expected low <= high")
        return self


def _kind(attribute: Any) -> str:
    bounds = isinstance(attribute, dict) and set(attribute) <= {"low", "high", "mean", "deviation"}
    return "int" if bounds or isinstance(attribute, Range) else "str"


Choices = Annotated[dict[Text, Weight], Field(min_length=1)]  # text, each value with its weight
# Tags that ``explained`` leaves out of the place.
Attribute = Annotated[Annotated[Range, Tag("int")] | Annotated[Choices, Tag("str")], Discriminator(_kind)]


class Rule(BaseModel):
    """A persona of the table: ``words`` that its reviews use more than others do, and by name distributions of
    ``attributes``, of which every rule of a table has the same names, of the same kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Text
    words: Annotated[list[Text], Field(min_length=1)]
    attributes: Annotated[dict[Name, Attribute], Field(min_length=1)]


Rules = dict[str, Rule]
"""A table by name, in its order."""


def validated(kind: Any, value: Any, source: str) -> Any:
    """``value`` as the type ``kind``; a message begins with ``source``."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{source}: {explained(error)}") from None


def read_rules(path: Path | None = None) -> Rules:
    """The rules of a YAML file by name, in its order; of the default table where ``path`` is None."""
    path = DEFAULT if path is None else path
    return parse_rules(read_yaml(path, "the personas"), str(path))


def parse_rules(entries: Any, source: str) -> Rules:
    """The rules of a mapping from names to titles, words and attributes, as YAML and JSON files hold it."""
    rules: Rules = validated(Annotated[dict[Text, Rule], Field(min_length=1)], entries, source)
    first, *others = ({key: type(kind) for key, kind in rule.attributes.items()} for rule in rules.values())
    for name, kinds in zip(list(rules)[1:], others, strict=True):
        if kinds != first:
            raise UserError(f"{source}: {name}.attributes: {', '.join(kinds)}; {next(iter(rules))} has "
                            f"{', '.join(first)}; give all personas the same ones, of the same kinds")  # fmt: skip
    return rules


def kinds_of(rules: Rules) -> dict[str, Range | dict[str, float]]:
    """The attributes that all rules have, by name, with the distribution of one of them."""
    return next(iter(rules.values())).attributes
