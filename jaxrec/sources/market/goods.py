"""What the listings of the made-up market are like besides what its process knows, in the columns of MerRec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jaxrec.sources.market.words import WORDS, brand_words, category_levels, listing_texts
from jaxrec.sources.market.world import SECONDS, START, Day, Market, date_of
from jaxrec.sources.merrec import EVENT_TYPES

SIZES, COLOURS, CONDITIONS, SHIPPERS = (WORDS[part] for part in ("sizes", "colours", "conditions", "shippers"))
C0_ID, C1_ID, C2_ID = 10, 200, 1000  # of the first category of each level


def make_goods(market: Market, words: np.random.Generator, random: np.random.Generator) -> pa.Table:
    """The columns of MerRec that describe listings, a row each; nothing that happens follows from them.

    Args:
        market: with its listings.
        words: decides on brands and names.
        random: decides on the rest, by listing.
    """
    names, n = market.names, len(market.name)
    c0, c1, c2, first, second = category_levels()
    brands = brand_words(names.sizes[0] - 1, words)
    texts = listing_texts(names.brand, names.category, names.style, brands, words)
    brand, category = names.brand[market.name], names.category[market.name]
    sized = np.isin(second[category], [c1.index(name) for name in WORDS["sized"]])
    centre = np.log(30) + 0.8 * words.normal(size=names.sizes[1])[category]
    centre = centre + 0.4 * words.normal(size=names.sizes[0])[brand]
    ids = random.permutation(np.cumsum(random.integers(1, 200, size=n)))
    price = np.maximum(3.0, np.round(np.exp(centre + 0.5 * random.normal(size=n))))
    condition = np.searchsorted(np.cumsum([0.4, 0.3, 0.2, 0.08]), random.random(n), side="right")
    shipper = random.integers(len(SHIPPERS), size=n)
    has_size = sized & (random.random(n) < 0.8)
    size = np.where(has_size, random.integers(len(SIZES), size=n), -1)
    has_colour = random.random(n) < 0.3
    colour = np.where(has_colour, random.integers(len(COLOURS), size=n), -1)
    brand_ids = np.concatenate([[0], words.permutation(np.cumsum(words.integers(1, 20, size=len(brands))))])
    products, product = np.unique(names.brand * len(c2) + names.category, return_inverse=True)
    product_ids = [f"{brand_ids[p // len(c2)]}_{C2_ID + p % len(c2)}" for p in products]
    return pa.table({
        "item_id": ids,
        "product_id": _texts(product_ids, product[market.name]),
        "name": _texts(texts, market.name),
        "price": price,
        "c0_name": _texts(c0, first[category]),
        "c0_id": C0_ID + first[category],
        "c1_name": _texts(c1, second[category]),
        "c1_id": (C1_ID + second[category]).astype(np.float64),  # as in MerRec, whose columns have gaps
        "c2_name": _texts([noun.capitalize() for noun in c2], category),
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
