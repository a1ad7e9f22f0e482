"""Modules that can be called as the function of their name: ``from jaxrec import train`` gives the module, once it has
been imported, and ``train(config, run)`` works all the same."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module ``a.b`` that is called as its function ``b``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(module: str) -> None:
    """Let the module of this name be called."""
    sys.modules[module].__class__ = CallableModule
