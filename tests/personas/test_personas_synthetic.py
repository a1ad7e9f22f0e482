"""Made-up customers with personas: the same for a seed, and with an optimum that a plain computation confirms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.cli.command import Parser
from jaxrec.data.clean.protocol import RawRows
from jaxrec.personas import personas_synthetic as source

SMALL = ["--customers=600", "--products=30", "--purchases=4", "--seed=3"]


def made(*options: str) -> RawRows:
    parser = Parser()
    source.add_arguments(parser)
    return source.read(None, parser.parse_args(list(options)))


def column(raw: RawRows, name: str) -> np.ndarray:
    """The values of a field by row."""
    field = next(field for field in raw.fields if field.name == name)
    assert field.by is not None
    return np.array(field.values.to_pylist())[field.by]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """For each data set that is made float64[C, P], the probability of each product in one draw of a customer."""
    kept, make = list[np.ndarray](), source._chances

    def keep(*arguments: Any) -> source.Chances:
        chances = make(*arguments)
        kept.append(np.repeat(chances.probability, chances.counts, axis=0)[np.argsort(chances.order)])
        return chances

    monkeypatch.setattr(source, "_chances", keep)
    return kept


def test_the_shape_is_that_of_personas() -> None:
    raw = made(*SMALL)
    pairs = list(zip(column(raw, "customer"), column(raw, "product"), strict=True))
    assert len(set(pairs)) == len(pairs) and np.bincount(column(raw, "customer"))[1:].max() <= 4
    table = made("--customers=20000", "--products=5", "--purchases=1").shown["user"].to_pydict()
    names = np.array(table["persona"])
    for name, (share, (young, old), gender, skin, concern) in source.PERSONAS.items():
        of = names == name
        ages = np.array(table["age"])[of]
        assert of.mean() == pytest.approx(share, abs=0.02) and 0.8 < np.mean((ages >= young) & (ages <= old)) < 0.95
        for field, own, words in (("gender", gender, 2), ("skin_type", skin, 7), ("skin_concern", concern, 6)):
            assert np.mean(np.array(table[field])[of] == own) == pytest.approx(0.8 + 0.2 / words, abs=0.03)


def test_the_optimum_is_that_of_a_plain_computation(drawn: list[np.ndarray]) -> None:
    raw, other = made(*SMALL), made(*SMALL[:-1], "--seed=4")
    assert column(raw, "product").tolist() != column(other, "product").tolist()
    expected, best = 1 - (1 - drawn[0]) ** 4, raw.extras["optimum"]
    popular = np.broadcast_to(expected.sum(axis=0), expected.shape)
    for k in (1, 3, 5, 10, 20):
        for score, stated in ((expected, best), (popular, best["popularity"])):
            first = np.take_along_axis(expected, np.argsort(-score, axis=1)[:, :k], axis=1)
            assert stated[f"hit_rate@{k}"] == pytest.approx(first.sum() / expected.sum(), abs=1e-8)
    assert best["hit_rate@5"] > 1.5 * best["popularity"]["hit_rate@5"]


def test_the_true_ranking_hits_as_often_as_expected(drawn: list[np.ndarray]) -> None:
    raw = made("--customers=4000", "--products=40", "--purchases=5", "--seed=1")
    assert len(raw.fields[5].values) == 40, "every product is sold, so that ids are places"
    customer, product = column(raw, "customer") - 1, column(raw, "product") - 1
    rank = (drawn[0][customer] > drawn[0][customer, product][:, None]).sum(axis=1)
    for k in (1, 5, 20):
        best = raw.extras["optimum"][f"hit_rate@{k}"]
        assert np.mean(rank < k) == pytest.approx(best, abs=4 * np.sqrt(best * (1 - best) / len(rank)))


def test_independent_purchases_leave_nothing_but_popularity() -> None:
    def spread(raw: RawRows) -> float:
        """By how much the share of a category among the purchases differs from concern to concern, at most."""
        bought, concern = column(raw, "category"), column(raw, "skin_concern")
        of = [[np.mean(bought[concern == value] == kind) for kind in source.WORDS["category"]]
              for value in source.WORDS["skin_concern"]]  # fmt: skip
        return float(np.ptp(of, axis=0).max())

    raw, control = (made("--customers=4000", "--products=100", *more) for more in ([], ["--independent"]))
    best = control.extras["optimum"]
    assert {name: value for name, value in best.items() if name.startswith("hit")} == best["popularity"]
    assert spread(control) < 0.06 < 0.2 < spread(raw)
