"""Ranks, top-k and metrics against NumPy brute force, with many ties: integer vectors make every product exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.retrieval import positive_bits
from jaxrec.metrics.ranking import NAMES, ranking_metrics
from jaxrec.ops.heads import Heads
from jaxrec.ops.topk import CHUNK, BlockSize, Candidates, Live, block_size, rank, rank_scores, top_items
from jaxrec.tasks.vectors import nearest

QUERIES, ITEMS, DEPTH = 13, 37, 3
SIZES = [BlockSize(5, ITEMS), BlockSize(13, 1000), BlockSize(4, 10), BlockSize(20, 1)]


def make(seed: int, span: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, targets (the first and last item among them) and items, of small integers."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-span, span + 1, (QUERIES, DEPTH)).astype(np.float32)
    items = rng.integers(-span, span + 1, (ITEMS, DEPTH)).astype(np.float32)
    targets = rng.integers(0, ITEMS, QUERIES).astype(np.int32)
    targets[:2] = 0, ITEMS - 1
    return queries, targets, items


def ranks_of(*arrays: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    found, top = rank(*map(jnp.asarray, arrays), **options)
    return np.asarray(found), np.asarray(top)


def brute_force(scores: np.ndarray, targets: np.ndarray) -> list[int]:
    """The ranks of targets, last among equals; a score that is not a number is better than any, a target's worse."""
    return [1 + sum(item != target and not row[item] < row[target] for item in range(len(row)))
            for row, target in zip(scores, targets, strict=True)]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ranks(size: BlockSize) -> None:
    """Where vectors are no numbers, a target ranks last, and another item counts as better."""
    for seed in range(4):
        queries, targets, items = make(seed)
        if seed == 3:
            items[3], items[ITEMS - 1], queries[7] = np.nan, np.nan, np.nan
            targets[:4] = 3, ITEMS - 1, 0, 1
        scores = queries @ items.T
        found, top = ranks_of(queries, targets, items, size=size, k=7)
        np.testing.assert_array_equal(found, brute_force(scores, targets))
        if seed < 3:
            np.testing.assert_array_equal(top, np.argsort(-scores, axis=1, kind="stable")[:, :7])


def test_a_target_meets_its_own_score_bit_for_bit() -> None:
    """Real-valued vectors: where the best item is the target, every blocking says rank 1."""
    rng = np.random.default_rng(0)
    queries, items = (rng.normal(size=(n, 33)).astype(np.float32) for n in (QUERIES, 37))
    best = np.argmax(queries.astype(np.float64) @ items.T.astype(np.float64), axis=1)
    for size in SIZES[:3]:
        np.testing.assert_array_equal(ranks_of(queries, best, items, size=size)[0], 1.0)


@pytest.mark.parametrize("size", [BlockSize(4, ITEMS), BlockSize(8, 10)], ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), span=st.integers(0, 3), last=st.integers(0, 6))
def test_ranks_among_live_items(size: BlockSize, seed: int, span: int, last: int) -> None:
    """Some items are never live, some targets neither: those come behind all that are."""
    queries, targets, items = make(seed, span)
    random = np.random.default_rng(seed)
    listed = random.integers(0, last + 1, ITEMS).astype(np.int32)
    sold = (listed + random.integers(0, last + 2, ITEMS)).astype(np.int32)
    at = random.integers(0, last + 1, QUERIES).astype(np.int32)
    live = (listed <= at[:, None]) & (at[:, None] < sold)
    found, _ = ranks_of(
        queries, targets, items, size=size, among=Candidates(Live(*map(jnp.asarray, (listed, sold, at))))
    )
    np.testing.assert_array_equal(found, brute_force(np.where(live, queries @ items.T, -np.inf), targets))


