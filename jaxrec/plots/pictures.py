"""What every picture shares: which files it may go to, that it is there whole or not at all, and text without boxes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.errors import UserError

SUFFIXES = (".png", ".pdf", ".svg")
BOXES = ("Last Resort", "LastResort", "Adobe Blank", "Adobe NotDef")  # fonts that have a box for every character


def check_picture(out: Path) -> None:
    """Refuse a place where no picture can go, before anything is worked out."""
    if out.suffix.lower() not in SUFFIXES:
        found = f"'{out.suffix}'" if out.suffix else "a name without suffix"
        raise UserError(f"--out {out}: found {found}; end it in {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise UserError(f"--out {out}: a directory; name a file in it")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no directory {out.parent}; make it first, or choose another place")


def save_picture(figure: Any, file: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure; the suffix says in which format."""
    part = file.with_name(f".{file.name}.part")
    try:
        figure.savefig(part, format=file.suffix[1:].lower(), dpi=dpi)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


# ---- text ------------------------------------------------------------------------------------------------------------


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

    The fonts that matplotlib is set to use come first (DejaVu Sans, which has no Korean, unless the user chose
    another); what they lack is taken from the first installed font that has all of it.

    Args:
        text: such as a name in the data, in any script.
        fallback: what to show instead; its characters must be those of the usual font.
    """
    from matplotlib.font_manager import FontProperties

    families = list(FontProperties().get_family())
    usual = [_glyphs(file) for family in families if (file := _font_file(family)) is not None]
    missing = set(text) - {"\n"} - frozenset().union(*usual or [_glyphs(_font_file(None))])
    if not missing:
        return Shown(text, families)
    for file, family in _installed():
        # Its family may be drawn with another of its files.
        if missing <= _glyphs(file) and missing <= _glyphs(_font_file(family)):
            return Shown(text, [*families, family])
    return Shown(fallback, families)


def titled(figure: Any, title: str) -> None:
    """Give a matplotlib figure a title; a question mark stands for what no font can show."""
    legible(title, title.encode("ascii", "replace").decode()).on(figure.suptitle("", fontsize=11))


def _installed() -> list[tuple[Any, str]]:
    """Files and families of the installed fonts, those of upright letters first."""
    from matplotlib.font_manager import fontManager

    fonts = [font for font in fontManager.ttflist if not font.name.startswith(BOXES)]
    return [(font.fname, font.name) for font in sorted(fonts, key=lambda font: (font.style != "normal", font.name))]


def _font_file(family: str | None) -> Any:
    """The file that draws a family, that of the default font for None; None where there is no such family."""
    from matplotlib.font_manager import FontProperties, findfont

    try:
        return findfont(FontProperties(family=family), fallback_to_default=family is None)
    except ValueError:
        return None


@cache
def _glyphs(file: Any) -> frozenset[str]:
    """The characters that a font file can draw; none of no file, or one that cannot be read."""
    from matplotlib.font_manager import get_font

    if file is None:
        return frozenset()
    try:
        return frozenset(chr(code) for code, glyph in get_font(file).get_charmap().items() if glyph)
    except (OSError, RuntimeError):
        return frozenset()
