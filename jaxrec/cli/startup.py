"""What is looked at before a command imports anything: that the command exists, and what jaxrec needs is installed.

Only the standard library is imported here. ``jaxrec/__init__`` calls ``check`` where Python was started with
``-m jaxrec…``, and ``check_packages`` for the benchmark; whoever imports jaxrec gets Python's own ImportError.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

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
    elif package == "jaxrec" and name:
        with suppress(ImportError):  # a parent is missing, or the module is gone
            if importlib.util.find_spec(f"jaxrec.{name}"):
                return
        _exit(no_such_command(name, f"python -m jaxrec.{name}"))


def check_packages() -> None:
    """Exit with one line and status 2 where a package that all commands need is not installed."""
    if absent := [package for package in needed() if not _installed(package)]:
        _exit(missing(absent))


def needed() -> list[str]:
    """The packages that jaxrec requires; none are known of a copy that is not installed."""
    requirements = (metadata.requires("jaxrec") or []) if _installed("jaxrec") else []
    return [re.split(r"[^\w.-]", one)[0] for one in requirements if "extra ==" not in one]


def no_such_command(name: str, called: str) -> str:
    """What to say of a command that does not exist."""
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    meant = f" (did you mean '{called.removesuffix(name)}{close[0]}'?)" if close else ""
    return f"{called}: no such command{meant}; 'python -m jaxrec' lists them"


def missing(packages: Sequence[str]) -> str:
    """What to say of packages that are not installed, and what to do."""
    install = f"pip install {' '.join(packages)}" if len(packages) < 4 else "pip install -e . (in the clone of jaxrec)"
    verb = "are" if len(packages) > 1 else "is"
    return f"jaxrec needs {listed(packages)}, which {verb} not installed; source .venv/bin/activate, or {install}"


def missing_module(error: ImportError) -> str:
    """What to say where a package could not be imported when it was needed; empty where it was something else."""
    module = (error.name or "jaxrec").partition(".")[0]
    if module == "jaxrec" or not isinstance(error, ModuleNotFoundError):
        return ""
    return missing(["scikit-learn" if module == "sklearn" else module])


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _exit(line: str) -> None:
    print(f"jaxrec: error: {line}", file=sys.stderr)
    raise SystemExit(2)
