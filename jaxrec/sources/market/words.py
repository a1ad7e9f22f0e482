"""Names of the listings of the made-up market, from the words of ``words.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.yaml_text import read_yaml

WORDS: dict[str, Any] = read_yaml(Path(__file__).with_name("words.yaml"), "the words of the market")
CATEGORIES: dict[str, dict[str, str]] = WORDS["categories"]
STYLES, EXTRAS = WORDS["styles"].split(), WORDS["extras"].split()
SYLLABLES = [WORDS[part].split() for part in ("onsets", "vowels", "onsets", "vowels", "ends")]


def category_levels() -> tuple[list[str], list[str], list[str], np.ndarray, np.ndarray]:
    """The names of c0, c1 and c2, and for each c2 the index of its c0 and of its c1: int64[c2] each."""
    c0, c1 = list(CATEGORIES), [name for inner in CATEGORIES.values() for name in inner]
    places = [(noun, c0.index(top), c1.index(name)) for top, inner in CATEGORIES.items()
              for name, nouns in inner.items() for noun in nouns.split()]  # fmt: skip
    c2, first, second = zip(*places, strict=True)
    return c0, c1, list(c2), np.array(first), np.array(second)


def brand_words(n: int, random: np.random.Generator) -> list[str]:
    """``n`` different invented words that can be pronounced, some of them two words."""
    taken = set(category_levels()[2])
    words: list[str] = []
    while len(words) < n:
        word = "".join(part[random.integers(len(part))] for part in SYLLABLES)
        if word not in taken:
            taken.add(word)
            seconds = WORDS["second_words"]
            second = f" {seconds[random.integers(len(seconds))]}" if random.random() < 0.15 else ""
            words.append(word.capitalize() + second)
    return words


def listing_texts(
    brand: np.ndarray, category: np.ndarray, style: np.ndarray, brands: list[str], random: np.random.Generator
) -> list[str]:
    """What the names say: brand, style and category in one of several orders, perhaps a word more, in any case.

    Args:
        brand: int[U], 0 for no brand, otherwise one more than the index into ``brands``.
        category, style: int[U].
        brands: as ``brand_words`` gives them.
        random: decides on all the rest.
    """
    nouns = category_levels()[2]
    order, case, extra = (random.integers(n, size=len(brand)) for n in (3, 4, 2 * len(EXTRAS)))
    texts = []
    for i in range(len(brand)):
        words = [STYLES[style[i]], nouns[category[i]]]
        if brand[i]:
            words.insert((0, 0, 1)[order[i]], brands[brand[i] - 1])
        elif order[i] == 2:
            words.reverse()
        if extra[i] < len(EXTRAS):
            words.append(EXTRAS[extra[i]])
        text = " ".join(words)
        texts.append((text, text.title(), text.lower(), text[0].upper() + text[1:])[case[i]])
    return texts
