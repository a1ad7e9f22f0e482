"""What the listings of the made-up market are like, in the columns of MerRec, with names of ``words.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.cli.text import read_yaml
from jaxrec.sources.market.world import SECONDS, START, Day, Market, date_of
from jaxrec.sources.merrec import EVENT_TYPES

WORDS: dict[str, Any] = read_yaml(Path(__file__).with_name("words.yaml"), "the words of the market")
SIZES, COLOURS, CONDITIONS, SHIPPERS = (WORDS[part] for part in ("sizes", "colours", "conditions", "shippers"))
STYLES, EXTRAS = WORDS["styles"].split(), WORDS["extras"].split()
SYLLABLES = [WORDS[part].split() for part in ("onsets", "vowels", "onsets", "vowels", "ends")]
C0, C1 = list(WORDS["categories"]), [name for inner in WORDS["categories"].values() for name in inner]
C2, TOP, SECOND = zip(
    *((noun, C0.index(top), C1.index(name)) for top, inner in WORDS["categories"].items()
      for name, nouns in inner.items() for noun in nouns.split()),
    strict=True,
)  # fmt: skip
"""The names of the categories, and for each of ``C2`` the indices of its c0 and its c1."""
C0_ID, C1_ID, C2_ID = 10, 200, 1000  # of the first category of each level


def make_goods(market: Market, words: np.random.Generator, random: np.random.Generator) -> pa.Table:
    """The columns of MerRec that describe listings, a row each; nothing that happens follows from them.

    Args:
        words: decides on brands and names.
        random: decides on the rest, by listing.
    """
    n = len(market.name)
    brands = brand_words(market.sizes[0] - 1, words)
    texts = listing_texts(market, brands, words)
    brand, category = market.brand[market.name], market.category[market.name]
    first, second = np.array(TOP)[category], np.array(SECOND)[category]
    centre = np.log(30) + 0.8 * words.normal(size=market.sizes[1])[category]
    centre = centre + 0.4 * words.normal(size=market.sizes[0])[brand]
    ids = random.permutation(np.cumsum(random.integers(1, 200, size=n)))
    price = np.maximum(3.0, np.round(np.exp(centre + 0.5 * random.normal(size=n))))
    condition = np.searchsorted(np.cumsum([0.4, 0.3, 0.2, 0.08]), random.random(n), side="right")
    shipper = random.integers(len(SHIPPERS), size=n)
    has_size = np.isin(second, [C1.index(name) for name in WORDS["sized"]]) & (random.random(n) < 0.8)
    size = np.where(has_size, random.integers(len(SIZES), size=n), -1)
    has_colour = random.random(n) < 0.3
    colour = np.where(has_colour, random.integers(len(COLOURS), size=n), -1)
    brand_ids = np.concatenate([[0], words.permutation(np.cumsum(words.integers(1, 20, size=len(brands))))])
    products = [f"{brand_ids[one]}_{C2_ID + kind}" for one, kind in zip(market.brand, market.category, strict=True)]
    product = pa.array(products).dictionary_encode().take(pa.array(market.name))
    return pa.table({
        "item_id": ids,
        "product_id": product,
        "name": _texts(texts, market.name),
        "price": price,
        "c0_name": _texts(C0, first),
        "c0_id": C0_ID + first,
        "c1_name": _texts(C1, second),
        "c1_id": (C1_ID + second).astype(np.float64),  # as in MerRec, whose columns have gaps
        "c2_name": _texts([noun.capitalize() for noun in C2], category),
        "c2_id": (C2_ID + category).astype(np.float64),
        "brand_name": _texts(brands, brand - 1),
        "brand_id": brand_ids[brand],
        "item_condition_id": 1 + condition,
        "item_condition_name": _texts(CONDITIONS, condition),
        "size_name": _texts(SIZES, size),
        "size_id": pa.array((1 + size).astype(np.float64), mask=size < 0),
        "color": _texts(COLOURS, colour),
        "shipper_id": 1 + shipper,
        "shipper_name": _texts(SHIPPERS, shipper),
    })  # fmt: skip


def brand_words(n: int, random: np.random.Generator) -> list[str]:
    """``n`` different invented words that can be pronounced, some of them two words."""
    taken, words, seconds = set(C2), list[str](), WORDS["second_words"]
    while len(words) < n:
        word = "".join(part[random.integers(len(part))] for part in SYLLABLES)
        if word not in taken:
            taken.add(word)
            second = f" {seconds[random.integers(len(seconds))]}" if random.random() < 0.15 else ""
            words.append(word.capitalize() + second)
    return words


def listing_texts(market: Market, brands: list[str], random: np.random.Generator) -> list[str]:
    """What the names say: brand, style and category in one of several orders, perhaps a word more, in any case."""
    order, case, extra = (random.integers(n, size=len(market.brand)) for n in (3, 4, 2 * len(EXTRAS)))
    texts = []
    for i, (brand, category, style) in enumerate(zip(market.brand, market.category, market.style, strict=True)):
        words = [STYLES[style], C2[category]]
        if brand:
            words.insert((0, 0, 1)[order[i]], brands[brand - 1])
        elif order[i] == 2:
            words.reverse()
        words += EXTRAS[extra[i] : extra[i] + 1]
        text = " ".join(words)
        texts.append((text, text.title(), text.lower(), text[0].upper() + text[1:])[case[i]])
    return texts


def day_of_events(day: Day, goods: pa.Table, random: np.random.Generator) -> pa.Table:
    """The 25 columns of MerRec for the events of a day, with the types of its files."""
    sequences = len(day.lengths)
    seconds = START // 1000 + day.day * SECONDS + day.seconds
    session = np.frombuffer(random.bytes(32 * sequences).hex().encode(), "S64").astype("U64").tolist()
    columns = {
        "user_id": 1 + np.repeat(day.users, day.lengths),
        "stime": pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string()),
        "session_id": _texts(session, np.repeat(np.arange(sequences), day.lengths)),
        "sequence_id": _texts([f"{date_of(day.day)}_0"], np.zeros(len(seconds), np.int64)),
        "sequence_length": np.repeat(day.lengths, day.lengths),
        "event_id": _texts(EVENT_TYPES, day.events),
    }
    described = goods.take(pa.array(day.items))
    return pa.table(columns | dict(zip(described.column_names, described.columns, strict=True)))


def _texts(values: Sequence[str], codes: np.ndarray) -> pa.DictionaryArray:
    """The texts of int[n] codes; none for -1."""
    codes = codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(values))
