"""``--vocabulary-of``: item indices that go on from those of another data set, so that what was made by index, such as
an index of vectors, stays right. Its ids keep their places, those that the new data lack with the count 0; new ids
follow, most frequent first, then by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.dataset import open_dataset
from jaxrec.data.reading.duck import fetch_row
from jaxrec.data.store import checked
from jaxrec.errors import UserError


class Former(NamedTuple):
    """The vocabulary of another data set of sessions."""

    path: Path
    content_hash: str
    items: pa.ChunkedArray  # raw ids, int64 or string, by index


def read_former(path: str | Path, kind: str) -> Former:
    """The vocabulary of the data set at ``path``, for one of a kind: ``sessions``, ``events`` or ``rows``."""
    dataset = open_dataset(path)
    there = "events" if "event_types" in dataset.manifest else dataset.manifest["kind"]
    if there != "sessions" or kind != "sessions":
        what = f"it holds {there}" if there != "sessions" else f"the new data are {kind}"
        raise UserError(f"--vocabulary-of {path}: {what}; indices are kept of sessions alone, name a data set of "
                        "sessions or leave it out")  # fmt: skip
    file = checked(dataset.path, "items.parquet", dataset.manifest)
    return Former(dataset.path, dataset.manifest["content_hash"], pq.read_table(file, columns=["item"])["item"])


def keep_indices(connection: Any, former: Former) -> dict[str, Any]:
    """Number DuckDB's table ``vocabulary`` (item, count, index) anew, and make ``gone``, with the same columns, of ids
    that only the other data set has. Returns what the manifest says of it."""
    (kind,) = fetch_row(connection, "SELECT typeof(item) FROM vocabulary LIMIT 1")
    if (kind == "BIGINT") != pa.types.is_integer(former.items.type):
        ours, theirs = ("integers" if whole else "text" for whole in (kind == "BIGINT", kind != "BIGINT"))
        raise UserError(f"--vocabulary-of {former.path}: its item ids are {theirs}, those of the new data {ours}; "
                        "name a data set of the same ids, or leave it out")  # fmt: skip
    n = len(former.items)
    places = pa.table({"item": former.items, "place": np.arange(n, dtype=np.int32)})
    connection.register("former", places)
    connection.execute(
        "CREATE TEMP TABLE renumbered AS SELECT item, count, coalesce(place, "
        f"{n} - 1 + row_number() OVER (PARTITION BY place IS NULL ORDER BY count DESC, item))::INTEGER AS index "
        "FROM vocabulary LEFT JOIN former USING (item)"
    )
    connection.execute(
        "CREATE TEMP TABLE gone AS SELECT item, 0 AS count, place AS index FROM former "
        "ANTI JOIN vocabulary USING (item)"
    )
    connection.execute("DROP TABLE vocabulary")
    connection.execute("ALTER TABLE renumbered RENAME TO vocabulary")
    connection.unregister("former")
    every, gone = (fetch_row(connection, f"SELECT count(*) FROM {table}")[0] for table in ("vocabulary", "gone"))
    new = every + gone - n
    return {"vocabulary_of": {"content_hash": former.content_hash, "items": n, "gone": gone, "new": new}}
