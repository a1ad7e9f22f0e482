"""One process at a time owns a run, a data set that is being prepared, or a search.

The lock is flock's, on a hidden file beside the place, so that the place itself may be renamed and deleted. It goes
with the process, however that ends; a file that a killed process leaves says nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxrec.cli.command import say
from jaxrec.errors import UserError

LONGEST = 240  # bytes of a name that leave room for what is put around it


@contextmanager
def owned(place: Path, does: str, otherwise: str) -> Iterator[None]:
    """Own ``place``, which need not exist, until the block ends.

    Missing parents are made, and go again where nothing is in them at the end.

    Args:
        does: what the other process would be doing there, such as "trains this run".
        otherwise: what to do instead of waiting for it.
    """
    place = Path(os.path.realpath(place))
    made = _make_parents(place, otherwise)
    try:
        file = lock_file(place)
        descriptor = _acquire(file, place, does, otherwise)
        try:
            yield
        finally:
            if descriptor is not None:
                file.unlink(missing_ok=True)  # while it is held: whoever waits finds another file under its name
                os.close(descriptor)
    finally:
        for parent in reversed(made):
            try:
                parent.rmdir()
            except OSError:
                break


def lock_file(place: Path) -> Path:
    """The file beside a place that is locked for it."""
    name = place.name
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return place.with_name(f".{name}.lock")


def _make_parents(place: Path, otherwise: str) -> list[Path]:
    made: list[Path] = []
    for parent in reversed(place.parents):
        try:
            parent.mkdir()
            made.append(parent)
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(f"{place}: a parent of it is a file; {otherwise}") from None
        except OSError as error:
            if not parent.is_dir():  # mkdir of a directory that is there may be refused as well
                for directory in reversed(made):
                    directory.rmdir()
                raise UserError(f"{place}: cannot be made ({error.strerror}); {otherwise}") from None
    return made


def _acquire(file: Path, place: Path, does: str, otherwise: str) -> int | None:
    """The descriptor that holds the lock; None where the file system has none."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            _say_unlocked(place, error)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                _say_unlocked(place, error)
                return None
            raise UserError(f"{place}: another process{owner} {does}; wait for it, or {otherwise}") from None
        if _is_there(file, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its owner ended between the two calls, and took the file along


def _say_unlocked(place: Path, error: OSError) -> None:
    say("note", f"{place}: cannot be locked here ({error.strerror}); see to it that no other process works on it")


def _owner(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode(errors="replace")
    return f" (pid {text})" if text.isdecimal() else ""


def _is_there(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False
