"""What ``evaluate`` leaves in a run: ``eval-<split>.json``, to which every further evaluation adds.

    {"split": "test", ..., "recall@20": 0.53,   the newest answer, as it was printed
     "question": {"data": ..., "step": ...},    what it answers
     "others": [...]}                           answers to other questions, the newest first, each as the above

An answer to the same question is merged into the one that is there: metrics at other cut-offs, other baselines and
other groups stand beside the first. Another checkpoint, limit, or number of folds is another question, whose answer
stands apart and is never mixed with this one. An answer of an earlier version of jaxrec has no ``question``; it is
taken for one to the same where it is younger than the checkpoint, or shares a figure, and none of its figures differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrec.cli.command import say
from jaxrec.run import write_text
from jaxrec.tasks.report import Result

COUNTS = (
    "split",
    "protocol",
    "targets",
    "rows",
    "items",
    "sessions",
    "of_sessions",
    "candidates",
    "checkpoint",
    "ties",
)
CHANGING = ("seconds", "question", "others")  # keys that say nothing of what was measured


def file_of(run: Path, split: str) -> Path:
    """Where the answers of a split are kept."""
    return run / f"eval-{split}.json"


def read_results(file: Path) -> list[Result]:
    """The answers that a run keeps of a split, the newest first; none where there is no file, or a damaged one."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        first, others = {name: value for name, value in kept.items() if name != "others"}, kept.get("others", [])
        if not all(isinstance(one, dict) and "split" in one for one in (first, *others)):
            raise ValueError("holds no results")
    except (FileNotFoundError, IsADirectoryError):
        return []
    except (OSError, ValueError, AttributeError, TypeError) as error:
        say("note", f"{file}: damaged ({type(error).__name__}), so nothing of it is kept")
        return []
    return [first, *others]


def keep_result(run: Path, result: Result) -> Result:
    """Write a result, with its ``question``, into the run, beside or into what is there; returns what the file says."""
    file = file_of(run, result["split"])
    others = []
    merged = result
    for kept in read_results(file):
        if _answers(kept, result, file, run):
            merged = merge(kept, merged)
        else:
            others.append(kept)
    whole = {**merged, "others": others} if others else merged
    write_text(file, json.dumps(whole, indent=2) + "\n")
    return whole


def kept_or_said(what: Path, write: Callable[[], Any]) -> bool:
    """Write something into a run that may be read-only; where it cannot, a line says so, and False is returned."""
    try:
        write()
    except OSError as error:
        say("note", f"{what}: could not be kept ({error.strerror or error})")
        return False
    return True


def merge(old: Result, new: Result) -> Result:
    """Both, the new one where they differ; tables within them likewise.

    >>> merge({"recall@5": 0.1, "baselines": {"pop": {"recall@5": 0.2}}}, {"baselines": {"bias": {"recall@5": 0.3}}})
    {'recall@5': 0.1, 'baselines': {'pop': {'recall@5': 0.2}, 'bias': {'recall@5': 0.3}}}
    """
    merged = {**old, **new}
    for name in old.keys() & new.keys():
        if isinstance(old[name], dict) and isinstance(new[name], dict) and name != "question":
            merged[name] = merge(old[name], new[name])
    return merged


def _answers(kept: Result, result: Result, file: Path, run: Path) -> bool:
    """Whether a result that is kept answers the question of a new one."""
    asked = json.loads(json.dumps(result["question"]))  # tuples are lists in the file
    if "question" in kept:
        return bool(kept["question"] == asked)
    if any(kept.get(name) != result.get(name) for name in COUNTS):
        return False
    shared = [name for name in kept.keys() & result.keys() if name not in CHANGING and type(result[name]) is float]
    if not all(_close(kept[name], result[name]) for name in shared):
        return False
    state = run / "state" / result["checkpoint"] / str(asked["step"])
    return bool(shared) or (state.exists() and file.stat().st_mtime >= state.stat().st_mtime)


def _close(one: Any, other: float) -> bool:
    return isinstance(one, (int, float)) and math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
