"""Imports of what has moved fail with one line that names the new place, which is there."""

from __future__ import annotations

import importlib

import pytest

from jaxrec import gone


@pytest.mark.parametrize(("old", "new"), gone.MOVED.items())
def test_an_import_of_what_is_gone_names_the_new_place(old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"^{old} is gone; its place is {new} .*$"):
        importlib.import_module(old)
    importlib.import_module(new)
