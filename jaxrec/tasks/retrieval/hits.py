"""Hit rates and category hit rates with their intervals; what chance, popularity and the oracle reach beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrec.data.retrieval import Queries
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.chance import bootstrap, expected_category_hits, expected_hits, oracle_hits

CELLS = 2**23  # scores that are held at once
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
    """Hits of lists: whether the target's rank is at most k, and whether any of the first k is of its category.

    Args:
        ranks: float[n].
        top: int[n, at least max(ks)] items.
        targets: int[n].
        categories: int[V], or None.
    """
    hits = {f"hit_rate@{k}": (ranks <= k).astype(np.float64) for k in ks}
    if categories is not None:
        right = categories[top] == categories[targets][:, None]
        hits |= {f"category_hit@{k}": right[:, :k].any(axis=1).astype(np.float64) for k in ks}
    return hits


def expected(
    scores: np.ndarray, targets: np.ndarray, had: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]
) -> Hits:
    """Hits that are expected of lists by ``scores`` whose ties are broken at random.

    Args:
        scores: float[V]: constant for chance, the number of training rows for popularity. Item 0 is none.
        targets: int[n].
        had: uint32[n, words], bits of items that are no candidates; the target is one all the same.
    """
    n, v = len(targets), len(scores)
    plain = None if had.any() else np.where(np.arange(v) > 0, scores, -np.inf)  # one row of scores for all queries
    rows = max(1, CELLS // v if plain is None else n)
    parts: list[Hits] = []
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        asked = candidates_alone(scores, targets[part], had[part]) if plain is None else plain
        found = {f"hit_rate@{k}": expected_hits(asked, targets[part], k) for k in ks}
        if categories is not None:
            wanted = categories[targets[part]]
            found |= {f"category_hit@{k}": expected_category_hits(asked, categories, wanted, k) for k in ks}
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def candidates_alone(scores: np.ndarray, targets: np.ndarray, had: np.ndarray) -> np.ndarray:
    """float[n, V]: float[V] scores with -inf for what is no candidate; see ``expected``."""
    bits = np.unpackbits(had.view(np.uint8), axis=1, bitorder="little", count=scores.shape[-1]).astype(bool)
    bits[:, 0] = True
    bits[np.arange(len(targets)), targets] = False
    return np.where(bits, -np.inf, scores)


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
    """The mean of each metric."""
    return {name: float(values.mean()) for name, values in hits.items()}


def intervals(hits: Hits, seed: int = 0) -> dict[str, list[float]]:
    """The 95 % bootstrap interval of each mean."""
    return {name: [float(end) for end in bootstrap(values, seed)] for name, values in hits.items()}


def take(hits: Hits, rows: np.ndarray) -> Hits:
    """The hits of some queries."""
    return {name: values[rows] for name, values in hits.items()}
