"""A made-up marketplace in files with the columns of MerRec, whose best reachable recall is known.

What happens on it is in jaxrec/sources/market/world.py. The files go through the reader of ``prepare merrec``, so that
all that is done with MerRec can be done without it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxrec.data.clean.choices import Raw
from jaxrec.data.clean.splits import DAY
from jaxrec.data.reading.unpacked import find_files
from jaxrec.errors import UserError
from jaxrec.sources import merrec
from jaxrec.sources.market.optimum import optimum
from jaxrec.sources.market.words import (
    COLOURS,
    CONDITIONS,
    SHIPPERS,
    SIZED,
    SIZES,
    STYLES,
    brand_words,
    category_levels,
    listing_texts,
)
from jaxrec.sources.market.world import (
    LEAST_LENGTH,
    SECONDS,
    Day,
    Market,
    first_day,
    make_market,
    make_names,
    simulate,
)
from jaxrec.sources.merrec_columns import EVENT_TYPES
from jaxrec.sources.shared import add_number

HELP = "made-up events on the listings of a marketplace, with a known best result; needs no raw data"
KIND = "events"
DEFAULTS = merrec.DEFAULTS

START = 1_682_899_200_000  # 2023-05-01 UTC, in ms
NAMES_OF_A_BRAND = 200  # in the mean, of those that there can be
C0_ID, C1_ID, C2_ID = 10, 200, 1000  # of the first category of each level
LISTINGS = "_listings.parquet"  # the reader passes over what starts with _
QUERIES = 20_000  # the optimum is computed over this many test targets at most


def add_arguments(parser: ArgumentParser) -> None:
    number = partial(add_number, parser)
    number("events", int, 1, 10**8, 200_000, "events to make, about")
    number("items", int, 2, 10**7, 20_000, "listings in all days together")
    number("names", int, 1, 100_000, 20_000, "different names, at most")
    number("users", int, 1, 10**7, 5000, "users")
    number("days", int, 2, 365, 30, "days over which all this happens")
    number("lifetime", float, 1, 365, 5.0, "days for which a listing that is not sold stays, in the mean")
    number("mean-length", float, LEAST_LENGTH, 20, 6.0, f"mean events of a sequence, of which each has {LEAST_LENGTH} "
           "or more")  # fmt: skip
    number("skew", float, 0, 2, 0.8, "popularity of brands falls as rank to the power of -skew; 0: all are alike")
    number("seed", int, 0, 2**32, 0, "another seed makes another data set")
    parser.add_argument("--raw-out", type=Path, metavar="DIR", help="keep the files there, for prepare merrec --raw")
    merrec.add_protocol_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Make the files and fill the table ``raw`` from them; see ``choices.Raw``."""
    full = first_day(arguments.items, arguments.days, arguments.lifetime)
    if arguments.items - full < arguments.days - 1:
        raise UserError(
            f"--items {arguments.items}: too few for new ones on each of --days {arguments.days}; give more, or fewer "
            "days"
        )
    process, words, attributes = (np.random.default_rng([arguments.seed, stream]) for stream in range(3))
    brands = 2 + arguments.names // NAMES_OF_A_BRAND
    categories = len(category_levels()[2])
    names = make_names(arguments.names, brands, categories, len(STYLES), arguments.skew, process)
    market = make_market(names, arguments.items, arguments.days, arguments.lifetime, process)
    goods = make_goods(market, words, attributes)
    with _folder(connection, arguments.raw_out, arguments.out) as (making, folder):
        sequences = max(1, round(arguments.events / arguments.mean_length))
        happened = simulate(market, arguments.days, sequences, arguments.mean_length, arguments.users, process)
        for day in happened:
            if len(day.items):
                _write(goods.events(day, attributes), making / f"{_date(day.day)}.parquet")
        _write(goods.listings(), making / LISTINGS)
    listings = folder / LISTINGS if arguments.target == "item" else None
    raw = merrec.read_files(connection, find_files([str(folder)])[0], arguments, "the synthetic events", listings)
    chosen = ("events", "items", "names", "users", "days", "lifetime", "mean_length", "skew", "seed")
    options = {name: getattr(arguments, name) for name in chosen}

    def extras(path: Path, n_items: int) -> dict[str, Any]:
        entries = raw.extras(path, n_items) if raw.extras else {}
        # Without rare items sequences have gaps, and what follows a gap is not distributed as the process says.
        known = arguments.target == "item" and arguments.min_item_support == 1
        return entries | (_optimum(market, goods.ids, path, arguments.seed) if known else {})

    return replace(raw, options=options | raw.options, extras=extras)


