"""Hit rates and category hit rates with their intervals, what chance, popularity and the oracle reach beside them, and
a line for each positive.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.chance import bootstrap, expected_category_hits, expected_hits, oracle_hits
from jaxrec.run import Run, write_text
from jaxrec.tasks.report import Page, Result

CELLS = 2**23  # scores that are held at once
PERSONA = "persona"
Hits = dict[str, np.ndarray]
"""Metric to float64[n], the part that each query has in it."""


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


def answered(
    ranks: np.ndarray, top: np.ndarray, targets: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]
) -> Hits:
    """Hits of lists: whether the target's rank, float[n], is at most k, and whether any of the first k of int[n, K]
    ``top`` is of its category, of int[V].
    """
    hits = {f"hit_rate@{k}": (ranks <= k).astype(np.float64) for k in ks}
    if categories is not None:
        right = categories[top] == categories[targets][:, None]
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
    wholes = {"all fields": asked.numbers}
    wholes |= {f"without {name}": np.delete(asked.numbers, place, axis=1) for place, name in enumerate(numbers)}
    result = {}
    for title, chosen in wholes.items():
        fields = np.concatenate([asked.columns.astype(np.float64), chosen.astype(np.float64)], axis=1)
        groups = np.unique(fields, axis=0, return_inverse=True)[1].reshape(-1)
        result[title] = {f"hit_rate@{k}": oracle_hits(groups, asked.items, k) for k in ks}
        if categories is not None:
            result[title] |= {f"category_hit@{k}": oracle_hits(groups, categories[asked.items], k) for k in ks}
    return result


def means(hits: Hits) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in hits.items()}


def intervals(hits: Hits, seed: int = 0) -> dict[str, list[float]]:
    """The 95 % bootstrap interval of each mean."""
    return {name: [float(end) for end in bootstrap(values, seed)] for name, values in hits.items()}


def take(hits: Hits, rows: np.ndarray) -> Hits:
    return {name: values[rows] for name, values in hits.items()}


class Answers(NamedTuple):
    """What a run answers to the positives of a split."""

    dataset: RowsDataset
    data: Retrieval
    part: np.ndarray  # row numbers of the split
    weights: dict[str, Any]
    judge: Any
    top: np.ndarray  # int32[n, K] items
    hits: Hits
    categories: np.ndarray | None  # int32[V]
    ranks: np.ndarray  # float32[n]
    result: Result  # of ``Asked.measure``


def results_files(run: Run, found: Answers, k: int) -> list[Page]:
    """``results.csv`` and, where the data has personas, ``PERSONAS.md``, in the run; with what writes them."""
    table, page = run.path / "results.csv", run.path / "PERSONAS.md"
    files: list[Page] = [(table, lambda: write_text(table, results_csv(run, found, k)))]
    kept = run.path / "dataset" / page.name
    return [*files, (page, lambda: shutil.copyfile(kept, page))] if kept.is_file() else files


def results_csv(run: Run, found: Answers, k: int) -> str:
    """A line for each positive: the customer, what it got and what it would have been."""
    users, items = (pq.read_table(found.dataset.path / f"{side}s.parquet") for side in ("user", "item"))
    schema, queries = found.data.schema, found.judge.queries
    user_ids, item_ids = users[str(schema.user)].to_pylist(), items[str(schema.item)].to_pylist()
    personas = users[PERSONA].to_pylist() if PERSONA in users.column_names else [""] * len(user_ids)
    titles = [""] * found.data.n_items
    if found.categories is not None:
        values = ["unknown", *map(str, found.dataset.values(str(run.config.evaluation.category)))]
        titles = [values[code] for code in found.categories]
    category = found.hits.get(f"category_hit@{k}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit", "top_products",
                     "top_categories"])  # fmt: skip
    for row, (user, item) in enumerate(zip(queries.users, queries.items, strict=True)):
        top = found.top[row, :k]
        writer.writerow([
            user_ids[user], personas[user], item_ids[item], titles[item],
            int(found.ranks[row]), int(found.hits[f"hit_rate@{k}"][row]),
            "" if category is None else int(category[row]),
            "|".join(str(item_ids[one]) for one in top), "|".join(titles[one] for one in top),
        ])  # fmt: skip
    return text.getvalue()
