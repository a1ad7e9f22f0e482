"""What every picture shares: which files it may go to, and that it is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxrec.errors import UserError

SUFFIXES = (".png", ".pdf", ".svg")


def check_picture(out: Path) -> None:
    """Refuse a place where no picture can go, before anything is worked out.

    Raises:
        UserError: of another suffix, a directory, or in none that exists.
    """
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
