"""Words of reviews: which tell a cluster from the others, and which rule of the table a cluster follows.

Words are runs of letters, so that Korean and English go the same way; no stop words and no dictionary: what all
clusters use alike tells nothing, and is weighted so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from jaxrec.personas.rules import Rule

WORD = re.compile(r"[^\W\d_]{2,}")
LEAST = 1.0  # of the evidence for naming a cluster, in standard deviations


def normalised(text: str) -> str:
    """Composed and without capitals: the same word is the same text (Korean may come as single letters)."""
    return unicodedata.normalize("NFC", text).casefold()


def words_of(text: str) -> set[str]:
    """The distinct words of two letters or more, normalised."""
    return set(WORD.findall(normalised(text)))


def telling_words(texts: Sequence[str], labels: np.ndarray, clusters: int, most: int) -> list[tuple[str, ...]]:
    """The words that each cluster's reviews use more than the others', most telling first, at most ``most``.

    A word's score is the log-likelihood ratio of a review having it inside and outside of the cluster, which can be
    trusted for rare words too (Dunning, Accurate Methods for the Statistics of Surprise and Coincidence, 1993). A word
    of one review only is left out.

    Args:
        texts: n reviews.
        labels: int[n], below ``clusters``.
    """
    found = [sorted(words_of(text)) for text in texts]
    flat = [word for words in found for word in words]
    if not flat:
        return [()] * clusters
    names, index = np.unique(flat, return_inverse=True)
    cluster_of = np.repeat(labels, [len(words) for words in found])
    total = np.bincount(index, minlength=len(names))
    sizes = np.bincount(labels, minlength=clusters)
    chosen = []
    for cluster in range(clusters):
        inside = np.bincount(index[cluster_of == cluster], minlength=len(names))
        score = _likelihood_ratio(inside, total, int(sizes[cluster]), len(texts))
        score[total < 2] = 0
        order = np.argsort(-score, kind="stable")[:most]  # equal ones in the order of the alphabet
        chosen.append(tuple(str(names[word]) for word in order if score[word] > 0))
    return chosen


def _likelihood_ratio(inside: np.ndarray, total: np.ndarray, size: int, n: int) -> np.ndarray:
    """float64[words]: of ``size`` of all ``n`` reviews ``inside`` have the word; 0 where that is no more than expected.

    Args:
        inside, total: int[words], reviews with the word in the cluster and in all.
    """
    have = np.stack([inside, total - inside])
    sizes = np.array([[size], [n - size]])
    counts = np.concatenate([have, sizes - have])
    expected = np.concatenate([sizes * total, sizes * (n - total)]) / n
    ratio = np.divide(counts, expected, out=np.ones_like(expected), where=counts > 0)
    score = 2 * (counts * np.log(ratio)).sum(axis=0)
    return np.round(np.where(inside * n > size * total, score, 0.0), 9)  # rounded: ties are those of the counts


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
        lengths[label] += len(words_of(text))
    expected = uses.sum(axis=0) * (lengths / max(1.0, lengths.sum()))[:, None]
    ratio = np.divide(uses, expected, out=np.ones_like(uses), where=uses > 0)  # what is not used weighs 0 below
    deviance = 2 * (uses * np.log(ratio) - (uses - expected))
    return np.round(np.sign(uses - expected) * np.sqrt(np.maximum(deviance, 0)), 9)


def _pattern(word: str) -> re.Pattern[str]:
    """English words by their beginning; Korean ones anywhere, as they are written together: 속건조."""
    plain = normalised(word.strip())
    return re.compile((r"(?<!\w)" if plain[0].isascii() else "") + re.escape(plain))


def match_rules(scores: np.ndarray) -> list[int | None]:
    """Each cluster's rule, one to one, with the largest sum of evidence; None where it is less than ``LEAST``."""
    from scipy.optimize import linear_sum_assignment

    gain = np.where(scores >= LEAST, scores, 0.0)
    matched: list[int | None] = [None] * len(scores)
    for cluster, rule in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if gain[cluster, rule] > 0:
            matched[cluster] = int(rule)
    return matched