@contextmanager
def _folder(connection: Any, out: Path | None, dataset: Path) -> Iterator[tuple[Path, Path]]:
    """A folder to write to, and where what was written is afterwards: ``out``, or where DuckDB spills."""
    (spill,) = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    try:
        if out is None:
            Path(spill).mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="market", dir=spill))
            yield folder, folder
            return
        if out.resolve().is_relative_to(dataset.resolve()):
            raise UserError(f"{out}: lies in --out; choose another --raw-out")
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"{out}: exists already and is not empty; choose another --raw-out")
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent))
        try:
            making = root / "raw"  # not the root itself, which mkdtemp makes readable by its owner only
            making.mkdir()
            yield making, out
            os.rename(making, out)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        where = f"{out}: cannot be written" if out else f"{spill}: the files of the market cannot be written"
        raise UserError(f"{where} ({error.strerror or error}); choose another place or free some space") from None


def _write(columns: dict[str, Any], file: Path) -> None:
    # Without Arrow's own schema the columns of few values are text like any other to those who read the file.
    pyarrow.parquet.write_table(pa.table(columns), file, store_schema=False)


def _date(day: int) -> str:
    return str(np.datetime64(START + day * DAY, "ms").astype("datetime64[D]")).replace("-", "")


def _optimum(market: Market, ids: np.ndarray, path: Path, seed: int) -> dict[str, Any]:
    """The manifest's ``optimum``, for the test split as prepared; nothing where there is none."""
    offsets = np.load(path / "test" / "offsets.npy")
    followed = np.ones(offsets[-1], bool)
    followed[offsets[1:] - 1] = False
    queries = np.flatnonzero(followed)
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


@dataclass(frozen=True)
class Texts:
    """A column of few different values: text by code."""

    values: pa.Array

    def __call__(self, codes: np.ndarray) -> pa.DictionaryArray:
        """The texts of int[n] codes; none for -1."""
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=codes < 0), self.values)


