"""What continuing costs the items that a run knows, where many new ones come at once (``--withhold``): a random share
of the items is withheld from a second base run, ``partial``, and ``rejoined`` continues from it with all items.

Compared are the days after the first, over the targets that ``partial`` can answer: old items, which are those that it
knows, with an old item before them in the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.metrics.ranking import ranking_metrics

PARTIAL, REJOINED = "partial", "rejoined"
AMONG_OLD = "rejoined-old"  # ranks of rejoined among the old items alone
ROWS = (
    ("partial, among old items", PARTIAL), ("rejoined, among old items", AMONG_OLD),
    ("rejoined, among all items", REJOINED), ("continue, among all items", "continue"),
)  # fmt: skip


def withheld_items(data: Path, share: float, seed: int) -> pa.ChunkedArray:
    """Raw ids of a random share of a data set's items."""
    items = pq.read_table(data / "items.parquet")["item"]
    drawn = np.random.default_rng(seed).permutation(len(items))[: round(share * len(items))]
    return items.take(np.sort(drawn))


def compared(ranks: Callable[[str, str], np.ndarray], dates: Iterable[str], k: int) -> dict[str, Any]:
    """Metrics of ROWS on the targets of some days that ``partial`` can answer; ``ranks`` of a policy and day."""
    answered = {date: np.isfinite(ranks(PARTIAL, date)) for date in dates}
    rows = {}
    for title, policy in ROWS:
        pooled = np.concatenate([ranks(policy, date)[answered[date]] for date in answered])
        values = ranking_metrics(pooled, [k])
        rows[title] = {name: values[name] for name in (f"recall@{k}", f"mrr@{k}")}
    recall = [row[f"recall@{k}"] for row in rows.values()]
    return {"targets": int(sum(map(np.sum, answered.values()))), "rows": rows,
            "fall_among_old": recall[0] - recall[1], "less_than_continue": recall[3] - recall[2]}  # fmt: skip


def lines(found: dict[str, Any], k: int) -> list[str]:
    """The comparison in sentences."""
    told = [f"{title}: recall@{k} {row[f'recall@{k}']:.4f}, mrr@{k} {row[f'mrr@{k}']:.4f}"
            for title, row in found["rows"].items()]  # fmt: skip
    fall, less = found["fall_among_old"], found["less_than_continue"]
    return [f"{found['targets']:,} targets that partial can answer, after the first day:", *told,
            f"recall@{k} of old items {'rises' if fall < 0 else 'falls'} by {abs(fall):.4f} among old items; among all "
            f"it is {abs(less):.4f} {'more' if less < 0 else 'less'} than that of continue"]  # fmt: skip
