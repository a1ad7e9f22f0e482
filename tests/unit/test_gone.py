"""Imports of what has moved fail with one line that names the new place, which is there."""

from __future__ import annotations

import importlib

import pytest

from jaxrec import gone


@pytest.mark.parametrize(("old", "new"), (gone.MOVED | gone.RENAMED).items())
def test_an_import_of_what_is_gone_names_the_new_place(old: str, new: str) -> None:
    module, _, name = old.rpartition(".")
    with pytest.raises(ImportError, match=f"^{old} is gone; its place is {new} .*$"):
        exec(f"import {old}" if old in gone.MOVED else f"from {module} import {name}")
    place, _, name = new.rpartition(".")
    if old in gone.MOVED:
        importlib.import_module(new)
    else:
        assert hasattr(importlib.import_module(place), name)
