"""A made-up marketplace in files with the columns of MerRec, whose best reachable recall is known.

What happens on it is in jaxrec/sources/market/world.py. The files go through the reader of ``prepare merrec``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxrec.data.clean.choices import DAY, Raw
from jaxrec.errors import UserError
from jaxrec.sources import merrec
from jaxrec.sources.market.goods import C2, STYLES, day_of_events, make_goods
from jaxrec.sources.market.optimum import optimum
from jaxrec.sources.market.world import LEAST_LENGTH, START, Market, date_of, first_day, make_market, simulate
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
    "mean_length": (float, LEAST_LENGTH, 20, 6.0, f"mean events of a sequence, of which each has {LEAST_LENGTH} or "
                    "more"),
    "skew": (float, 0, 2, 0.8, "popularity of brands falls as rank to the power of -skew; 0: all are alike"),
    "seed": (int, 0, 2**32, 0, "another seed makes another data set"),
}  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    add_numbers(parser, OPTIONS)
    parser.add_argument("--raw-out", type=Path, metavar="DIR", help="keep the files there, for prepare merrec --raw")
    merrec.add_protocol_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Make the files and fill the table ``raw`` from them; see ``choices.Raw``."""
    chosen = {name: getattr(arguments, name) for name in OPTIONS}
    listings, days, lifetime = arguments.items, arguments.days, arguments.lifetime
    if listings - first_day(listings, days, lifetime) < days - 1:
        raise UserError(f"--items {listings}: too few for new ones on each of --days {days}; give more, or fewer days")
    process, words, attributes = (np.random.default_rng([arguments.seed, stream]) for stream in range(3))
    sizes = (2 + arguments.names // NAMES_OF_A_BRAND, len(C2), len(STYLES))
    market = make_market(arguments.names, sizes, arguments.skew, listings, days, lifetime, process)
    goods = make_goods(market, words, attributes)
    ids = goods["item_id"].to_numpy()
    folder = _folder(connection, arguments)
    sequences = max(1, round(arguments.events / arguments.mean_length))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for day in simulate(market, days, sequences, arguments.mean_length, arguments.users, process):
            if len(day.items):
                _write(day_of_events(day, goods, attributes), folder / f"{date_of(day.day)}.parquet")
        live = {"listed": START + market.listed * DAY, "sold": START + market.ends * DAY}
        _write(pa.table({"item_id": ids, **live}), folder / LISTINGS)
    except OSError as error:
        raise UserError(f"{folder}: the files of the market cannot be written ({error.strerror or error}); choose "
                        "another place or free some space") from None  # fmt: skip
    files = ArgumentParser()
    merrec.add_arguments(files)
    reading = files.parse_args(["--raw", str(folder)])
    protocol = {name: getattr(arguments, name) for name in ("target", "split", "test_fraction", "split_seed")}
    raw = merrec.read_files(connection, Namespace(**vars(reading) | protocol), folder / LISTINGS)

    def extras(path: Path, n_items: int) -> dict[str, Any]:
        # Without rare items sequences have gaps, and what follows a gap is not distributed as the process says.
        known = arguments.target == "item" and arguments.min_item_support == 1
        assert raw.extras is not None
        return raw.extras(path, n_items) | (_optimum(market, ids, path, arguments.seed) if known else {})

    return replace(raw, name="the synthetic events", options=chosen | raw.options, extras=extras)


def _folder(connection: Any, arguments: Namespace) -> Path:
    """The folder of the files: ``--raw-out``, or one where DuckDB spills."""
    (spill,) = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    out: Path | None = arguments.raw_out
    if out is not None and out.resolve().is_relative_to(arguments.out.resolve()):
        raise UserError(f"{out}: lies in --out; choose another --raw-out")
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists already and is not empty; choose another --raw-out")
    return out or Path(spill) / "market"


def _write(table: pa.Table, file: Path) -> None:
    # Without Arrow's own schema the columns of few values are text like any other to those who read the file.
    pyarrow.parquet.write_table(table, file, store_schema=False)


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
