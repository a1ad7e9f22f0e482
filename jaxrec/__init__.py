"""jaxrec: session-based and sequential recommenders in JAX, with the training loop on the accelerator.

from jaxrec import Config, Query, Recommender, UserError, blend, evaluate, train
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from jaxrec import gone as _gone
from jaxrec.cli import startup as _startup

if _TYPE_CHECKING:
    from jaxrec.blend import blend as blend
    from jaxrec.config import Config as Config
    from jaxrec.errors import UserError as UserError
    from jaxrec.evaluate import evaluate as evaluate
    from jaxrec.recommend import Recommender as Recommender
    from jaxrec.tasks.query import Answer as Answer
    from jaxrec.tasks.query import Item as Item
    from jaxrec.tasks.query import Query as Query
    from jaxrec.train import train as train

__version__ = "0.2.0"

_PLACES = {  # imported when they are asked for: JAX takes a second
    "Config": "config", "UserError": "errors", "Recommender": "recommend", "Answer": "tasks.query",
    "Item": "tasks.query", "Query": "tasks.query", "evaluate": "", "train": "", "blend": "",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxrec' has no attribute '{name}'")
    place = _PLACES[name]  # none: a module that can be called, see jaxrec.cli.command.make_callable
    found = _importlib.import_module(f"jaxrec.{place or name}")
    return getattr(found, name) if place else found


_gone.install()
_COMMANDS = "scripts/benchmark.py", "/jaxrec"  # the latter is the console command
if _sys.argv and (_sys.argv[0] == "-m" or _sys.argv[0].endswith(_COMMANDS)):  # a command is starting
    _sys.excepthook = _startup.excepthook
