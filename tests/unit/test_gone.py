"""Imports of what has moved fail with one line that names the new place, which is there."""

from __future__ import annotations

import importlib
import sys

import pytest

from jaxrec import gone


@pytest.mark.parametrize(("old", "new"), [*gone.MOVED.items(), *gone.RENAMED.items()])
def test_an_import_of_what_is_gone_names_the_new_place(old: str, new: str) -> None:
    package, _, name = old.rpartition(".")
    with pytest.raises(ImportError, match=f"{old} is gone; its place is {new} ") as caught:
        importlib.import_module(old) if old in gone.MOVED else getattr(importlib.import_module(package), name)
    assert "\n" not in str(caught.value)
    if new in gone.MOVED.values():
        importlib.import_module(new)
    else:
        module, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_a_name_that_is_gone_is_told_and_others_are_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gone.RENAMED, "jaxrec.cli.wording.Listed", "jaxrec.cli.wording.listed")
    monkeypatch.delitem(sys.modules, "jaxrec.cli.wording")
    with pytest.raises(ImportError, match=r"jaxrec\.cli\.wording\.Listed is gone"):
        exec("from jaxrec.cli.wording import Listed")
    with pytest.raises(ImportError, match="cannot import name 'other'"):
        exec("from jaxrec.cli.wording import other")
