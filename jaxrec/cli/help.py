"""How ``--help`` looks: no line of prose is wider than the terminal, or than ``WIDEST``."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import Any

WIDEST = 98  # columns
LONGEST_CHOICE = 40  # characters of choices that stand behind an option; more of them stand in its help
COMMANDS = ("python ", "streamlit ", "scripts/", "pip ")  # how lines begin that are to be copied


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, keeps the indented lines of examples and lists apart, and moves long choices into the text."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options | {"width": min(shutil.get_terminal_size().columns - 2, WIDEST)})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(filled(text, width - len(indent)), indent)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str | None) -> Any:
        if not _long(action):
            return super()._metavar_formatter(action, default_metavar)  # type: ignore[arg-type]
        return lambda size: ((default_metavar or action.dest).upper(),) * size

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return f"{text}; one of {', '.join(map(str, action.choices or ()))}" if _long(action) else text


def _long(action: argparse.Action) -> bool:
    """Whether the choices are too many to stand behind the option."""
    return action.metavar is None and len(",".join(map(str, action.choices or ()))) > LONGEST_CHOICE


def filled(text: str, width: int) -> str:
    """Paragraphs filled to ``width``; a line that is indented stays one, and goes on under its own beginning."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.strip("\n").split("\n"), ""]:
        if line.strip() and not line[0].isspace():
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), width, break_on_hyphens=False)
        paragraph = []
        begin = len(line) - len(line.lstrip())
        most = WIDEST if line.lstrip().startswith(COMMANDS) else width
        wrap = textwrap.TextWrapper(most, subsequent_indent=" " * (begin + 4), replace_whitespace=False)
        lines += wrap.wrap(line) or [""]
    return "\n".join(lines).strip("\n")
