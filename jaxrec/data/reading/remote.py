"""Raw files in object stores, by addresses that fsspec knows, such as ``s3://bucket/logs/*``: found, and copied to
the disk of the process that reads them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError, one_line

VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")  # what stores tell objects apart by
INSTALL = "pip install 'jaxrec[cluster]'"


def is_address(name: str) -> bool:
    """Whether a word of ``--raw`` is an address in a store, not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", name) is not None


@contextmanager
def _opened(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and the path in it; whatever goes wrong with them is one line."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{address}: reading from stores needs fsspec, which is not installed; {INSTALL}") from None
    try:
        yield url_to_fs(address)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{address}: {one_line(str(error), 200)}; {INSTALL}") from None
    except Exception as error:  # of whichever library the store's client is built on
        reason = one_line(f"{type(error).__name__}: {error}", 300)
        raise UserError(f"{address}: the store does not give it ({reason}); check the address, and the credentials "
                        "that the store's own tools would use, or copy the files to a folder") from None  # fmt: skip


def find_objects(address: str) -> list[tuple[str, int, str]]:
    """The files that an address, of a file, a folder or a pattern, means: their addresses, bytes and versions. A folder
    is searched to its depth, without what starts with a dot or _."""
    with _opened(address) as (store, path):
        store.invalidate_cache()
        found = store.glob(path, detail=True) if glob.has_magic(path) else {path: store.info(path)}
        objects = {name: about for name, about in found.items() if about["type"] == "file"}
        for folder in () if objects else found:
            inside = store.find(folder, detail=True)
            objects |= {name: about for name, about in inside.items()
                        if not re.search(r"(^|/)[._]", name.removeprefix(folder))}  # fmt: skip
        return [(store.unstrip_protocol(name), int(about["size"]), _version(about))
                for name, about in sorted(objects.items())]  # fmt: skip


def _version(about: dict[str, Any]) -> str:
    return next((str(about[key]) for key in VERSIONS if about.get(key)), "")


def copy_object(address: str, file: Path) -> None:
    """Copy a file of a store to a path."""
    with _opened(address) as (store, path):
        store.get_file(path, str(file))
