"""A made-up marketplace in files with the columns of MerRec, whose best reachable recall is known.

What happens on it is in market/world.py; here are its files, in the words of market/words.yaml, for ``merrec.read``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxrec.cli.text import read_yaml
from jaxrec.data.clean.protocol import DAY, Extras, Raw
from jaxrec.errors import UserError
from jaxrec.sources import merrec
from jaxrec.sources.market import world
from jaxrec.sources.market.world import START, Day, Market, optimum
from jaxrec.sources.shared import Numbers, add_numbers

HELP = "made-up events on the listings of a marketplace, with a known best result; needs no raw data"
KIND = "events"
DEFAULTS = merrec.DEFAULTS

NAMES_OF_A_BRAND = 200  # in the mean, of those that there can be
LISTINGS = "_listings.parquet"  # the reader passes over what starts with _
QUERIES = 20_000  # the optimum is computed over this many test targets at most
OPTIONS: Numbers = {
    "events": (int, 1, 10**8, 200_000, "events to make, about"),
    "items": (int, 2, 10**7, 20_000, "listings in all days together"),
    "names": (int, 1, 100_000, 20_000, "different names, at most"),
    "users": (int, 1, 10**7, 5000, "users"),
    "days": (int, 2, 365, 30, "days over which all this happens"),
    "lifetime": (float, 1, 365, 5.0, "days for which a listing that is not sold stays, in the mean"),
    "mean_length": (float, 3, 20, 6.0, "mean events of a sequence, of which each has 3 or more"),
    "skew": (float, 0, 2, 0.8, "popularity of brands falls as rank to the power of -skew; 0: all are alike"),
    "seed": (int, 0, 2**32, 0, "another seed makes another data set"),
}
WORDS: dict[str, Any] = read_yaml(Path(__file__).with_name("market") / "words.yaml", "the words of the market")
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


def add_arguments(parser: ArgumentParser) -> None:
    add_numbers(parser, OPTIONS)
    parser.add_argument("--raw-out", type=Path, metavar="DIR", help="keep the files there, for prepare merrec --raw")


def read(connection: Any, arguments: Namespace) -> Raw:
    chosen = {name: getattr(arguments, name) for name in OPTIONS}
    listings, days, lifetime, mean = (chosen[name] for name in ("items", "days", "lifetime", "mean_length"))
    if listings - world.first_day(listings, days, lifetime) < days - 1:
        raise UserError(f"--items {listings}: too few for new ones on each of --days {days}; give more, or fewer days")
    (spill,) = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    folder = arguments.raw_out or Path(spill) / "market"
    process, words, attributes = (np.random.default_rng([arguments.seed, stream]) for stream in range(3))
    sizes = (2 + arguments.names // NAMES_OF_A_BRAND, len(C2), len(STYLES))
    market = world.make_market(arguments.names, sizes, arguments.skew, listings, days, lifetime, process)
    goods = make_goods(market, words, attributes)
    ids = goods["item_id"].to_numpy()
    sequences = max(1, round(arguments.events / mean))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--raw-out {folder}: not empty; choose another folder")
    for day in world.simulate(market, days, sequences, mean, arguments.users, process):
        if len(day.items):
            _write(day_of_events(day, goods, attributes), folder / f"{_date(day.day)}.parquet")
    live = {"listed": START + market.listed * DAY, "sold": START + market.ends * DAY}
    _write(pa.table({"item_id": ids, **live}), folder / LISTINGS)
    files = ArgumentParser()
    merrec.add_arguments(files)
    reading = files.parse_args(["--raw", str(folder)])
    raw = merrec.read(connection, reading, folder / LISTINGS)

    def extras(path: Path) -> Extras:
        files, counts, entries = raw.extras(path)  # type: ignore[misc]
        # Without rare items sequences have gaps, and what follows a gap is not distributed as the process says.
        known = arguments.min_item_support == 1
        return files, counts, entries | (_optimum(market, ids, path, arguments.seed) if known else {})

    return replace(raw, name="the synthetic events", options=chosen | raw.options, extras=extras)


def _write(table: pa.Table, file: Path) -> None:
    # Without Arrow's own schema the columns of few values are text like any other to those who read the file.
    pyarrow.parquet.write_table(table, file, store_schema=False)


def _date(day: int) -> str:
    return str(np.datetime64(START, "ms").astype("datetime64[D]") + day).replace("-", "")


def _optimum(market: Market, ids: np.ndarray, path: Path, seed: int) -> dict[str, Any]:
    """The manifest's ``optimum``, for the test split as prepared; nothing where there is none."""
    offsets = np.load(path / "test" / "offsets.npy")
    queries = np.delete(np.arange(offsets[-1]), offsets[1:] - 1)  # the last of a sequence has no next
    if not len(queries):
        return {}
    if len(queries) > QUERIES:
        queries = np.sort(np.random.default_rng(seed).choice(queries, QUERIES, replace=False))
    items, times, events = (np.load(path / "test" / f"{name}.npy")[queries] for name in ("items", "times", "events"))
    table = pyarrow.parquet.read_table(path / "items.parquet")
    by_id = np.argsort(ids)
    listings = by_id[np.searchsorted(ids[by_id], table["item"].to_numpy())]
    seen = np.zeros(len(ids), bool)
    seen[listings[table["count"].to_numpy() > 0]] = True
    return {"optimum": optimum(market, seen, (times - START) // DAY, listings[items], events)}


def make_goods(market: Market, words: np.random.Generator, random: np.random.Generator) -> pa.Table:
    """The columns that describe listings, a row each: ``words`` decides on brands and names, ``random`` on the rest."""
    n, (n_brands, n_categories, _) = len(market.name), market.sizes
    brands = brand_words(n_brands - 1, words)
    texts = listing_texts(market, brands, words)
    brand, category = market.brand[market.name], market.category[market.name]
    first, second = np.array(TOP)[category], np.array(SECOND)[category]
    centre = np.log(30) + 0.8 * words.normal(size=n_categories)[category]
    centre = centre + 0.4 * words.normal(size=n_brands)[brand]
    ids = random.permutation(np.cumsum(random.integers(1, 200, size=n)))
    price = np.maximum(3.0, np.round(np.exp(centre + 0.5 * random.normal(size=n))))
    condition = np.searchsorted(np.cumsum([0.4, 0.3, 0.2, 0.08]), random.random(n), side="right")
    shipper = random.integers(len(SHIPPERS), size=n)
    sized = np.isin(second, [C1.index(name) for name in WORDS["sized"]]) & (random.random(n) < 0.8)
    size = np.where(sized, random.integers(len(SIZES), size=n), -1)
    colour = np.where(random.random(n) < 0.3, random.integers(len(COLOURS), size=n), -1)
    brand_ids = np.concatenate([[0], words.permutation(np.cumsum(words.integers(1, 20, size=len(brands))))])
    products = [f"{brand_ids[one]}_{C2_ID + kind}" for one, kind in zip(market.brand, market.category, strict=True)]
    return pa.table({
        "item_id": ids,
        "product_id": pa.array(products).dictionary_encode().take(pa.array(market.name)),
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
        text = " ".join(words + EXTRAS[extra[i] : extra[i] + 1])
        texts.append((text, text.title(), text.lower(), text[0].upper() + text[1:])[case[i]])
    return texts


def day_of_events(day: Day, goods: pa.Table, random: np.random.Generator) -> pa.Table:
    """The 25 columns for the events of a day, with the types of MerRec's files."""
    sequences = len(day.lengths)
    seconds = START // 1000 + day.day * world.SECONDS + day.seconds
    session = np.frombuffer(random.bytes(32 * sequences).hex().encode(), "S64").astype("U64").tolist()
    columns = {
        "user_id": 1 + np.repeat(day.users, day.lengths),
        "stime": pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string()),
        "session_id": _texts(session, np.repeat(np.arange(sequences), day.lengths)),
        "sequence_id": _texts([f"{_date(day.day)}_0"], np.zeros(len(seconds), np.int64)),
        "sequence_length": np.repeat(day.lengths, day.lengths),
        "event_id": _texts(merrec.EVENT_TYPES, day.events),
    }
    described = goods.take(pa.array(day.items))
    return pa.table(columns | dict(zip(described.column_names, described.columns, strict=True)))


def _texts(values: Sequence[str], codes: np.ndarray) -> pa.DictionaryArray:
    """The texts of int[n] codes; none for -1."""
    codes = codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(values))
