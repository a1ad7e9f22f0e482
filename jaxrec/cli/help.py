"""How ``--help`` looks: no line is wider than the terminal, or than ``WIDEST``."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from typing import Any

WIDEST = 98  # columns
LONGEST_CHOICE = 40  # characters of choices that stand behind an option; more of them stand in its help
COMMANDS = ("python ", "streamlit ", "scripts/", "pip ")  # how lines begin that are to be copied
ENTRY = re.compile(r"\s+\S+(?: \S+)* {2,}(?=\S)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, keeps the indented lines of examples and lists apart, and moves long choices into the text."""

    def __init__(self, prog: str, **options: object) -> None:
        options["width"] = columns()
        super().__init__(prog, **options)  # type: ignore[arg-type]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(filled(text, width - len(indent)), indent)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str | None) -> Any:
        if not _long(action):
            return super()._metavar_formatter(action, default_metavar)  # type: ignore[arg-type]
        name = (default_metavar or action.dest).upper()  # None where argparse tries it out
        return lambda size: (name,) * size

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return f"{text}; one of {', '.join(map(str, action.choices or ()))}" if _long(action) else text


def _long(action: argparse.Action) -> bool:
    """Whether the choices are too many to stand behind the option."""
    return action.metavar is None and len(",".join(map(str, action.choices or ()))) > LONGEST_CHOICE


def columns() -> int:
    """Width of help in characters."""
    return min(shutil.get_terminal_size().columns - 2, WIDEST)


def filled(text: str, width: int) -> str:
    """Paragraphs filled to ``width``; a line that is indented stays one.

    What such a line has too much goes under its own beginning, or under the text of an entry (``  name  text``). A
    line that is a command stays as it is, so that it can be copied, up to ``WIDEST``.
    """
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.strip("\n").expandtabs().split("\n"), ""]:
        if line.strip() and not line[0].isspace():
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), width, break_on_hyphens=False)
        paragraph = []
        copied = line.lstrip().startswith(COMMANDS)
        entry = None if copied else ENTRY.match(line)
        below = " " * (entry.end() if entry else len(line) - len(line.lstrip()) + 4 * copied)
        lines += textwrap.wrap(
            line, WIDEST if copied else width, subsequent_indent=below, break_on_hyphens=False, replace_whitespace=False
        ) or [""]
    return "\n".join(lines).strip("\n")
