"""Fonts made for tests: no Korean one may be installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from matplotlib import font_manager

KOREAN = "Korean Letters"


def add_korean(patch: pytest.MonkeyPatch, folder: Path, characters: str) -> None:
    """Let matplotlib know a font with the Hangul among ``characters``, called ``KOREAN``, and one with less of it; each
    draws an A for any letter."""
    patch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    hangul = sorted({letter for letter in characters if letter > "\u1100"})
    for name, letters in (("A Korean Half", hangul[:2]), (KOREAN, hangul)):
        font = TTFont(font_manager.findfont("DejaVu Sans"))
        font["cmap"].tables = [table for table in font["cmap"].tables if table.isUnicode()]
        for table in font["cmap"].tables:
            table.cmap = dict.fromkeys(map(ord, letters), "A")
        for entry in font["name"].names:
            entry.string = name
        font.save(folder / f"{name}.ttf")
        font_manager.fontManager.addfont(folder / f"{name}.ttf")
