"""jaxrec: session-based and sequential recommenders in JAX, with the training loop on the accelerator.

from jaxrec import Config, Query, Recommender, UserError, evaluate, train
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from jaxrec import gone as _gone

if _TYPE_CHECKING:
    from jaxrec.config import Config as Config
    from jaxrec.errors import UserError as UserError
    from jaxrec.evaluate import evaluate as evaluate
    from jaxrec.recommend import Recommender as Recommender
    from jaxrec.tasks.query import Answer as Answer
    from jaxrec.tasks.query import Item as Item
    from jaxrec.tasks.query import Query as Query
    from jaxrec.train import train as train

__version__ = "0.1.0"

_PLACES = {  # imported when they are asked for: JAX takes a second
    "Config": "config", "UserError": "errors", "Recommender": "recommend", "Answer": "tasks.query",
    "Item": "tasks.query", "Query": "tasks.query", "evaluate": "", "train": "",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxrec' has no attribute '{name}'")
    place = _PLACES[name]  # none: a module that can be called, see jaxrec.cli.callable
    found = _importlib.import_module(f"jaxrec.{place or name}")
    return getattr(found, name) if place else found


_gone.install()


if _sys.argv[:1] == ["-m"]:  # Python looks for the module to run: a missing package is told before the first import
    from jaxrec.cli import startup as _startup

    _startup.check(_sys.orig_argv)
elif _sys.argv and _sys.argv[0].endswith("scripts/benchmark.py"):
    from jaxrec.cli import startup as _startup

    _startup.check_packages()