@pytest.mark.parametrize("size", [BlockSize(4, ITEMS), BlockSize(8, 10)], ids=str)
def test_ranks_without_what_a_query_has(size: BlockSize) -> None:
    """The target is a candidate all the same; one item is not a number; scores that are there already rank alike."""
    queries, targets, items = make(3)
    has = np.random.default_rng(0).random((QUERIES, ITEMS)) < 0.4
    has[1], has[2] = True, False
    items[5] = np.nan
    targets[targets == 5] = 6
    rows, columns = np.nonzero(has)
    bits = positive_bits(rows + 1, columns, QUERIES + 1, ITEMS)[1:]
    among, scores = Candidates(without=jnp.asarray(bits)), queries @ items.T
    by_products = ranks_of(queries, targets, items, size=size, k=6, among=among)
    for ranks, top in (by_products, rank_scores(jnp.asarray(scores), jnp.asarray(targets), 6, among=among)):
        for row, target in enumerate(targets):
            allowed = [i for i in range(ITEMS) if i == target or not has[row, i]]
            assert ranks[row] == sum(not scores[row, i] < scores[row, target] for i in allowed)
            best = sorted((i for i in allowed if i != 5), key=lambda i: (-scores[row, i], i))[:6]
            assert top[row, : len(best)].tolist() == best


HEADS = ("both", "rows", "texts")


def make_heads(which: str) -> tuple[np.ndarray, Heads]:
    """Vectors of small integers, and the same as a row for each of some items, and texts that items share."""
    random = np.random.default_rng(8)
    rows, texts, new = (random.integers(-2, 3, shape).astype(np.float32) for shape in ((ITEMS, 4), (9, 3), 4))
    trained, text_of = random.random(ITEMS) < 0.6, random.integers(-1, 9, ITEMS).astype(np.int32)
    parts = [np.where(trained[:, None], rows, new), np.where(text_of[:, None] < 0, 0, texts[text_of])]
    own = slice(None, -1) if which == "rows" else slice(1, None) if which == "texts" else slice(None)
    heads = Heads(jnp.asarray(rows), jnp.asarray(trained), jnp.asarray(new), jnp.asarray(texts), jnp.asarray(text_of))
    heads = replace(heads, rows=None, new_row=None) if which == "texts" else heads
    return np.concatenate(parts[own], axis=1), replace(heads, texts=None) if which == "rows" else heads


@pytest.mark.parametrize("which", HEADS)
def test_vectors_of_heads(which: str) -> None:
    vectors, heads = make_heads(which)
    queries = np.random.default_rng(1).integers(-2, 3, (QUERIES, heads.width)).astype(np.float32)
    assert len(heads) == ITEMS and heads.width == vectors.shape[1]
    np.testing.assert_array_equal(heads.whole(), vectors)
    np.testing.assert_array_equal(heads.part(11, 5), vectors[11:16])
    np.testing.assert_array_equal(heads.scores(jnp.asarray(queries)), queries @ vectors.T)
    if which == "rows":
        return
    more = np.array([[5, 6, 7], [1, 0, -1]], np.float32)
    longer, new = heads.extended(jnp.asarray(more), ITEMS + 4), np.zeros((4, heads.width), np.float32)
    new[:, : heads.text_part.start], new[:2, heads.text_part] = 0 if which == "texts" else heads.new_row, more
    expected = np.concatenate([vectors, new])
    np.testing.assert_array_equal(longer.whole(), expected)
    np.testing.assert_array_equal(longer.scores(jnp.asarray(queries)), queries @ expected.T)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("which", HEADS)
def test_ranks_of_vectors_that_are_made_in_parts(which: str, size: BlockSize) -> None:
    (vectors, heads), (_, targets, _) = make_heads(which), make(2)
    queries = np.random.default_rng(3).integers(-2, 3, (QUERIES, heads.width)).astype(np.float32)
    scores = queries @ vectors.T
    found, top = rank(jnp.asarray(queries), jnp.asarray(targets), heads, size, 7)
    np.testing.assert_array_equal(found, brute_force(scores, targets))
    np.testing.assert_array_equal(top, np.argsort(-scores, axis=1, kind="stable")[:, :7])


# ---- the best items --------------------------------------------------------------------------------------------------


