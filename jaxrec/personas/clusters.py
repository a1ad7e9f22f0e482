"""Personas: clusters of reviews by what they say, and customers drawn from them.

The embeddings of the reviews are clustered, each cluster is described by its telling words and the reviews nearest to
its centre, and named from a table of rules (rules.py) where its words speak for one. A customer's attributes are then
drawn from the distributions of its persona's rule: nothing of them is known, all is derived.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.errors import UserError
from jaxrec.personas.rules import UNNAMED, Range, Rule

CLUSTERS = (2, 12)  # the least and the most that are tried where the number is not given
WORDS, NEAREST = 8, 3  # of a persona's description
MEASURED = 2000  # reviews on which silhouettes are measured: their time grows with the square
STARTS = 10  # of K-means
WORD = re.compile(r"[^\W\d_]{2,}")  # runs of letters, so that Korean and English go the same way
LEAST = 1.0  # of the evidence for naming a cluster, in standard deviations


@dataclass(frozen=True)
class Persona:
    """A cluster of reviews."""

    name: str  # of its rule, or persona_<number>
    title: str  # of its rule, or empty
    rule: bool  # whether it has one
    size: int  # number of its reviews
    words: tuple[str, ...]  # its telling words, most telling first
    nearest: tuple[int, ...]  # numbers of the reviews nearest to its centre, nearest first


# ---- finding and describing ------------------------------------------------------------------------------------------


def find_personas(
    embeddings: np.ndarray, texts: Sequence[str], rules: Sequence[Rule], k: int | None, seed: int
) -> tuple[np.ndarray, tuple[Persona, ...]]:
    """Cluster reviews by K-means on their normalised embeddings, float[n, d], and name the clusters: int32[n], the
    persona of each review, and the personas, largest first, of equal ones that with the earliest review first.

    The result depends neither on the number of threads nor on what K-means calls its clusters.

    Args:
        rules: names to give, one to one.
        k: number of personas; None: that of 2 to 12 with the best silhouette.
        seed: from 0 to 2**32 - 1.
    """
    points = _directions(embeddings)
    different = len(np.unique(points, axis=0))
    least = CLUSTERS[0] + 1 if k is None else k
    if different < least:
        raise UserError(f"{len(points)} reviews ({different} different ones) for {k or 'a number of'} personas; "
                        f"expected at least {least}; add reviews or ask for fewer personas (--clusters)")  # fmt: skip
    try:
        from scipy.optimize import linear_sum_assignment
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        message = f"personas need scikit-learn (no module '{error.name}'); pip install 'jaxrec[text]'"
        raise UserError(message) from None
    # One thread: several sum the members of a cluster in any order, and a last bit may move a review.
    with threadpool_limits(limits=1):
        counts = [k] if k is not None else range(CLUSTERS[0], min(CLUSTERS[1], different - 1) + 1)
        tried = [_cluster(points, count, seed) for count in counts]
        labels = tried[0] if k is not None else max(tried, key=lambda labels: _silhouette(points, labels, seed))
    names = [f"{UNNAMED}{number}" for number in range(int(labels.max()) + 1)]
    scores = evidence(texts, labels, len(names), rules)
    gain = np.where(scores >= LEAST, scores, 0.0)
    for cluster, rule in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if gain[cluster, rule] > 0:
            names[cluster] = rules[rule].name
    return labels, describe(labels, names, texts, rules, embeddings)


def describe(
    labels: np.ndarray, names: Sequence[str], texts: Sequence[str], rules: Sequence[Rule], embeddings: np.ndarray | None
) -> tuple[Persona, ...]:
    """The personas of clusters that have names already, int[n] ``labels``; without embeddings, float[n, d], the nearest
    reviews are not known.
    """
    titles = {rule.name: rule.title for rule in rules}
    words = telling_words(texts, labels, len(names), WORDS)
    nearest = [()] * len(names) if embeddings is None else _nearest(_directions(embeddings), labels, len(names), texts)
    sizes = np.bincount(labels, minlength=len(names)).tolist()
    return tuple(
        Persona(name, titles.get(name, ""), name in titles, *rest)
        for name, *rest in zip(names, sizes, words, nearest, strict=True)
    )


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """float64[n, d] of length 1, as sentences are compared by angle; zeros stay."""
    points = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    # Rounded far above the error of a sum: what differs by less is one sentence, which K-means could not tell apart.
    return np.round(points / np.where(lengths > 0, lengths, 1.0), 6)


def _cluster(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """int32[n], in the order that ``find_personas`` promises."""
    from sklearn.cluster import KMeans

    found = KMeans(k, n_init=STARTS, random_state=seed).fit_predict(points)
    clusters, first, members = np.unique(found, return_index=True, return_counts=True)
    place = np.zeros(k, np.int32)
    place[clusters[np.lexsort((first, -members))]] = np.arange(len(clusters))
    return place[found]


def _silhouette(points: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """From -1 to 1, on at most ``MEASURED`` reviews; -1 where those are of one cluster only."""
    from sklearn.metrics import silhouette_score

    if len(points) > MEASURED:
        chosen = np.random.default_rng(seed).choice(len(points), MEASURED, replace=False)
        points, labels = points[chosen], labels[chosen]
    return round(float(silhouette_score(points, labels)), 6) if len(np.unique(labels)) > 1 else -1.0


def _nearest(points: np.ndarray, labels: np.ndarray, clusters: int, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Of each cluster the members nearest to its centre; of those that say the same the first."""
    found = []
    for cluster in range(clusters):
        members = np.flatnonzero(labels == cluster)
        distances = np.round(((points[members] - points[members].mean(axis=0)) ** 2).sum(axis=1), 9)
        chosen: dict[str, int] = {}
        for member in members[np.argsort(distances, kind="stable")].tolist():
            chosen.setdefault(texts[member], member)
        found.append(tuple(chosen.values())[:NEAREST])
    return found


