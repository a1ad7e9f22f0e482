"""Which texts can be paths, so that a bad one is refused before anything is made."""

from __future__ import annotations

import os

from jaxrec.errors import UserError, shown

LONGEST_NAME = 255  # bytes that file systems take
LONGEST_PATH = 3800  # they take 4,095; the rest is for the files in it, of which a checkpoint's are the deepest


def check_path(place: str, path: str) -> str:
    """Returns ``path``."""
    if not path:
        raise UserError(f"{place}: found an empty path; give one")
    check_text(place, path)
    longest = max(len(name.encode()) for name in path.split("/"))
    if longest > LONGEST_NAME:
        raise UserError(f"{place}: {shown(path)} holds a name of {longest:,} bytes; at most {LONGEST_NAME} are allowed")
    size = len(os.path.abspath(path).encode())
    if size > LONGEST_PATH:
        raise UserError(f"{place}: {shown(path)} is a path of {size:,} bytes; at most {LONGEST_PATH:,} are allowed")
    return path


def check_text(place: str, text: str) -> str:
    """Returns ``text``."""
    if "\0" in text:
        raise UserError(f"{place}: {shown(text)} holds a NUL character; leave it out")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place}: {shown(text)} holds bytes that are not UTF-8; name it in UTF-8")
    return text
