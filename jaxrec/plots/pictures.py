"""What every picture shares: which files it may go to, that it is there whole or not at all, and text without boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jaxrec.run import check_out, written

BOXES = ("Last Resort", "LastResort", "Adobe Blank", "Adobe NotDef")  # fonts that have a box for every character


def check_picture(out: Path) -> None:
    """Refuse a place where no picture can go; before anything is worked out."""
    check_out(out, (".png", ".pdf", ".svg"))


def save_picture(figure: Any, file: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure with all that stands beside its panels; the suffix says in which format."""
    check_picture(file)
    with written(file) as part:
        figure.savefig(part, format=file.suffix[1:].lower(), dpi=dpi, bbox_inches="tight")


def write(artist: Any, text: str) -> None:
    """Let a matplotlib text show this letter by letter (a name may be $x$): what the font that matplotlib is set to use
    lacks, such as Korean, is taken from the first installed font that has all of it; a ? stands for what none has.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    families = list(FontProperties().get_family())
    if missing := set(text) - {"\n"} - _glyphs(findfont(FontProperties())):
        fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.name))
        names = [font.name for font in fonts if not font.name.startswith(BOXES) and missing <= _glyphs(font.fname)]
        families += names[:1]
        text = text if names else "".join("?" if letter in missing else letter for letter in text)
    artist.set(parse_math=False, fontfamily=families, text=text)


def write_ticks(axis: Any, texts: Sequence[str], **style: Any) -> None:
    """Label the places 0, 1, ... of a matplotlib axis; see ``write``."""
    axis.set_ticks(range(len(texts)), texts, **style)
    labels = axis.get_ticklabels()
    for label, text in zip(labels, texts, strict=True):
        write(label, text)
    axis.set_ticklabels([label.get_text() for label in labels])  # which the axis writes anew whenever it is asked


@cache
def _glyphs(file: Any) -> frozenset[str]:
    """The characters that a font file can draw; none of one that cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(chr(code) for code, glyph in get_font(file).get_charmap().items() if glyph)
    except (OSError, RuntimeError):
        return frozenset()
