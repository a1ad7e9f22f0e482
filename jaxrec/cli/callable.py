"""Modules that are called as their function: ``from jaxrec import train`` gives the module once it is imported."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(module: str) -> None:
    """Let the module ``a.b`` be called as its function ``b``."""
    sys.modules[module].__class__ = _CallableModule
