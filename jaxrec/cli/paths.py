"""Which texts can be paths, so that a bad one is refused before anything is made."""

from __future__ import annotations

import os

from jaxrec.errors import UserError, shown

LONGEST_NAME, LONGEST_PATH = 255, 3800  # bytes; file systems take 4,095, of which a checkpoint's files need some


def check_path(place: str, path: str) -> str:
    """Returns ``path``; ``place`` begins a message."""
    if not path:
        raise UserError(f"{place}: found an empty path; give one")
    name = max(len(name.encode()) for name in check_text(place, path).split("/"))
    size = len(os.path.abspath(path).encode())
    if name > LONGEST_NAME:
        raise UserError(f"{place}: {shown(path)} holds a name of {name:,} bytes; at most {LONGEST_NAME} are allowed")
    if size > LONGEST_PATH:
        raise UserError(f"{place}: {shown(path)} is a path of {size:,} bytes; at most {LONGEST_PATH:,} are allowed")
    return path


def check_text(place: str, text: str) -> str:
    """Returns ``text``; ``place`` begins a message."""
    if "\0" in text:
        raise UserError(f"{place}: {shown(text)} holds a NUL character; leave it out")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place}: {shown(text)} holds bytes that are not UTF-8; name it in UTF-8")
    return text
