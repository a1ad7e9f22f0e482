"""What every command shares: options, help, exit statuses, one-line errors, what it prints."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import ModuleType
from typing import Any, NoReturn

from jaxrec.cli.startup import missing_module
from jaxrec.cli.text import check_text
from jaxrec.errors import UserError, nearest, one_line

PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR}
WIDEST = 98  # columns of help
EVERY = 10.0  # seconds between two lines of progress
COMMANDS = ("python ", "streamlit ", "scripts/", "pip ")  # how lines of help begin that are to be copied


# ---- running ---------------------------------------------------------------------------------------------------------


def command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` and turn what a user can cause into one line on stderr; returns the exit status: 0; 2 for a
    mistake that the user can mend (also a full disk); 130 after Ctrl-C."""
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
        if not (line := missing_module(error)):
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
    value = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(value, ensure_ascii=not encoding.lower().startswith("utf"))


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(module: str) -> None:
    """Let the module ``a.b`` be called as its function ``b``, since ``from a import b`` may give either."""
    sys.modules[module].__class__ = _CallableModule


# ---- progress --------------------------------------------------------------------------------------------------------


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Callable[..., None]]:
    """A bar or lines on stderr, of work in ``total`` parts (None: unknown). Yields ``update(advance=1, note="")``."""
    if not getattr(sys.stderr, "shows_progress", True):  # see cli.quiet
        yield lambda advance=1, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    terminal, over = sys.stderr is not None and sys.stderr.isatty(), threading.Event()

    def say() -> None:
        while not over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(_line(bar.tasks[0]), file=sys.stderr, flush=True)

    console = Console(stderr=True, quiet=not terminal)  # some versions end a bar that is off with an empty line
    with Progress(*columns, console=console, transient=True, disable=not terminal) as bar:
        number = bar.add_task(title, total=total, note="")
        lines = threading.Thread(target=say, name="progress", daemon=True)
        if not terminal:
            lines.start()
        try:
            yield lambda advance=1, note="": bar.update(number, advance=advance, note=note)
        finally:
            over.set()
            if not terminal:
                lines.join()


def _line(task: Any) -> str:
    """What a line says of a task of rich's."""
    share = f"{task.percentage:.0f} %" if task.total and task.completed else ""
    left = task.time_remaining
    time = timedelta(seconds=round(task.elapsed if left is None else left))
    parts = (task.description, share, task.fields["note"], f"{time} {'so far' if left is None else 'left'}")
    return one_line(", ".join(part for part in parts if part))


# ---- options ---------------------------------------------------------------------------------------------------------


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, and keeps the indented lines of examples and lists apart."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options | {"width": min(shutil.get_terminal_size().columns - 2, WIDEST)})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for line in re.sub(r"(?m)^(\S.*)\n(?=\S)", r"\1 ", text.strip("\n")).split("\n"):
            begin = len(line) - len(line.lstrip())
            most = WIDEST if line.lstrip().startswith(COMMANDS) else width
            after = " " * (begin + 4 if begin else 0)
            lines += textwrap.wrap(line, most, subsequent_indent=after, break_on_hyphens=False) or [""]
        return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, and which refuses an option that is given twice."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(**defaults | options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        seen = set[str]()
        for word in sys.argv[1:] if args is None else args:
            name = check_text(self.prog, word).partition("=")[0]
            if type(self._option_string_actions.get(name)) is argparse._StoreAction and name in seen:
                self.error(f"{name}: given twice; give it once, with all its values")
            seen.add(name)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        for action in self._actions:  # long choices stand in the text
            if action.metavar is None and len(names := ", ".join(map(str, action.choices or ()))) > 40:
                action.metavar, action.help = action.dest.upper(), f"{action.help}; one of {names}"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        before, _, words = message.partition("unrecognized arguments: ")
        near = "" if before else nearest(words.partition(" ")[0].partition("=")[0], self._option_string_actions)
        raise UserError(f"{message}{near}; see '{self.prog} --help'")


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """``["gender=F", "age=25"]`` by name."""
    values: dict[str, str] = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not name or not sign or name in values:
            raise UserError(f"{option} {word}: expected FIELD=VALUE, such as gender=F, and each field once")
        values[name] = value
    return values


def ranged(kind: type, least: float, most: float = 2**31 - 1) -> Callable[[str], Any]:
    """The type of an option: a number of a kind, from ``least`` to ``most``."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"'{text}': expected {what} from {least} to {most}")
        return value

    return number
