"""What processes that train one run have to agree on: that none has failed, and that all train the same."""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxrec.cli.hosts import Ranks, agreed
from jaxrec.config import Config
from jaxrec.data.store import checksum
from jaxrec.errors import UserError, shown
from jaxrec.ops import hosts

HOUSE = Path(__file__).resolve().parent.parent
SEEN = 60  # s
PLURAL = ("options", "libraries")  # of what can differ
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def meet(ranks: Ranks | None) -> None:
    """Learn the names of all processes' hosts; the first exchange, by which their devices are connected."""
    if ranks is not None:
        ranks.rank = 0 if hosts.first() else ranks.rank
        ranks.names[:] = hosts.said(socket.gethostname())


@contextmanager
def together() -> Iterator[None]:
    """Inside, where processes exchange nothing, an error of one is the end of all: the first process prints its line,
    and the others end with it."""
    if not hosts.several():
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    line = str(failure) if isinstance(failure, UserError) else failure and f"{type(failure).__name__}: {failure}"
    lines = hosts.said([socket.gethostname(), line])
    rank, (host, line) = next(((rank, one) for rank, one in enumerate(lines) if one[1] is not None), (0, ("", None)))
    if failure is not None and not isinstance(failure, UserError):
        raise agreed(failure)  # whose traceback is of this process alone
    if line is not None:
        refuse(rank, host, line)


def refuse(rank: int, host: str, line: str) -> None:
    """End all processes for what was found on one of them, all in the same way; the first one says it."""
    if not hosts.first():
        raise SystemExit(2)
    raise agreed(UserError(line if rank == 0 else f"rank {rank} ({host}): {line}"))


def await_file(file: Path) -> None:
    """Wait until this process sees a file that the first one has made: network file systems take their time."""
    end = time.monotonic() + SEEN
    while not file.is_file():
        if time.monotonic() > end:
            raise UserError(f"{file}: rank 0 has made it, and it cannot be seen here after {SEEN} s; name a --run on a "
                            "file system that all processes share")  # fmt: skip
        time.sleep(0.2)


def check_alike(config: Config, dataset: Any, copied: tuple[str, ...], options: str) -> None:
    """Refuse processes with other configurations, data, code or ``options`` than the first one's. Where the data lie
    may differ. ``copied``: files beside the data set that are read too."""
    if not hosts.several():
        return
    fields = {f"{section}.{name}": value for section, part in config.model_dump(mode="json").items()
              for name, value in part.items() if (section, name) != ("data", "path")}  # fmt: skip
    data = [dataset.manifest["content_hash"], *(checksum(dataset.path / name) for name in copied)]
    mine = {
        "configuration": _digest(repr(sorted(fields.items())).encode()),
        "data set": _digest(repr(data).encode()),
        "code of jaxrec": f"version {sys.modules['jaxrec'].__version__}, sources {_sources(config)}",
        "options": options,
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }
    every = hosts.said([socket.gethostname(), mine])
    for rank, (host, theirs) in enumerate(every):
        for what, value in every[0][1].items():
            if theirs[what] != value:
                _refuse_other(rank, host, what, (theirs[what], value), fields)


def _refuse_other(rank: int, host: str, what: str, found: tuple[str, str], fields: dict[str, Any]) -> None:
    """Refuse a process that differs from the first one in ``what``, of which both hashes or versions were found."""
    line = f"the {what} differ{'' if what in PLURAL else 's'} from rank 0's ({found[0]} there, {found[1]} on rank 0)"
    if what == "configuration":
        everybody = hosts.said(fields)
        former, now = everybody[0], everybody[rank]
        name = next(name for name in former | now if former.get(name) != now.get(name))
        line += f": {name} is {shown(now.get(name))} there, {shown(former.get(name))} on rank 0"
    refuse(rank, host, f"{line}; give all processes the same {what}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _sources(config: Config) -> str:
    """A hash of the package's files, and of the files of a model, loss or optimizer of the user's."""
    files = {str(file.relative_to(HOUSE)): file for file in HOUSE.rglob("*.py")}
    for section in (config.model, config.loss, config.optimizer):
        module = type(section).__module__
        if module.partition(".")[0] != "jaxrec" and (file := getattr(sys.modules[module], "__file__", None)):
            files[module] = Path(file)
    return _digest(b"".join(name.encode() + b"\0" + files[name].read_bytes() + b"\0" for name in sorted(files)))
