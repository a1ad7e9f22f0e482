"""Personas: clusters that are found, described and named; rules that are read; customers that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reviews import WORDS, fake_embed, made_texts
from threadpoolctl import threadpool_limits

from jaxrec.errors import UserError
from jaxrec.personas import clusters
from jaxrec.personas.clusters import Persona, draw_attributes, find_personas, telling_words, unread_profiles

RULES = clusters.read_rules()
NAMES = tuple(WORDS)


def agreement(left: np.ndarray, right: np.ndarray) -> float:
    """Share of reviews whose cluster is, for most of its members, their own persona."""
    return sum(int(np.bincount(right[left == label]).max()) for label in np.unique(left)) / len(left)


def test_known_personas_are_found_named_and_described() -> None:
    texts, truth = made_texts(12)
    embeddings = fake_embed(texts, "m")
    labels, personas = find_personas(embeddings, texts, RULES, 6, seed=0)
    assert labels.dtype == np.int32 and agreement(labels, truth) > 0.95
    assert sorted(one.name for one in personas) == sorted(NAMES)
    for number, one in enumerate(personas):
        members = np.flatnonzero(labels == number)
        assert one.rule and one.size == len(members) and NAMES[np.bincount(truth[members]).argmax()] == one.name
        assert len(one.words) >= 4 and set(one.words) <= set(" ".join(WORDS[one.name]).replace("-", " ").split())
        assert len(one.nearest) == 3 and set(one.nearest) <= set(members.tolist())
    with threadpool_limits(limits=3):
        again, others = find_personas(embeddings, texts, RULES, 6, seed=0)
    assert np.array_equal(again, labels) and others == personas
    only = {name: RULES[name] for name in ("Detail_Reviewer", "Gift_Buyer")}
    _, personas = find_personas(embeddings, texts, only, 6, seed=0)
    assert {one.name for one in personas if one.rule} == set(only)
    assert all(one.name == f"persona_{i}" and not one.title for i, one in enumerate(personas) if not one.rule)


def test_reviews_that_say_the_same_or_are_too_few() -> None:
    texts = made_texts(1)[0] * 5
    embeddings = fake_embed(texts, "m")
    labels, personas = find_personas(embeddings, texts, RULES, 6, seed=0)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5] * 5  # by size, then by the first review, whatever the seed
    assert np.array_equal(find_personas(embeddings, texts, RULES, 6, seed=7)[0], labels)
    assert all(len(one.nearest) == 1 for one in personas)  # the same review is not shown again
    with pytest.raises(UserError, match=r"^30 reviews \(6 different ones\) for 7 personas"):
        find_personas(embeddings, texts, RULES, 7, seed=0)


def test_words_are_compared_by_what_they_say() -> None:
    """Capitals and the coding of Korean do not matter; a Korean word may stand in another, an English one begins."""
    texts = ["Moisturising DRY", "속\u1100\u1165\u11ab\u110c\u1169", "laundry", "nothing here"]
    table = {"Dry": {"title": "d", "words": ["건조", "dry", "moistur"], "attributes": {"x": {"a": 1}}}}
    found = clusters.evidence(texts, np.arange(4), 4, clusters.parse_rules(table))[:, 0]
    assert found[0] > found[1] > 0 > found[2] and found[3] < 0
    texts = ["soft cream soft", "soft cream zebra", "rough cream", "rough cream gravel"]
    assert telling_words(texts, np.array([0, 0, 1, 1]), 2, most=5) == [("soft",), ("rough",)]
    assert telling_words(["1", "2"], np.array([0, 1]), 2, most=5) == [(), ()]


TABLE = clusters.parse_rules({
    "A": {"title": "a", "words": ["x"], "attributes": {"age": {"low": 18, "high": 60}, "skin": {"dry": 3, "oily": 1}}},
    "B": {"title": "b", "words": ["y"], "attributes": {"age": {"low": 61, "high": 62}, "skin": {"none": 1}}},
})  # fmt: skip
PEOPLE = tuple(Persona(name, "", name in "AB", 1, (), ()) for name in ("A", "B", "persona_2"))


def test_attributes_follow_their_rules() -> None:
    drawn = draw_attributes(np.repeat([0, 1, 2], 4000), PEOPLE, TABLE, seed=0)
    age, skin = drawn["age"], drawn["skin"]
    assert set(age[:4000]) == set(range(18, 61)) and abs(age[:4000].mean() - 39) < 0.7
    assert abs(np.mean(skin[:4000] == "dry") - 0.75) < 0.03
    assert set(age[4000:8000]) == {61, 62} and abs(np.mean(age[4000:8000] == 61) - 0.5) < 0.03
    assert abs(np.mean(skin[8000:] == "none") - 0.5) < 0.03  # no rule of its own: any
    assert set(skin[8000:][age[8000:] > 60]) == {"none"}  # all of a customer's attributes from one
    drawn = unread_profiles(50, np.array([0] * 30 + [1] * 10), PEOPLE[:2], TABLE, seed=1, draws=200)
    assert drawn["age"].shape == drawn["skin"].shape == (200, 50)
    assert abs(np.mean(drawn["age"] > 60) - 0.25) < 0.02  # a persona by its share
    assert np.all((drawn["skin"] == "none") == (drawn["age"] > 60))
    assert len({tuple(row) for row in drawn["age"][:, :20].tolist()}) == 200  # every draw is another one


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(0, 2**32 - 1), st.data())
def test_a_draw_depends_on_its_row_and_persona_only(labels: list[int], seed: int, data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=40))
    mine, theirs = (draw_attributes(np.array(one), PEOPLE, TABLE, seed) for one in (labels, other))
    for row, (left, right) in enumerate(zip(labels, other, strict=False)):
        assert left != right or all(mine[name][row] == theirs[name][row] for name in mine)