@dataclass(frozen=True)
class Goods:
    """What the listings of a market are like besides what the process knows; ``L`` listings.

    Attributes:
        market: the market.
        ids: int64[L], distinct.
        price: float64[L].
        condition, shipper: int64[L], indices into ``CONDITIONS`` and ``SHIPPERS``.
        size, colour: int64[L], indices into ``SIZES`` and ``COLOURS``; -1: none.
        texts: what the names say, by name.
        brands: what the brands are called; none for brand 0.
        brand_ids: int64[brands], 0 for brand 0.
    """

    market: Market
    ids: np.ndarray
    price: np.ndarray
    condition: np.ndarray
    shipper: np.ndarray
    size: np.ndarray
    colour: np.ndarray
    texts: pa.Array
    brands: pa.Array
    brand_ids: np.ndarray

    def listings(self) -> dict[str, Any]:
        """``item_id``, ``listed`` and ``sold`` (ms since 1970): from the first day on, until the last is over."""
        market = self.market
        return {"item_id": self.ids, "listed": START + market.listed * DAY, "sold": START + market.ends * DAY}

    def events(self, day: Day, random: np.random.Generator) -> dict[str, Any]:
        """The 25 columns of MerRec for the events of a day; types as in its files, with the numbers of columns that
        have gaps as float64."""
        seconds = START // 1000 + day.day * SECONDS + day.seconds
        session = np.frombuffer(random.bytes(32 * len(day.lengths)).hex().encode(), "S64")
        by_event = np.repeat(np.arange(len(day.lengths)), day.lengths)
        return {
            "user_id": 1 + np.repeat(day.users, day.lengths),
            "stime": pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string()),
            "session_id": Texts(pa.array(session).cast(pa.string()))(by_event),
            "sequence_id": Texts(pa.array([f"{_date(day.day)}_0"]))(np.zeros(len(seconds), np.int64)),
            "sequence_length": np.repeat(day.lengths, day.lengths),
            "event_id": Texts(pa.array(EVENT_TYPES))(day.events.astype(np.int64)),
            **self._items(day.items),
        }

    def _items(self, items: np.ndarray) -> dict[str, Any]:
        """The columns that describe listings, int64[n]."""
        c0, c1, c2, first, second = category_levels()
        names, name = self.market.names, self.market.name[items]
        brand, category = names.brand[name], names.category[name]
        c2_id, size = C2_ID + category, self.size[items]
        products, product = np.unique(brand * len(c2) + category, return_inverse=True)
        product_ids = [f"{self.brand_ids[p // len(c2)]}_{C2_ID + p % len(c2)}" for p in products]
        return {
            "item_id": self.ids[items],
            "product_id": Texts(pa.array(product_ids))(product),
            "name": Texts(self.texts)(name),
            "price": self.price[items],
            "c0_name": Texts(pa.array(c0))(first[category]),
            "c0_id": C0_ID + first[category],
            "c1_name": Texts(pa.array(c1))(second[category]),
            "c1_id": (C1_ID + second[category]).astype(np.float64),
            "c2_name": Texts(pa.array([noun.capitalize() for noun in c2]))(category),
            "c2_id": c2_id.astype(np.float64),
            "brand_name": Texts(self.brands)(brand - 1),
            "brand_id": self.brand_ids[brand],
            "item_condition_id": 1 + self.condition[items],
            "item_condition_name": Texts(pa.array(CONDITIONS))(self.condition[items]),
            "size_name": Texts(pa.array(SIZES))(size),
            "size_id": pa.array((1 + size).astype(np.float64), mask=size < 0),
            "color": Texts(pa.array(COLOURS))(self.colour[items]),
            "shipper_id": 1 + self.shipper[items],
            "shipper_name": Texts(pa.array(SHIPPERS))(self.shipper[items]),
        }


def make_goods(market: Market, words: np.random.Generator, random: np.random.Generator) -> Goods:
    """Names and attributes: of what the process does not know nothing follows.

    Args:
        market: with its listings.
        words: decides on brands and names.
        random: decides on the rest, by listing.
    """
    names, n = market.names, len(market.name)
    brands = brand_words(names.sizes[0] - 1, words)
    texts = listing_texts(names.brand, names.category, names.style, brands, words)
    brand, category = names.brand[market.name], names.category[market.name]
    _, c1, _, _, second = category_levels()
    sized = np.isin(second[category], [c1.index(name) for name in SIZED])
    centre = np.log(30) + 0.8 * words.normal(size=names.sizes[1])[category]
    centre = centre + 0.4 * words.normal(size=names.sizes[0])[brand]

    def some(values: tuple[str, ...], which: np.ndarray) -> np.ndarray:
        return np.where(which, random.integers(len(values), size=n), -1)

    return Goods(
        market=market,
        ids=random.permutation(np.cumsum(random.integers(1, 200, size=n))),
        price=np.maximum(3.0, np.round(np.exp(centre + 0.5 * random.normal(size=n)))),
        condition=np.searchsorted(np.cumsum([0.4, 0.3, 0.2, 0.08]), random.random(n), side="right"),
        shipper=random.integers(len(SHIPPERS), size=n),
        size=some(SIZES, sized & (random.random(n) < 0.8)),
        colour=some(COLOURS, random.random(n) < 0.3),
        texts=pa.array(texts),
        brands=pa.array(brands),
        brand_ids=np.concatenate([[0], words.permutation(np.cumsum(words.integers(1, 20, size=len(brands))))]),
    )
