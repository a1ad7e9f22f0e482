"""What every command shares: exit statuses, one-line errors, progress bars."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from jaxrec.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, like every other error of a user's making."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see '{self.prog} --help'")


def command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` and turn what a user can cause into one line on stderr.

    Returns:
        The exit status: 0; 2 for a mistake that the user can mend (also a full disk); 130 after Ctrl-C.
    """
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"jaxrec: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as in "… | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # ValueError and friends stay tracebacks: those are bugs. These few are the user's machine.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        file = error.filename2 or error.filename  # of a copy the second is the one that is written
        place = f" at {file}" if file else ""
        print(f"jaxrec: error: {os.strerror(error.errno)}{place}; free or choose another place", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxrec: interrupted", file=sys.stderr)
        return 130
    return 0


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; silent when stderr is not a terminal.

    Yields:
        ``update(advance=1, note="")``: move on by ``advance`` units of ``total`` and show ``note``.
    """
    if not sys.stderr.isatty():
        yield lambda advance=1, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(advance: float = 1, note: str = "") -> None:
            bar.update(task, advance=advance, note=note)

        yield update
