"""Made-up customers with personas: the same for a seed, and with an optimum that a plain computation confirms."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import numpy as np
import pytest

from jaxrec.cli.command import Parser
from jaxrec.data.encode import RawRows
from jaxrec.personas import personas_synthetic as source

SMALL = ["--customers=600", "--products=30", "--purchases=4", "--seed=3"]


def made(*options: str) -> RawRows:
    parser: ArgumentParser = Parser()
    source.add_arguments(parser)
    return source.read(None, parser.parse_args(list(options)))


def column(raw: RawRows, name: str) -> list[Any]:
    """The values of a field by row."""
    field = next(field for field in raw.fields if field.name == name)
    assert field.by is not None
    return np.array(field.values.to_pylist())[field.by].tolist()


class Drawn:
    """What the source drew before the purchases, again."""

    def __init__(self, customers: int, products: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.customers = source._customers(customers, random)
        self.products = source._products(products, random)
        self.chances = source._chances(self.customers, self.products, random)

    def by_customer(self) -> np.ndarray:
        """float64[C, P], the probability of each product in one draw, one customer after the other."""
        group = np.empty(len(self.chances.order), np.int64)
        group[self.chances.order] = np.repeat(np.arange(len(self.chances.counts)), self.chances.counts)
        logits = [self.chances.left[g] @ self.chances.right + self.chances.popularity for g in group]
        return np.stack([np.exp(row) / np.exp(row).sum() for row in logits])


def shares(expected: np.ndarray, score: np.ndarray, k: int) -> float:
    """Of the expected rows those whose product is among the first k by ``score``."""
    first = np.argsort(-score, axis=1)[:, :k]
    return float(np.take_along_axis(expected, first, axis=1).sum() / expected.sum())


def spread(raw: RawRows) -> float:
    """By how much the share of a category among the purchases differs from concern to concern, at most."""
    bought, concern = np.array(column(raw, "category")), np.array(column(raw, "skin_concern"))
    of = [[np.mean(bought[concern == value] == kind) for kind in source.CATEGORIES] for value in source.CONCERNS]
    return float(np.ptp(of, axis=0).max())


@pytest.fixture(params=[source.CELLS, 70], ids=["whole", "in parts"])
def cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(source, "CELLS", request.param)
    return request.param


def test_the_shape_is_that_of_personas() -> None:
    raw = made(*SMALL)
    assert [(field.name, field.kind, field.side, field.logarithm) for field in raw.fields] == [
        ("customer", "categorical", "user", False), ("age", "numerical", "user", False),
        ("gender", "categorical", "user", False), ("skin_type", "categorical", "user", False),
        ("skin_concern", "categorical", "user", False), ("product", "categorical", "item", False),
        ("category", "categorical", "item", False), ("brand", "categorical", "item", False),
        ("price", "numerical", "item", True),
    ]  # fmt: skip
    assert (raw.user, raw.item, raw.threshold, raw.low, raw.high) == ("customer", "product", 1.0, 0.0, 1.0)
    assert (raw.ratings == 1).all() and (raw.times == 0).all()
    assert raw.extras["personas"] == {"attributes": "stated"}
    assert raw.shown["item"].column_names == ["product", "name", "category", "brand", "price"]
    assert raw.shown["user"].column_names[:2] == ["customer", "persona"]
    pairs = list(zip(column(raw, "customer"), column(raw, "product"), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(column(raw, "customer")) == set(range(1, 601))
    assert np.bincount(column(raw, "customer"))[1:].max() <= 4


def test_a_persona_has_its_own_attributes_in_most_cases() -> None:
    table = made("--customers=20000", "--products=5", "--purchases=1").shown["user"].to_pydict()
    names = np.array(table["persona"])
    for persona in source.PERSONAS:
        of = names == persona.name
        assert of.mean() == pytest.approx(persona.share, abs=0.02)
        concern = np.mean(np.array(table["skin_concern"])[of] == persona.concern)
        assert concern == pytest.approx(0.8 + 0.2 / len(source.CONCERNS), abs=0.03)
        assert np.mean(np.array(table["skin_type"])[of] == persona.type) == pytest.approx(0.83, abs=0.03)
        assert np.mean(np.array(table["gender"])[of] == persona.gender) == pytest.approx(0.9, abs=0.03)
        ages = np.array(table["age"])[of]
        assert 0.8 < np.mean((ages >= persona.ages[0]) & (ages <= persona.ages[1])) < 0.95


def test_the_seed_decides(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not how many probabilities are held at a time."""
    one, same, other = made(*SMALL), made(*SMALL), made(*SMALL[:-1], "--seed=4")
    for name in ("customer", "product", "age", "price"):
        assert column(one, name) == column(same, name)
    assert column(one, "product") != column(other, "product")
    assert one.extras == same.extras
    reference = made("--customers=50", "--products=7", "--purchases=2")
    monkeypatch.setattr(source, "CELLS", 10**6)
    assert column(reference, "product") == column(made("--customers=50", "--products=7", "--purchases=2"), "product")


def test_the_optimum_is_that_of_a_plain_computation(cells: int) -> None:
    drawn = Drawn(600, 30, 3)
    expected = 1 - (1 - drawn.by_customer()) ** 4
    best = made(*SMALL).extras["optimum"]
    assert set(best) == {"over", "popularity", *(f"hit_rate@{k}" for k in (1, 3, 5, 10, 20))}
    for k in (1, 3, 5, 10, 20):
        assert best[f"hit_rate@{k}"] == pytest.approx(shares(expected, expected, k), abs=1e-8)
        popular = np.broadcast_to(expected.sum(axis=0), expected.shape)
        assert best["popularity"][f"hit_rate@{k}"] == pytest.approx(shares(expected, popular, k), abs=1e-8)
    assert best["hit_rate@5"] > 1.5 * best["popularity"]["hit_rate@5"]


def test_the_true_ranking_hits_as_often_as_expected(cells: int) -> None:
    raw = made("--customers=4000", "--products=40", "--purchases=5", "--seed=1")
    assert len(raw.fields[5].values) == 40, "every product is sold, so that ids are places"
    probability = Drawn(4000, 40, 1).by_customer()
    customer, product = np.array(column(raw, "customer")) - 1, np.array(column(raw, "product")) - 1
    rank = (probability[customer] > probability[customer, product][:, None]).sum(axis=1)
    n = len(rank)
    for k in (1, 3, 5, 10, 20):
        best = raw.extras["optimum"][f"hit_rate@{k}"]
        assert np.mean(rank < k) == pytest.approx(best, abs=4 * np.sqrt(best * (1 - best) / n))
    popular = np.argsort(np.argsort(-np.bincount(product)))
    best = raw.extras["optimum"]["popularity"]["hit_rate@5"]
    assert np.mean(popular[product] < 5) == pytest.approx(best, abs=0.02)


def test_independent_purchases_leave_nothing_but_popularity() -> None:
    options = ["--customers=4000", "--products=100"]
    raw, control = made(*options), made(*options, "--independent")
    best = control.extras["optimum"]
    assert {name: value for name, value in best.items() if name.startswith("hit")} == best["popularity"]
    related = raw.extras["optimum"]["popularity"]
    assert best["hit_rate@5"] == pytest.approx(related["hit_rate@5"], abs=0.03), "products stay as popular"
    assert spread(control) < 0.06 < 0.2 < spread(raw)


def test_few_products_and_customers() -> None:
    raw = made("--customers=1", "--products=2", "--purchases=1000")
    assert sorted(column(raw, "product")) == [1, 2]
    assert [name for name in raw.extras["optimum"] if name.startswith("hit")] == ["hit_rate@1"]
