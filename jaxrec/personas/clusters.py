"""Personas: clusters of reviews by what they say, named from the table of rules, ``personas.yaml`` beside this file,
where their words speak for one; and customers whose attributes are drawn from the rule of their persona."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from scipy.optimize import linear_sum_assignment
from scipy.special import kl_div, rel_entr

from jaxrec.errors import UserError
from jaxrec.sources.shared import draw

WORDS, NEAREST = 8, 3  # of a persona's description
STARTS = 10  # of K-means
WORD = re.compile(r"[^\W\d_]{2,}")  # runs of letters, so that Korean and English go the same way
ENOUGH = 1.0  # of the evidence for naming a cluster, in standard deviations


class Range(BaseModel):
    """A whole number from ``low`` to ``high``, each as often."""

    model_config = ConfigDict(extra="forbid")

    low: int
    high: int


Attribute = Annotated[Range | dict[str, float], Field(union_mode="left_to_right")]  # text, each value with its weight


class Rule(BaseModel):
    """A persona of the table: ``words`` that its reviews use more, and distributions of ``attributes``."""

    title: str
    words: list[str]
    attributes: dict[str, Attribute]


Rules = dict[str, Rule]
"""A table by name, in its order."""


def parse_rules(entries: Any) -> Rules:
    """The rules of a mapping from names to titles, words and attributes, as YAML and JSON files hold it."""
    return TypeAdapter(Rules).validate_python(entries)


def read_rules() -> Rules:
    """The rules of the table."""
    return parse_rules(yaml.safe_load(Path(__file__).with_name("personas.yaml").read_text(encoding="utf-8")))


def kinds_of(rules: Rules) -> dict[str, Attribute]:
    """The attributes that all rules have, by name, with the distribution of one of them."""
    return next(iter(rules.values())).attributes


@dataclass(frozen=True)
class Persona:
    """A cluster of reviews."""

    name: str  # of its rule, or persona_<number>
    title: str  # of its rule, or empty
    rule: bool  # whether it has one
    size: int  # number of its reviews
    words: tuple[str, ...]  # its telling words, most telling first
    nearest: tuple[int, ...]  # numbers of the reviews nearest to its centre, nearest first


def find_personas(
    embeddings: np.ndarray, texts: Sequence[str], rules: Rules, k: int, seed: int
) -> tuple[np.ndarray, tuple[Persona, ...]]:
    """Cluster reviews by K-means on their normalised embeddings, float[n, d], into ``k`` personas named by rules, one
    to one: int32[n], the persona of each review, and the personas, largest first, of equal ones the earliest."""
    points = _directions(embeddings)
    if (different := len(np.unique(points, axis=0))) < k:
        raise UserError(f"{len(points)} reviews ({different} different ones) for {k} personas; add reviews or lower "
                        "--clusters")  # fmt: skip
    from sklearn.cluster import KMeans  # of the extra [text]
    from threadpoolctl import threadpool_limits

    # One thread: several sum the members of a cluster in any order, and a last bit may move a review.
    with threadpool_limits(limits=1):
        found = KMeans(k, n_init=STARTS, random_state=seed).fit_predict(points)
    clusters, first, members = np.unique(found, return_index=True, return_counts=True)
    place = np.zeros(k, np.int32)
    place[clusters[np.lexsort((first, -members))]] = np.arange(len(clusters))
    labels = place[found]
    names = [f"persona_{number}" for number in range(len(clusters))]
    scores = evidence(texts, labels, len(names), rules)
    gain = np.where(scores >= ENOUGH, scores, 0.0)
    for number, rule in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if gain[number, rule] > 0:
            names[number] = list(rules)[rule]
    return labels, describe(labels, names, texts, rules, embeddings)


def describe(
    labels: np.ndarray, names: Sequence[str], texts: Sequence[str], rules: Rules, embeddings: np.ndarray
) -> tuple[Persona, ...]:
    """The personas of clusters with names, int[n] ``labels``."""
    words = telling_words(texts, labels, len(names), WORDS)
    points, personas = _directions(embeddings), []
    for number, name in enumerate(names):
        members, nearest = np.flatnonzero(labels == number), dict[str, int]()
        distances = np.round(((points[members] - points[members].mean(axis=0)) ** 2).sum(axis=1), 9)
        for member in members[np.argsort(distances, kind="stable")].tolist():
            nearest.setdefault(texts[member], member)  # of those that say the same the first
        title = rules[name].title if name in rules else ""
        near = tuple(nearest.values())[:NEAREST]
        personas.append(Persona(name, title, name in rules, len(members), words[number], near))
    return tuple(personas)


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """float64[n, d] of length 1, as sentences are compared by angle; zeros stay."""
    points = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    # Rounded far above the error of a sum: what differs by less is one sentence, which K-means could not tell apart.
    return np.round(points / np.where(lengths > 0, lengths, 1.0), 6)


def _normalised(text: str) -> str:
    """Composed and without capitals: the same word is the same text (Korean may come as single letters)."""
    return unicodedata.normalize("NFC", text).casefold()


def telling_words(texts: Sequence[str], labels: np.ndarray, clusters: int, most: int) -> list[tuple[str, ...]]:
    """The words, at most ``most``, that each cluster's reviews use more than the others' (and not in one review only),
    most telling first by the log-likelihood ratio of a review having it (Dunning, Accurate Methods for the Statistics
    of Surprise and Coincidence, 1993)."""
    found = [sorted(set(WORD.findall(_normalised(text)))) for text in texts]
    names, index = np.unique(np.array([word for words in found for word in words], str), return_inverse=True)
    cluster_of = np.repeat(labels, [len(words) for words in found])
    total, n = np.bincount(index, minlength=len(names)), len(texts)
    chosen = []
    for cluster, size in enumerate(np.bincount(labels, minlength=clusters).tolist()):
        inside = np.bincount(index[cluster_of == cluster], minlength=len(names))
        have, sizes = np.stack([inside, total - inside]), np.array([[size], [n - size]])
        counts = np.concatenate([have, sizes - have])  # with the word and without, in the cluster and outside
        expected = np.concatenate([sizes * total, sizes * (n - total)]) / n
        score = 2 * rel_entr(counts, expected).sum(axis=0)
        score = np.round(np.where((inside * n > size * total) & (total > 1), score, 0.0), 9)  # ties are of the counts
        order = np.argsort(-score, kind="stable")[:most]  # equal ones in the order of the alphabet
        chosen.append(tuple(str(names[word]) for word in order if score[word] > 0))
    return chosen


def evidence(texts: Sequence[str], labels: np.ndarray, clusters: int, rules: Rules) -> np.ndarray:
    """float64[clusters, rules]: how much more than the others a cluster's reviews use a rule's words: the signed square
    root of the Poisson deviance of uses (each word once a review) from expected ones, in proportion to the reviews'
    numbers of distinct words; about standard normal where the two have nothing to do with each other."""
    # English words by their beginning; Korean ones anywhere, as they are written together: 속건조.
    patterns = [[re.compile((r"(?<!\w)" if word[0].isascii() else "") + re.escape(word))
                 for word in (_normalised(one.strip()) for one in rule.words)] for rule in rules.values()]  # fmt: skip
    uses, lengths = np.zeros((clusters, len(rules))), np.zeros(clusters)
    for text, label in zip(texts, labels, strict=True):
        plain = _normalised(text)
        uses[label] += [sum(bool(one.search(plain)) for one in words) for words in patterns]
        lengths[label] += len(set(WORD.findall(plain)))
    expected = uses.sum(axis=0) * (lengths / max(1.0, lengths.sum()))[:, None]
    return np.round(np.sign(uses - expected) * np.sqrt(2 * kl_div(uses, expected)), 9)


def draw_attributes(labels: np.ndarray, personas: Sequence[Persona], rules: Rules, seed: int) -> dict[str, np.ndarray]:
    """int64[n] or object[n] by name, of customers with personas ``labels``, drawn by seed, place and persona."""
    uniform = np.random.default_rng([seed, 0]).random((len(labels), 1 + len(kinds_of(rules))))
    return _attributes(labels, personas, rules, uniform)


def unread_profiles(
    n: int, labels: np.ndarray, personas: Sequence[Persona], rules: Rules, seed: int, draws: int
) -> dict[str, np.ndarray]:
    """[draws, n] by attribute: profiles of ``n`` customers with unread reviews, from the shares of ``labels``."""
    uniform = np.random.default_rng([seed, 1]).random((draws * n, 2 + len(kinds_of(rules))))
    drawn = draw(np.bincount(labels, minlength=len(personas)), uniform[:, 0])
    attributes = _attributes(drawn, personas, rules, uniform[:, 1:])
    return {name: values.reshape(draws, n) for name, values in attributes.items()}


def _attributes(
    labels: np.ndarray, personas: Sequence[Persona], rules: Rules, uniform: np.ndarray
) -> dict[str, np.ndarray]:
    """Attributes from uniform numbers, float64[n, 1 + attributes]: one for the rule, one for each attribute."""
    places = {name: number for number, name in enumerate(rules)}
    own = np.array([places.get(persona.name, -1) for persona in personas], np.int64)[labels]
    rule_of = np.where(own < 0, draw(np.ones(len(rules)), uniform[:, 0]), own)
    result = {}
    for column, (name, kind) in enumerate(kinds_of(rules).items(), start=1):
        result[name] = values = np.empty(len(labels), np.int64 if isinstance(kind, Range) else object)
        for number, rule in enumerate(rules.values()):
            attribute, chance = rule.attributes[name], uniform[rule_of == number, column]
            if isinstance(attribute, Range):
                drawn = attribute.low + np.floor(chance * (attribute.high - attribute.low + 1)).astype(np.int64)
            else:
                drawn = np.array(list(attribute), object)[draw(np.array(list(attribute.values())), chance)]
            values[rule_of == number] = drawn
    return result
