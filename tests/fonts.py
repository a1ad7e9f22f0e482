"""Fonts made for tests: no Korean one may be installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from matplotlib import font_manager

KOREAN = "Korean Squares"


def add_korean(patch: pytest.MonkeyPatch, folder: Path, characters: str) -> None:
    """Let matplotlib know a font with the Hangul among ``characters``, called ``KOREAN``, and one with less of it."""
    patch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    hangul = "".join(sorted({letter for letter in characters if letter > "\u1100"}))
    for name, letters in (("A Korean Half", hangul[:2]), (KOREAN, hangul)):
        font_manager.fontManager.addfont(write_font(folder / f"{name}.ttf", letters))


def write_font(file: Path, characters: str) -> Path:
    """A font that draws each of some characters as a square."""
    pen = TTGlyphPen(None)
    for number, corner in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.moveTo if not number else pen.lineTo)(corner)
    pen.closePath()
    names = {ord(one): f"uni{ord(one):04X}" for one in characters}
    order = [".notdef", *names.values()]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys(order, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(order, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": file.stem, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(file)
    return file
