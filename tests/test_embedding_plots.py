"""Groups that a picture can show, and two dimensions out of many."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxrec.personas.embedding import Embedded, embedding_figure, neighbourhoods, principal
from jaxrec.personas.groups import COLOURS, GREY, grouped


def test_values_of_any_kind() -> None:
    groups = grouped("f", [None, 25.0, 25.0, None, ["a", "b"], "x\ny", 1.5, "n" * 50])
    assert groups.names == ["25", "1.5", "a|b", "n" * 50, "unknown", "x y"]
    assert groups.labels[3].text == "n" * 39 + "…"


def test_many_groups_are_taken_together() -> None:
    groups = grouped("age", [None, *(str(n % 30) for n in range(100))])
    fewer = groups.most(12)
    assert len(fewer.names) == 12 and fewer.names[-1] == "19 others" == fewer.labels[-1].text
    assert fewer.counts.sum() == 100 and fewer.of[0] == -1
    assert np.bincount(fewer.of[1:]).tolist() == fewer.counts.tolist()
    assert groups.most(30) is groups


def test_more_groups_than_colours() -> None:
    random = np.random.default_rng(0)
    people = grouped("age", [None, *range(30)])
    goods = grouped("product", [None] + ["products"] * 5)
    vectors = random.normal(size=(35, 3))
    embedded = Embedded(np.arange(1, 31), vectors[:30], np.arange(1, 6), vectors[30:])
    drawn = embedding_figure(embedded, people, goods, "pca", "x").axes[0].collections
    assert [len(part.get_offsets()) for part in drawn] == [1] * len(COLOURS) + [30 - len(COLOURS), 5]
    assert to_hex(drawn[len(COLOURS)].get_facecolor()[0]) == to_hex(GREY)


def test_principal_components() -> None:
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0])
    points, shares = principal(line)
    assert points[:, 0] == pytest.approx([-10, -5, 0, 5, 10]) and shares == pytest.approx([1, 0])
    for flat in (np.ones((4, 3)), np.ones((4, 1))):
        points, shares = principal(flat)
        assert not points.any() and not shares.any()


@pytest.mark.parametrize("n", [2, 3, 7])
def test_t_sne_of_few_points(n: int) -> None:
    points, perplexity = neighbourhoods(np.eye(n, 5, dtype=np.float32))
    assert points.shape == (n, 2) and np.isfinite(points).all() and 0 < perplexity < n