# ---- words -----------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Composed and without capitals: the same word is the same text (Korean may come as single letters)."""
    return unicodedata.normalize("NFC", text).casefold()


def telling_words(texts: Sequence[str], labels: np.ndarray, clusters: int, most: int) -> list[tuple[str, ...]]:
    """The words that each cluster's reviews use more than the others', most telling first, at most ``most``.

    A word's score is the log-likelihood ratio of a review having it inside and outside of the cluster, which can be
    trusted for rare words too (Dunning, Accurate Methods for the Statistics of Surprise and Coincidence, 1993). A word
    of one review only is left out. ``labels``: int[n], below ``clusters``.
    """
    found = [sorted(set(WORD.findall(normalised(text)))) for text in texts]
    flat = [word for words in found for word in words]
    if not flat:
        return [()] * clusters
    names, index = np.unique(flat, return_inverse=True)
    cluster_of = np.repeat(labels, [len(words) for words in found])
    total, n = np.bincount(index, minlength=len(names)), len(texts)
    chosen = []
    for cluster, size in enumerate(np.bincount(labels, minlength=clusters).tolist()):
        inside = np.bincount(index[cluster_of == cluster], minlength=len(names))
        have, sizes = np.stack([inside, total - inside]), np.array([[size], [n - size]])
        counts = np.concatenate([have, sizes - have])  # with the word and without, in the cluster and outside
        expected = np.concatenate([sizes * total, sizes * (n - total)]) / n
        score = 2 * (counts * _log_ratio(counts, expected)).sum(axis=0)
        score = np.round(np.where((inside * n > size * total) & (total > 1), score, 0.0), 9)  # ties are of the counts
        order = np.argsort(-score, kind="stable")[:most]  # equal ones in the order of the alphabet
        chosen.append(tuple(str(names[word]) for word in order if score[word] > 0))
    return chosen


