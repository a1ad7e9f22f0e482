"""What every picture shares: which files it may go to, that it is there whole or not at all, and text without boxes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.run import check_out

SUFFIXES = (".png", ".pdf", ".svg")
BOXES = ("Last Resort", "LastResort", "Adobe Blank", "Adobe NotDef")  # fonts that have a box for every character


def check_picture(out: Path) -> None:
    """Refuse a place where no picture can go, before anything is worked out."""
    check_out(out, SUFFIXES)


def save_picture(figure: Any, file: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure; the suffix says in which format."""
    part = file.with_name(f".{file.name}.part")
    try:
        figure.savefig(part, format=file.suffix[1:].lower(), dpi=dpi)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


class Shown(NamedTuple):
    """Text that can be drawn, and the font families that do so: one after the other is asked for each character."""

    text: str
    family: list[str]

    def on(self, artist: Any) -> None:
        """Let a matplotlib text show this, letter by letter: a name may be $x$."""
        artist.set_parse_math(False)
        artist.set_text(self.text)
        artist.set_fontfamily(self.family)


def legible(text: str, fallback: str) -> Shown:
    """Text as it is where an installed font has its characters, ``fallback`` otherwise.

    The font that matplotlib is set to use comes first (DejaVu Sans, which has no Korean, unless the user chose
    another); what it lacks is taken from the first installed font that has all of it.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    usual = FontProperties()
    families = list(usual.get_family())
    missing = set(text) - {"\n"} - _glyphs(findfont(usual))
    if not missing:
        return Shown(text, families)
    for font in sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.name)):
        if not font.name.startswith(BOXES) and missing <= _glyphs(font.fname):
            return Shown(text, [*families, font.name])
    return Shown(fallback, families)


@cache
def _glyphs(file: Any) -> frozenset[str]:
    """The characters that a font file can draw; none of one that cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(chr(code) for code, glyph in get_font(file).get_charmap().items() if glyph)
    except (OSError, RuntimeError):
        return frozenset()


def titled(figure: Any, title: str) -> None:
    """Give a matplotlib figure a title; a question mark stands for what no font can show."""
    legible(title, title.encode("ascii", "replace").decode()).on(figure.suptitle("", fontsize=11))
