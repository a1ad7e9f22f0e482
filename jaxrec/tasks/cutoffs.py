"""Cut-offs of the metrics: defaults that nobody gave are lowered to what a small catalogue can rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jaxrec.cli.command import say
from jaxrec.config import Config
from jaxrec.config.finding import find_task
from jaxrec.config.sections import EvaluationConfig
from jaxrec.data.dataset import Dataset
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError
from jaxrec.run import Run
from jaxrec.tasks.vectors import DEFAULT_K

FIELDS = (("evaluation", "k"), ("training", "metric"))  # those that hold cut-offs
DEFAULT_KS = EvaluationConfig().k


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    cutoff = _highest(config.training.metric)
    return sorted({*config.evaluation.k, *([cutoff] if cutoff else [])})


def ranked_items(manifest: dict[str, Any]) -> int:
    """Among how many items a model of a data set ranks the right one."""
    if manifest["kind"] != "rows":
        return int(manifest["counts"]["items"])
    schema = Schema.from_manifest(manifest)
    return next((field.size - 1 for field in schema.fields if field.name == schema.item), 0)  # one is the unknown one


def fit_cutoffs(config: Config, dataset: Dataset | RowsDataset, stored: Config | None = None) -> Config:
    """The configuration with the cut-offs that were not given lowered to the catalogue, which is said in a note.

    Args:
        stored: of a run that is resumed, which goes on with its own where none are given.
    """
    items, task = ranked_items(dataset.manifest), find_task(config.model)
    if hasattr(task, "OWN_ROWS") or dataset.manifest["kind"] != task.READS or not items:
        return config  # the last two do not fit, as is told elsewhere
    default = [(part, name) for part, name in FIELDS if name not in getattr(config, part).model_fields_set]
    if stored is None:
        for part, name in FIELDS:
            if (part, name) not in default and (k := _highest(getattr(getattr(config, part), name))) > items:
                raise UserError(f"{part}.{name}: {k} is more than the {items} items of {dataset.path}; lower it, or "
                                "leave it out")  # fmt: skip
    lowered = {
        ("evaluation", "k"): lowered_ks(config.evaluation.k, items),
        ("training", "metric"): re.sub(r"[0-9]+$", lambda k: str(_lowered(int(k[0]), items)), config.training.metric),
    }
    notes = []
    for part, name in default:
        section, value = getattr(config, part), lowered[part, name]
        before, value = getattr(section, name), value if stored is None else getattr(getattr(stored, part), name)
        if value != before:
            notes.append(f"{part}.{name} is {_words(value)} instead of {_words(before)}")
            config = config.model_copy(update={part: section.model_copy(update={name: value})})
    if notes and stored is None:
        say("note", f"{', '.join(notes)}: in {dataset.path} there {_items(items)}")
    return config


def run_ks(run: Run) -> list[int]:
    """The cut-offs of a run, in ascending order, for a command to which none were given."""
    ks = run.config.evaluation.k
    if hasattr(find_task(run.config.model), "OWN_ROWS") or max(ks) <= (items := ranked_items(run.manifest)):
        return sorted(set(ks))
    if ks != DEFAULT_KS:  # of an earlier version, as is what follows: now training refuses the one, lowers the other
        raise UserError(f"{run.path}: its evaluation.k {max(ks)} is more than its {items} items; give a lower --k")
    return default_ks(items)


def default_ks(items: int) -> list[int]:
    """The default cut-offs, for a command to which none were given, lowered to the catalogue with a note."""
    if max(DEFAULT_KS) > items:
        lowered = lowered_ks(DEFAULT_KS, items)
        say("note", f"--k is {_words(lowered)} instead of {_words(DEFAULT_KS)}: there {_items(items)}")
        return list(lowered)
    return list(DEFAULT_KS)


def default_k(items: int | None, k: int = DEFAULT_K) -> int:
    """How many of so many items a command recommends to which no number was given: all of fewer than k, with a note."""
    if items is None or k <= items:
        return k
    say("note", f"--k is {items} instead of {k}: there {_items(items)}")
    return max(1, items)


def lowered_ks(ks: Sequence[int], items: int) -> tuple[int, ...]:
    """Cut-offs below the number of items, at which a metric says something: the recall at all of them is always 1."""
    if max(ks) < items:
        return tuple(ks)
    return tuple(sorted({k for k in ks if k < items})) or (_lowered(min(ks), items),)


def _lowered(k: int, items: int) -> int:
    """The cut-off where it is below the number of items, or the highest of the default ones that is."""
    if k < items:
        return k
    return max((one for one in DEFAULT_KS if one < min(k, items)), default=max(1, items - 1))


def _highest(value: tuple[int, ...] | str) -> int:
    """The cut-off of a metric, 0 where it has none, or the highest of several."""
    return int(value.partition("@")[2] or 0) if isinstance(value, str) else max(value)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _items(n: int) -> str:
    return f"{'is' if n == 1 else 'are'} {n:,} item{'' if n == 1 else 's'}"
