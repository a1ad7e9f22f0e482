"""Ranking metrics of next-item prediction, from the rank of the one relevant item of each query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMES = ("recall", "mrr", "ndcg", "hit_rate")


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Means at each cut-off of float[n] ranks, 1 for the first, named ``recall@20`` and so on; 0 without ranks. With
    one relevant item a query, recall is the hit rate, MRR@K 1 / rank, NDCG@K 1 / log2(1 + rank), 0 beyond K.

    >>> ranking_metrics(np.array([1.0, 3.0, 30.0]), [20])["mrr@20"]
    0.4444444444444444
    """
    ranks = np.asarray(ranks, np.float64)
    result: dict[str, float] = {}
    for k in ks:
        hit = ranks <= k
        gains = {"recall": hit, "mrr": hit / ranks, "ndcg": hit / np.log2(1.0 + ranks), "hit_rate": hit}
        result |= {f"{name}@{k}": float(gain.mean()) if len(ranks) else 0.0 for name, gain in gains.items()}
    return result
