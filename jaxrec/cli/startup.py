"""What is looked at before a command imports anything: that the command exists, and what jaxrec needs is installed.

Only the standard library is imported here. ``jaxrec/__init__`` calls ``check`` where Python was started with
``-m jaxrec…``, and ``check_packages`` for the benchmark; whoever imports jaxrec gets Python's own ImportError.
"""

from __future__ import annotations

import difflib
import importlib.util
import shlex
import sys
from collections.abc import Iterable, Sequence

from jaxrec.errors import listed

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
FOLDERS = ("tune", "plots")  # commands that are folders
NEEDED = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pyarrow", "duckdb", "pydantic", "PyYAML",
    "rich", "tensorboardX", "matplotlib", "lark",
)  # fmt: skip
"""Packages of which every command may import something."""
OPTIONAL = ("optuna", "sentence-transformers", "scikit-learn", "streamlit", "tensorflow-datasets", "pandas")
"""Packages that a command imports when they are asked for."""
MODULES = {"orbax-checkpoint": "orbax.checkpoint", "PyYAML": "yaml", "scikit-learn": "sklearn"}  # of another name


def module_of(name: str) -> str:
    """The module with the ``main`` of a command."""
    return f"jaxrec.{name}.__main__" if name in FOLDERS else f"jaxrec.{name}"


def check(words: Sequence[str]) -> None:
    """Exit with one line and status 2 where the command does not exist, or cannot be imported.

    Args:
        words: the command line of the process, as ``sys.orig_argv`` has it.
    """
    after = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-m"]
    attached = [word[2:] for word in words if word.startswith("-m") and word != "-m"]
    package, _, name = ([*after, *attached] or [""])[0].partition(".")
    if package == "jaxrec" and name in COMMANDS:
        check_packages()
    elif package == "jaxrec" and name and not _exists(f"jaxrec.{name}"):
        _exit(no_such_command(name, f"python -m jaxrec.{name}"))


def check_packages() -> None:
    """Exit with one line and status 2 where a package is not installed."""
    if absent := [package for package in NEEDED if not _exists(_module(package))]:
        _exit(missing(absent))


def no_such_command(name: str, called: str) -> str:
    """What to say of a command that does not exist."""
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    meant = f" (did you mean '{called.removesuffix(name)}{close[0]}'?)" if close else ""
    return f"{called}: no such command{meant}; 'python -m jaxrec' lists them"


def missing(packages: Iterable[str]) -> str:
    """What to say of packages that are not installed, and what to do."""
    names = list(packages)
    install = f"pip install {shlex.join(names)}" if len(names) < 4 else "pip install -e . (in the clone of jaxrec)"
    verb = "are" if len(names) > 1 else "is"
    return f"jaxrec needs {listed(names)}, which {verb} not installed; source .venv/bin/activate, or {install}"


def missing_module(error: ImportError) -> str:
    """What to say where an import of one of the packages failed; empty where it was something else."""
    packages = {_module(package): package for package in (*NEEDED, *OPTIONAL)}
    package = packages.get(error.name or "") or packages.get((error.name or "").partition(".")[0])
    return missing([package]) if package and isinstance(error, ModuleNotFoundError) else ""


def _module(package: str) -> str:
    return MODULES.get(package, package.replace("-", "_"))


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or somebody forbids it
        return False


def _exit(line: str) -> None:
    print(f"jaxrec: error: {line}", file=sys.stderr)
    raise SystemExit(2)
