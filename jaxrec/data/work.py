"""Work in pieces beside an output, so that what is killed goes on with the pieces that are not finished.

A piece is finished when its JSON file is there: what came out, and the checksums of the files that belong to it. The
directory is hidden beside the output, and is removed when that is whole. Work on other input, or with other choices,
begins anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrec.cli.command import say
from jaxrec.data.store import file_entry, is_right, read_sealed, write_sealed

ABOUT = "work.json"


@contextmanager
def work_beside(out: Path, about: dict[str, Any]) -> Iterator[Path]:
    """The directory of the pieces of ``out``, which the caller owns; ``about`` is what they depend on, as JSON."""
    out = Path(os.path.realpath(out))
    folder, about = out.with_name(f".{out.name}.work"), json.loads(json.dumps(about, default=str))
    try:
        same = read_sealed(folder / ABOUT)["about"] == about
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if not same:
        if any(folder.glob("*/*.json")):
            say("note", f"{folder}: is of other files or choices, and begins anew")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_sealed(folder / ABOUT, {"about": about})
    for attempt in [*folder.glob(".*"), *folder.glob("*/.*")]:
        shutil.rmtree(attempt, ignore_errors=True)
    if any(folder.glob("*/*.json")):
        say("note", f"{out}: goes on where it stopped, with what {folder} has")
    try:
        yield folder
    except BaseException:
        if any(folder.glob("*/*.json")):
            say("note", f"{folder}: holds what is finished; the same command goes on from there, or remove it")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def finished(place: Path, name: str) -> Any:
    """What came out of a piece; None where it is not finished, or one of its files is damaged."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        piece = read_sealed(place / f"{name}.json")
        if all(is_right(place / file, entry["sha256"]) for file, entry in piece["files"].items()):
            return piece["result"]
    return None


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A directory of one attempt at a piece of ``place``; another attempt, of a process that was thought dead, has
    another one."""
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finish(place: Path, name: str, made: Path, result: Any) -> None:
    """Put all files of the directory ``made`` into ``place``, and say that the piece is finished."""
    files = {}
    for file in sorted(file for file in made.rglob("*") if file.is_file()):
        inner = str(file.relative_to(made))
        files[inner] = file_entry(file)
        (place / inner).parent.mkdir(parents=True, exist_ok=True)
        file.replace(place / inner)
    write_sealed(place / f"{name}.json", {"result": result, "files": files})