def _log_ratio(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """log(counts / expected), 0 where nothing was counted."""
    return np.log(np.divide(counts, expected, out=np.ones_like(expected), where=counts > 0))


def evidence(texts: Sequence[str], labels: np.ndarray, clusters: int, rules: Sequence[Rule]) -> np.ndarray:
    """float64[clusters, rules]: how much more than the others a cluster's reviews use a rule's words; 0 is no more.

    Uses count each of a rule's words once a review, and those expected are in proportion to the reviews' numbers of
    distinct words, as a long review holds words of every rule. The result is the signed square root of the Poisson
    deviance of uses from expected uses, so about standard normal where a cluster has nothing to do with a rule.
    """
    patterns = [[_pattern(word) for word in rule.words] for rule in rules]
    uses, lengths = np.zeros((clusters, len(rules))), np.zeros(clusters)
    for text, label in zip(texts, labels, strict=True):
        plain = normalised(text)
        uses[label] += [sum(bool(one.search(plain)) for one in words) for words in patterns]
        lengths[label] += len(set(WORD.findall(plain)))
    expected = uses.sum(axis=0) * (lengths / max(1.0, lengths.sum()))[:, None]
    deviance = 2 * (uses * _log_ratio(uses, expected) - (uses - expected))
    return np.round(np.sign(uses - expected) * np.sqrt(np.maximum(deviance, 0)), 9)


def _pattern(word: str) -> re.Pattern[str]:
    """English words by their beginning; Korean ones anywhere, as they are written together: 속건조."""
    plain = normalised(word.strip())
    return re.compile((r"(?<!\w)" if plain[0].isascii() else "") + re.escape(plain))


# ---- customers -------------------------------------------------------------------------------------------------------


def draw_attributes(
    labels: np.ndarray, personas: Sequence[Persona], rules: Sequence[Rule], seed: int
) -> dict[str, np.ndarray]:
    """Attributes of customers with personas ``labels``, int[n]: by name int64[n], or object[n] of text, each drawn from
    the rule of its persona; from any rule where the persona has none.

    A customer's attributes depend on ``seed``, its place and its persona only: they stay when customers are added
    behind it or others change their personas.
    """
    uniform = np.random.default_rng([seed, 0]).random((len(labels), 1 + len(rules[0].attributes)))
    return _attributes(np.asarray(labels), personas, rules, uniform)


def unread_profiles(
    n: int, labels: np.ndarray, personas: Sequence[Persona], rules: Sequence[Rule], seed: int, draws: int
) -> dict[str, np.ndarray]:
    """Profiles of ``n`` customers whose reviews are not read, [draws, n] by attribute: a persona by its share among
    ``labels``, int[m], those of the reviews that may be read, and attributes from its rule.
    """
    uniform = np.random.default_rng([seed, 1]).random((draws * n, 2 + len(rules[0].attributes)))
    drawn = _pick(np.bincount(labels, minlength=len(personas)), uniform[:, 0])
    attributes = _attributes(drawn, personas, rules, uniform[:, 1:])
    return {name: values.reshape(draws, n) for name, values in attributes.items()}


def _attributes(
    labels: np.ndarray, personas: Sequence[Persona], rules: Sequence[Rule], uniform: np.ndarray
) -> dict[str, np.ndarray]:
    """Attributes from uniform numbers, float64[n, 1 + attributes]: one for the rule, one for each attribute."""
    places = {rule.name: number for number, rule in enumerate(rules)}
    own = np.array([places.get(persona.name, -1) if persona.rule else -1 for persona in personas], np.int64)[labels]
    rule_of = np.where(own < 0, _pick(np.ones(len(rules)), uniform[:, 0]), own)
    result = {}
    for column, (name, kind) in enumerate(rules[0].attributes.items(), start=1):
        result[name] = values = np.empty(len(labels), np.int64 if isinstance(kind, Range) else object)
        for number, rule in enumerate(rules):
            values[rule_of == number] = _draw(rule.attributes[name], uniform[rule_of == number, column])
    return result


def _draw(attribute: Range | dict[str, float], uniform: np.ndarray) -> Any:
    """The values that numbers from 0 to 1 stand for, by the inverse of the cumulative distribution."""
    if not isinstance(attribute, Range):
        return np.array(list(attribute), object)[_pick(np.array(list(attribute.values())), uniform)]
    low, high = attribute.low, attribute.high
    if attribute.mean is None or attribute.deviation is None:
        return low + np.floor(uniform * (high - low + 1)).astype(np.int64)
    from scipy.special import ndtr, ndtri

    # Half a unit beyond the ends, so that these are rounded to as often as other numbers are.
    least, most = ((bound - attribute.mean) / attribute.deviation for bound in (low - 0.5, high + 0.5))
    z = ndtri(ndtr(least) + uniform * (ndtr(most) - ndtr(least)))
    return np.clip(np.rint(attribute.mean + attribute.deviation * z), low, high).astype(np.int64)


def _pick(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """int64[n]: the place of each number among the cumulated weights."""
    bounds = np.cumsum(weights) / np.sum(weights)
    return np.searchsorted(bounds[:-1], uniform, side="right")