def best_of(scores: np.ndarray, banned: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """By NumPy: falling score, then rising index; V and -inf where no item is left."""
    ids, values = np.full((len(scores), k), scores.shape[1]), np.full((len(scores), k), -np.inf, np.float32)
    for q, row in enumerate(scores):
        order = [i for i in np.argsort(-row, kind="stable") if i not in banned[q]][:k]
        ids[q, : len(order)], values[q, : len(order)] = order, row[order]
    return ids, values


LONG = 20 * CHUNK + 9


@pytest.mark.parametrize(
    ("n", "k", "size"),
    [(ITEMS, 1, SIZES[0]), (ITEMS, ITEMS, SIZES[1]), (ITEMS, 5, SIZES[2]), (ITEMS, ITEMS, SIZES[2]),
     (LONG, 3, BlockSize(4, LONG)), (LONG, 3, BlockSize(4, 7 * CHUNK))], ids=str,
)  # fmt: skip
def test_top_items(n: int, k: int, size: BlockSize) -> None:
    """Also of more chunks than 2 k, the last one short; chunks tie, and better ones come after worse."""
    for seed in range(3):
        queries, rng = make(seed, span=1)[0], np.random.default_rng(seed)
        items = rng.normal(0.0, 1.5, (n, DEPTH)).round().astype(np.float32)
        banned = rng.integers(0, n, (QUERIES, 50)).astype(np.int32)
        banned[:4, 6:] = n
        banned[0], banned[1], banned[2] = n, n - 1, np.resize(np.arange(n), 50)  # none; one, many times; all of few
        found = top_items(*map(jnp.asarray, (queries, items, banned)), k, size)
        for ours, expected in zip(found, best_of(queries @ items.T, banned, k), strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("n", "rows"), [(70, 70), (70, 96), (70 * CHUNK - 9, 70 * CHUNK)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 1.0])
def test_the_nearest_of_some_items(n: int, rows: int, share: float) -> None:
    """Few that are left out are banned, of many the others are ranked alone; among equal scores, also at the cut, the
    lower index is first; the last rows are padding, and one item's score is no number."""
    random = np.random.default_rng(5)
    table, queries = (random.integers(-1, 2, (size, 3)).astype(np.float32) for size in (rows, 4))
    table[n:], table[7] = 9, np.nan  # which would win, and which never does
    mask, gone = random.random(n) >= share, [random.integers(0, n, size) for size in (5, 0, 1)]
    for k in (1, 4, 33):
        found = nearest(jnp.asarray(queries), jnp.asarray(table), mask, gone, k, 64)()
        for query, own, (places, scores) in zip(queries, gone, found, strict=False):  # the last query is padding
            values = np.where(mask & (np.arange(n) != 7), table[:n] @ query, -np.inf)
            expected = best_of(values[None], own[None], k)[0][0]
            assert places.tolist() == [item for item in expected.tolist() if item < n and values[item] > -np.inf]
            np.testing.assert_array_equal(scores, table[places] @ query)


@given(st.integers(1, 5_000_000), st.integers(1, 4096))
@settings(max_examples=100, deadline=None)
def test_block_size_keeps_to_the_memory(n_items: int, memory: int) -> None:
    size = block_size(n_items, memory)
    assert 4 * size.queries * size.items <= memory * 2**20
    assert 1 <= size.items <= n_items and 1 <= size.queries <= 512
    if 4 * 512 * n_items <= memory * 2**20:
        assert size == BlockSize(512, n_items)
    else:  # half of the memory is used at least, unless rounding to whole parts or queries takes it
        assert 4 * (size.queries + 1) * (size.items + 1) * 2 > memory * 2**20 or size.items == n_items


RANKS = st.lists(st.one_of(st.integers(1, 60), st.integers(2, 120).map(lambda r: r / 2)), max_size=30)


@given(RANKS, st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_metrics_by_definition(listed: list[float], k: int) -> None:
    found = ranking_metrics(np.array(listed), [k, k + 5])
    assert set(found) == {f"{name}@{cut}" for name in NAMES for cut in (k, k + 5)}
    for cut in (k, k + 5):
        n, hits = max(1, len(listed)), [rank for rank in listed if rank <= cut]
        assert found[f"recall@{cut}"] == found[f"hit_rate@{cut}"] == pytest.approx(len(hits) / n)
        assert found[f"mrr@{cut}"] == pytest.approx(sum(1 / rank for rank in hits) / n)
        assert found[f"ndcg@{cut}"] == pytest.approx(sum(1 / np.log2(1 + rank) for rank in hits) / n)
