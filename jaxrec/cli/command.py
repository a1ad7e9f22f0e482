"""What every command shares: exit statuses, one-line errors, progress bars."""

from __future__ import annotations

import argparse
import errno
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from jaxrec.cli.help import HelpFormatter
from jaxrec.cli.options import no_such_option
from jaxrec.cli.paths import check_path, check_text
from jaxrec.cli.progress import progress
from jaxrec.cli.startup import missing_module
from jaxrec.errors import UserError, nearest, one_line, shown

PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR}
OPTION = re.compile(r"--?[A-Za-z]")  # how options begin, and negative numbers do not
PATHS = ("DIR", "FILE", "PATH", "RUN")  # metavars of options that are paths

__all__ = ["Parser", "as_json", "command", "progress", "say", "tell"]


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, like every other error of a user's making.

    An option that is given twice is refused, where argparse takes the last without a word, and so is what can be
    neither text nor a path. An option that there is not is told the nearest one before anything that is missing.

    Args:
        fields: what gives the ``section.field`` names that are options too, for messages; ``parse_known_args`` gives
            back any such word with its values, for the configuration to look at.
    """

    def __init__(self, *, fields: Callable[[], Iterable[str]] | None = None, **options: Any) -> None:
        defaults: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(**(defaults | options))
        self.fields = fields
        self.seen: dict[str, Any] = {}  # values by option, of one call
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.seen, known = {}, self._option_string_actions
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break  # what follows is no option, or another parser's
            if OPTION.match(word) and " " not in name and name not in known and not (self.fields and "." in name):
                options = [option for option, action in known.items() if action.help != argparse.SUPPRESS]
                self.error(no_such_option(name, options, self.fields() if self.fields else ()))
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            text = f"invalid choice: {shown(value)}{nearest(str(value), names)}; choose from {', '.join(names)}"
            raise argparse.ArgumentError(action, text)

    def _get_values(self, action: argparse.Action, words: list[str]) -> Any:
        check = check_path if action.metavar in PATHS else check_text
        for word in words if action.nargs not in (argparse.PARSER, argparse.REMAINDER) else ():
            check("/".join(action.option_strings) or action.dest, word)
        return super()._get_values(action, words)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see '{self.prog} --help'")


class _Once(argparse.Action):
    """Stores a value, or the values behind one option, once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if option is not None and self.dest in parser.seen:
            several = "write all its values behind one" if self.nargs in ("*", "+") else "leave one out"
            raise UserError(f"{option}: given twice, as {shown(parser.seen[self.dest])} and {shown(values)}; {several}")
        if option is not None:
            parser.seen[self.dest] = values
        setattr(namespace, self.dest, values)


def command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` and turn what a user can cause into one line on stderr.

    Returns:
        The exit status: 0; 2 for a mistake that the user can mend (also a full disk); 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # an id that PYTHONIOENCODING has no letters for
    try:
        main(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:  # which was closed before we began
            sys.stdout.flush()
        return 0
    except UserError as error:
        line = str(error)
    except ImportError as error:  # of what is imported when it is needed
        line = missing_module(error)
        if not line:
            raise
    except BrokenPipeError:  # the reader of our output has gone, as in "… | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # only those of the user's machine and paths: all others, and ValueErrors, are bugs
        if error.errno not in PLACE | NAME:
            raise
        file = error.filename2 or error.filename  # of a copy the second is the one that is written
        advice = "free or choose another place" if error.errno in PLACE else "name another path"
        line = f"{os.strerror(error.errno)}{f' at {file}' if file else ''}; {advice}"
    except KeyboardInterrupt:
        print("jaxrec: interrupted", file=sys.stderr)
        return 130
    say("error", line)
    return 2


def say(kind: str, text: str) -> None:
    """Print one line on stderr, whatever ids it holds: ``jaxrec: note: …``."""
    print(one_line(f"jaxrec: {kind}: {text}", 1_100), file=sys.stderr)


def tell(text: str) -> None:
    """Print one line on stdout, whatever paths it holds, at once."""
    print(one_line(text), flush=True)


def as_json(value: Any) -> str:
    """JSON on one line; a number that is none (NaN, or infinite) is null, what JSON does not know is text."""
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    try:
        return json.dumps(value, ensure_ascii=ascii_only, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=ascii_only, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
