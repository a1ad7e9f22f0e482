"""The experiment as frozen, validated types: data, model, loss, optimizer, training, evaluation.

A YAML file gives the values, ``--section.field value`` overrides them, and the resolved result is written to the run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from jaxrec.cli.options import no_such_option
from jaxrec.cli.yaml_text import parse_yaml, read_yaml
from jaxrec.config.sections import (
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RecommendationConfig,
    Rule,
    TrainingConfig,
)
from jaxrec.errors import UserError, nearest, shown

EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]")

__all__ = [
    "Config", "DataConfig", "EvaluationConfig", "LossConfig", "MeshConfig", "ModelConfig", "OptimizerConfig",
    "RecommendationConfig", "Rule", "TrainingConfig",
    "choices", "dump", "fields", "load", "number", "parse",
]  # fmt: skip


def load(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``--section.field value`` pairs, and validate.

    Raises:
        UserError: naming the field, what was found, what is allowed, and the nearest name.
    """
    path = Path(file)
    values = read_yaml(path, "the configuration")
    sections = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(part, dict) and all(isinstance(name, str) for name in part) for part in sections):
        raise UserError(f"{path}: expected sections with fields, such as 'data:' with 'path: …' under it")
    return override(values, overrides, str(path))


def override(values: dict[str, dict[str, Any]], overrides: Sequence[str], source: str) -> Config:
    """Validate sections of fields in which ``--section.field value`` pairs win.

    Args:
        source: of ``values``, for messages; what is wrong in a pair is blamed on the pair.
    """
    pairs = _pairs(overrides)
    whole = {section: dict(fields) for section, fields in values.items()}
    for name, value in pairs:
        section, _, field = name.partition(".")
        whole.setdefault(section, {})[field] = value
    try:
        return parse(whole, source="")
    except UserError as error:
        message = str(error).removeprefix(": ")
    place = message.partition(": ")[0]
    if place in dict(pairs):
        raise UserError(f"--{message}")
    if pairs and place.partition(".")[0] in values:
        parse(values, source)  # is it wrong by itself, or beside what is given?
        source = f"{source} with {' and '.join(f'--{name} {shown(value)}' for name, value in pairs)}"
    raise UserError(f"{source}: {message}")


def parse(values: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a nested dictionary.

    Raises:
        UserError: one line for the first field that is wrong.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None
    except UserError as error:  # of data.path
        raise UserError(f"{source}: {error}") from None
    for section, part in values.items():
        for name, value in part.items() if isinstance(part, dict) else ():
            result = getattr(getattr(config, section), name)
            results = result if isinstance(result, tuple) else (result,)
            for one, becomes in zip(value if isinstance(value, (list, tuple)) else [value], results, strict=True):
                if isinstance(one, bool):  # not 1 or 0
                    raise UserError(f"{source}: {section}.{name}: found {shown(value)}; input should be a number")
                if isinstance(one, str) and isinstance(becomes, (int, float)) and LEADING_ZERO.match(one.strip()):
                    raise UserError(f"{source}: {section}.{name}: found {shown(one)}, which some read as octal; write "
                                    f"{becomes}")  # fmt: skip
    return config


def dump(config: Config) -> str:
    """The configuration as YAML that ``load`` reads back to an equal ``Config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def fields() -> dict[str, tuple[Any, str]]:
    """Every ``section.field`` with its default (None where it is required) and its description."""
    table = {}
    for section, info in Config.model_fields.items():
        for name, field in info.annotation.model_fields.items():  # type: ignore[union-attr]
            table[f"{section}.{name}"] = (None if field.is_required() else field.default, field.description or "")
    return table


def choices(name: str) -> tuple[str, ...]:
    """The names that ``section.field`` allows; empty where it is no choice of names."""
    section, field = name.split(".")
    annotation = Config.model_fields[section].annotation.model_fields[field].annotation  # type: ignore[union-attr]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """``["--a.b", "1", "--c.d=2"]`` as ``[("a.b", 1), ("c.d", 2)]``; several values make a list."""
    pairs: list[tuple[str, list[str]]] = []
    for word in overrides:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            pairs.append((name, [value] if given else []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise UserError(f"{shown(word)}: expected --section.field value")
    known = fields()
    said: dict[str, str] = {}
    for name, words in pairs:
        if name not in known:
            raise UserError(f"{no_such_option(f'--{name}', fields=known)}; --help lists them")
        if not words:
            raise UserError(f"--{name}: a value is missing")
        if name in said:
            raise UserError(
                f"--{name}: given twice, as {shown(said[name])} and {shown(' '.join(words))}; leave one out"
            )
        said[name] = " ".join(words)
    return [(name, _value(name, words)) for name, words in pairs]


def _value(name: str, words: list[str]) -> Any:
    if name == "data.path":  # a directory may be called 2024
        return " ".join(words)
    values = [parse_yaml(word, f"--{name} {shown(word)}", lines=False) for word in words]
    if _several(name) and not (len(values) == 1 and (isinstance(values[0], list) or values[0] is None)):
        return values
    if len(values) > 1:
        raise UserError(f"--{name}: one value expected, found {shown(' '.join(words))}")
    return values[0] if str in _types(name) else number(values[0])


def _several(name: str) -> bool:
    """Whether ``section.field`` takes a list."""
    return any(get_origin(part) is tuple for part in _types(name))


def _types(name: str) -> list[Any]:
    """What ``section.field`` may be, without bounds."""
    section, field = name.split(".")
    annotation = Config.model_fields[section].annotation.model_fields[field].annotation  # type: ignore[union-attr]
    return [
        get_args(part)[0] if get_origin(part) is Annotated else part for part in (annotation, *get_args(annotation))
    ]


def number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a string; users mean a number."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    loc = [part for part in problem["loc"] if part not in ("str", "int", "float")]  # of a union, not of the user's
    in_rule = loc[:1] == ["recommendation"]
    place = ".".join(str(part)[:100] for part in loc if in_rule or not isinstance(part, int))
    if problem["type"] == "extra_forbidden":
        known = set(Config.model_fields) if "." not in place else set(fields())
        return f"{place}: no such field{nearest(place, known)}"
    if problem["type"] == "missing":
        return f"{place}: missing; it has no default"
    if problem["type"] == "string_pattern_mismatch":  # there is one: training.metric
        return (f"{place}: found {shown(problem['input'])}; expected recall, mrr, ndcg or hit_rate at a cut-off, as "
                "recall@20, or auc, log_loss")  # fmt: skip
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not place or problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    hint = ""
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        allowed = [word.strip("' ") for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = nearest(problem["input"], allowed)
    return f"{place}: found {shown(problem['input'])}; {message}{hint}"
