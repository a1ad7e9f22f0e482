"""One process at a time owns a run, a data set that is being prepared, or a search: by flock, which goes with the
process, on a hidden file beside the place, so that the place itself may be renamed and deleted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxrec.cli.command import say
from jaxrec.errors import UserError


@contextmanager
def owned(place: Path, does: str, otherwise: str) -> Iterator[None]:
    """Own ``place``, which need not exist, until the block ends; parents are made, and go where they stay empty.
    Another process is told what its owner ``does`` there, and what to do ``otherwise``."""
    place = Path(os.path.realpath(place))
    missing = [parent for parent in place.parents if not parent.is_dir()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{place}: a parent of it is a file; {otherwise}") from None
    descriptor = _acquire(file := lock_file(place), place, does, otherwise)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever waits finds another file under its name
        os.close(descriptor)
        with suppress(OSError):
            for parent in missing:  # the innermost first
                parent.rmdir()


def lock_file(place: Path) -> Path:
    """The file beside a place that is locked for it."""
    return place.with_name(f".{place.name}.lock")


def _acquire(file: Path, place: Path, does: str, otherwise: str) -> int:
    """The descriptor that holds the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode()
            os.close(descriptor)
            raise UserError(f"{place}: another process (pid {owner}) {does}; wait for it, or {otherwise}") from None
        except OSError as error:  # of a file system without locks
            say("note", f"{place}: cannot be locked here ({error.strerror}); let no other process work on it")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(file), os.fstat(descriptor)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        os.close(descriptor)  # its owner ended between the calls, and took the file along
