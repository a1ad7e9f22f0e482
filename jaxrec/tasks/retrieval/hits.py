"""Hit rates and category hit rates: of lists, of scores with ties, and of an oracle; and a line for each positive."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.chance import bootstrap, expected_category_hits, expected_hits, oracle_hits
from jaxrec.run import Run
from jaxrec.tasks.report import Result

CELLS = 2**23  # scores that are held at once
PERSONA = "persona"
Hits = dict[str, np.ndarray]
"""Metric to float64[n], the part that each query has in it."""
Lists = dict[str, np.ndarray]
"""Of targets: ``rank`` float32[n], and ``top`` int32[n, K] items."""


def item_categories(dataset: RowsDataset, name: str | None) -> np.ndarray | None:
    """int32[V]: the category of each item, a categorical field of the items; None for no name."""
    if name is None:
        return None
    items = dataset.schema.side("item")
    names = [field.name for field in items.coded if field.kind == "categorical"]
    if name not in names:
        raise UserError(f"evaluation.category: no categorical field '{name}' of the item{nearest(name, names)}; there "
                        f"are {', '.join(names)}")  # fmt: skip
    return np.asarray(dataset.array("items.npy")[:, items.columns((name,))[0]])


def answered(lists: Lists, targets: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]) -> Hits:
    """Whether the target's rank is at most k, and whether any of the first k is of its category, of int[V]."""
    hits = {f"hit_rate@{k}": (lists["rank"] <= k).astype(np.float64) for k in ks}
    if categories is not None:
        right = categories[lists["top"]] == categories[targets][:, None]
        hits |= {f"category_hit@{k}": right[:, :k].any(axis=1).astype(np.float64) for k in ks}
    return hits


def expected(
    scores: np.ndarray, targets: np.ndarray, had: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]
) -> Hits:
    """Hits that are expected of lists by float[V] ``scores`` whose ties are broken at random: constant ones for chance,
    the number of training rows for popularity. Item 0 is none, nor those of ``had``, uint32[n, words] of bits, but the
    target is one all the same.
    """
    parts, rows = [], max(1, CELLS // len(scores))
    for start in range(0, len(targets), rows):
        wanted, bits = targets[start : start + rows], had[start : start + rows].view(np.uint8)
        banned = np.unpackbits(bits, axis=1, bitorder="little", count=len(scores)).astype(bool)
        banned[:, 0], banned[np.arange(len(wanted)), wanted] = True, False
        asked = np.where(banned, -np.inf, scores)
        parts.append({f"hit_rate@{k}": expected_hits(asked, wanted, k) for k in ks})
        if categories is not None:
            parts[-1] |= {f"category_hit@{k}": expected_category_hits(asked, categories, categories[wanted], k)
                          for k in ks}  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def oracle(
    asked: Queries, numbers: Sequence[str], categories: np.ndarray | None, ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """The best that any model of the customers' fields can do on the very rows it has seen: with all fields that are
    read, and without each of the ``numbers``, the columns of ``asked.numbers``, which are often drawn at random.
    """
    right = {"hit_rate": asked.items} | ({} if categories is None else {"category_hit": categories[asked.items]})
    wholes = {"all fields": asked.numbers}
    wholes |= {f"without {name}": np.delete(asked.numbers, place, axis=1) for place, name in enumerate(numbers)}
    result = {}
    for title, chosen in wholes.items():
        groups = np.unique(np.hstack([asked.columns, chosen]), axis=0, return_inverse=True)[1].reshape(-1)
        result[title] = {f"{name}@{k}": oracle_hits(groups, of, k) for name, of in right.items() for k in ks}
    return result


def means(hits: Hits) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in hits.items()}


def intervals(hits: Hits) -> dict[str, list[float]]:
    """The 95 % bootstrap interval of each mean."""
    return {name: list(bootstrap(values)) for name, values in hits.items()}


def measured(hits: Hits) -> Result:
    """Means, and their intervals."""
    return {**means(hits), "intervals": intervals(hits)}


def take(hits: Hits, rows: np.ndarray) -> Hits:
    return {name: values[rows] for name, values in hits.items()}


class Answers(NamedTuple):
    """What a run answers to the positives of a split."""

    dataset: RowsDataset
    data: Retrieval
    part: np.ndarray  # row numbers of the split
    weights: dict[str, Any]
    judge: Any
    categories: np.ndarray | None  # int32[V]
    lists: Lists
    hits: Hits
    result: Result  # of ``Asked.measure``


def results_csv(run: Run, found: Answers, k: int) -> str:
    """A line for each positive: the customer, what it got and what it would have been."""
    users, items = (pq.read_table(found.dataset.path / f"{side}s.parquet") for side in ("user", "item"))
    asked, top, schema, n = found.judge.queries, found.lists["top"][:, :k], found.data.schema, found.data.n_items
    people, products = users.take(asked.users), np.array(items[str(schema.item)].to_pylist(), object)
    titles, none = np.full(n, "", object), pa.nulls(len(top), pa.string())
    if found.categories is not None:
        values = found.dataset.values(str(run.config.evaluation.category))
        titles = np.array(["unknown", *map(str, values)], object)[found.categories]
    hits = {name: found.hits.get(f"{name}@{k}") for name in ("hit_rate", "category_hit")}
    whole = {name: none if part is None else part.astype(np.int64) for name, part in hits.items()}
    lines = pa.table({
        "user_id": people[str(schema.user)], "persona": people[PERSONA] if PERSONA in people.column_names else none,
        "gt_product": pa.array(products[asked.items]), "gt_category": titles[asked.items],
        "rank": found.lists["rank"].astype(np.int64), "hit": whole["hit_rate"], "category_hit": whole["category_hit"],
        "top_products": ["|".join(map(str, row)) for row in products[top]],
        "top_categories": ["|".join(row) for row in titles[top]],
    })  # fmt: skip
    text = io.BytesIO()
    pc_csv.write_csv(lines, text, pc_csv.WriteOptions(quoting_style="needed"))
    return text.getvalue().decode()
