"""The commands, and what is said where a package is missing. Only the standard library is imported here."""

from __future__ import annotations

import sys
from typing import Any

COMMANDS = {
    "prepare": "a dataset directory from raw logs or tables, or from generated data",
    "train": "trains a model as a configuration says, into a run directory",
    "blend": "a run made of trained runs of sessions and nearest neighbours",
    "evaluate": "metrics of a run beside chance and simple methods",
    "recommend": "recommendations of a run for a session, a user or a customer",
    "serve": "recommendations of a run over HTTP",
    "export": "programs, weights and vectors of a run for processes without jaxrec",
    "compile": "what accelerators would run of a configuration, and whether it fits, without one",
    "tune": "searches the values of fields that do best on validation",
    "leaderboard": "baselines and every model that fits a data set, tuned within a budget, in one table",
    "replay": "a raw log's last days answered with and without retraining",
    "plots": "pictures of runs",
    "text": "sentence embeddings of the names of a data set's items",
}
"""What ``python -m jaxrec.NAME`` does."""
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "orbax": "orbax-checkpoint"}  # by module


def module_of(name: str) -> str:
    """The module with the ``main`` of a command."""
    folders = ("tune", "plots", "leaderboard", "serve", "replay")
    return f"jaxrec.{name}.__main__" if name in folders else f"jaxrec.{name}"


def missing_module(error: BaseException) -> str:
    """What to say where a package is not installed; empty where an error is another one."""
    module = (error.name or "jaxrec").partition(".")[0] if isinstance(error, ModuleNotFoundError) else "jaxrec"
    name = DISTRIBUTIONS.get(module, module)
    missing = f"jaxrec needs {name}, which is not installed; source .venv/bin/activate, or pip install {name}"
    return "" if module == "jaxrec" else missing


def excepthook(kind: Any, error: BaseException, trace: Any) -> None:
    """Python's own, but one line and status 2 where what a command imports at once is not installed."""
    if not (line := missing_module(error)):
        return sys.__excepthook__(kind, error, trace)
    print(f"jaxrec: error: {line}", file=sys.stderr)
    raise SystemExit(2)
