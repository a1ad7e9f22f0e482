"""What is looked at before a command imports anything: that the command exists, and what jaxrec needs is installed.

Only the standard library is imported here. ``jaxrec/__init__`` calls ``check`` where Python was started with
``-m jaxrec…``, and ``check_packages`` for the benchmark; whoever imports jaxrec gets Python's own ImportError.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from jaxrec.cli.wording import listed

COMMANDS = {
    "prepare": "a dataset directory from raw logs or tables, or from generated data",
    "train": "trains a model as a configuration says, into a run directory",
    "evaluate": "metrics of a run beside chance and simple methods",
    "recommend": "recommendations of a run for a session, a user or a customer",
    "tune": "searches the values of fields that do best on validation",
    "plots": "pictures and tables of runs",
    "text": "sentence embeddings of the names of a data set's items, or of a column",
}
"""What ``python -m jaxrec.NAME`` does."""

NEEDED = {
    "jax": "jax", "jaxlib": "jaxlib", "flax": "flax", "optax": "optax", "orbax.checkpoint": "orbax-checkpoint",
    "numpy": "numpy", "scipy": "scipy", "pyarrow": "pyarrow", "duckdb": "duckdb", "pydantic": "pydantic",
    "yaml": "PyYAML", "rich": "rich", "tensorboardX": "tensorboardX", "matplotlib": "matplotlib",
}  # fmt: skip
"""Modules that every command may import, and the packages that have them."""

OPTIONAL = {
    "optuna": "optuna", "sentence_transformers": "sentence-transformers", "sklearn": "scikit-learn",
    "streamlit": "streamlit", "tensorflow_datasets": "tensorflow-datasets", "pandas": "pandas",
}  # fmt: skip
"""Modules that a command imports when they are asked for."""

MOST = 3  # packages that are named; where more are missing, jaxrec was not installed here


FOLDERS = ("tune", "plots")  # commands that are folders


def module_of(name: str) -> str:
    """The module with the ``main`` of a command."""
    return f"jaxrec.{name}.__main__" if name in FOLDERS else f"jaxrec.{name}"


def check(words: Sequence[str]) -> None:
    """Exit with one line and status 2 where the command does not exist, or cannot be imported.

    Args:
        words: the command line of the process, as ``sys.orig_argv`` has it.
    """
    name = _module(words)
    if name is None:
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (this file can be read by an older one)
        version = ".".join(map(str, sys.version_info[:2]))
        _exit(f"jaxrec needs Python 3.11 or later, this is {version}; {_activation() or 'start it with another one'}")
    if name and name not in COMMANDS:
        if not _found(f"jaxrec.{name}"):
            _exit(no_such_command(name, f"python -m jaxrec.{name}"))
        return
    if name:
        check_packages()


def check_packages() -> None:
    """Exit with one line and status 2 where a package is not installed, now or when it is imported."""
    if absent := [package for module, package in NEEDED.items() if not _found(module)]:
        _exit(missing(absent))
    sys.excepthook = _tell_missing  # a package may be there and lack one that it needs


def _tell_missing(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    line = missing_module(error) if isinstance(error, ImportError) else None
    if line is not None:
        _exit(line)
    sys.__excepthook__(kind, error, trace)


def no_such_command(name: str, called: str) -> str:
    """What to say of a command that there is not."""
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    meant = f" (did you mean '{called.removesuffix(name)}{close[0]}'?)" if close else ""
    return f"{called}: no such command{meant}; 'python -m jaxrec' lists them"


def missing(packages: Iterable[str]) -> str:
    """What to say of packages that are not installed, and what to do."""
    names = list(packages)
    many = len(names) > MOST
    shown = [*names[: MOST - 1], f"{len(names) - MOST + 1} more packages"] if many else names
    install = "pip install -e . (in the clone of jaxrec)" if many else f"pip install {shlex.join(names)}"
    how = f"{_activation()}, or {install}" if _activation() else f"run {install}"
    return f"jaxrec needs {listed(shown)}, which {'are' if len(names) > 1 else 'is'} not installed; {how}"


def missing_module(error: ImportError) -> str | None:
    """What to say where an import of one of the packages failed; None: it was something else."""
    module = error.name or ""
    known = NEEDED | OPTIONAL
    package = known.get(module) or known.get(module.partition(".")[0])
    return missing([package]) if package and isinstance(error, ModuleNotFoundError) else None


def _module(words: Sequence[str]) -> str | None:
    """``train`` of ``python -X dev -m jaxrec.train …``, empty for jaxrec itself; None: of another module."""
    for at, word in enumerate(words[1:], 1):
        if word == "-m" and at + 1 < len(words):
            whole = words[at + 1]
            break
        if word.startswith("-m"):
            whole = word[2:]
            break
    else:
        return None
    package, _, name = whole.partition(".")
    return name if package == "jaxrec" else None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or somebody forbids it
        return False


def _activation() -> str:
    """What to run where an environment stands in the working directory, and this Python is not its own."""
    script = os.path.join(".venv", "bin", "activate")
    inside = os.path.realpath(sys.prefix) == os.path.realpath(".venv")
    return f"run source {script}" if os.path.isfile(script) and not inside else ""


def _exit(line: str) -> None:
    print(f"jaxrec: error: {line}", file=sys.stderr)
    raise SystemExit(2)
