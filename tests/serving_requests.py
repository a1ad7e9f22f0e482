"""Varied requests to each recommender, by hand: what is compiled, and how the process grows.

    python tests/serving_requests.py [--requests 10000] [--of sessions clicks towers events]

Fails where a recommender compiles more than ``PROGRAMS``, or where the process grows by more than ``GROWTH`` MiB after
the first tenth of its requests. Small data sets, made and trained in seconds; 10,000 requests to each take minutes.
``tests/test_serving.py`` counts the same for a few requests.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from event_data import fake_encoded, fake_find_model, make_event_data, train_small
from helpers import SYNTHETIC, call, write_config
from tower_data import BRANDS, ITEMS, SKINS, USERS, customer, product, write_source, write_towers

from jaxrec import Query, Recommender
from jaxrec.tasks.clicks.recommend import ClickRecommender
from jaxrec.tasks.events import listings
from jaxrec.tasks.events.recommend import EventRecommender
from jaxrec.tasks.retrieval.recommend import TowerRecommender

PROGRAMS, GROWTH = 150, 50
COMPILED = "/jax/core/compile/backend_compile_duration"
Request = Callable[[], object]
Random = np.random.Generator


class Compilations:
    """Counts the programs that are compiled from when it is made."""

    def __init__(self) -> None:
        import jax.monitoring

        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, *_: Any, **__: Any) -> None:
        self.count += event == COMPILED


def small_or_large(random: Random, most: int) -> int:
    """From 1 on, small numbers as often as large ones."""
    return int(min(most, np.exp(random.uniform(0, np.log(most + 1)))))


# ---- what is asked of each -------------------------------------------------------------------------------------------


def session_requests(run: Path, random: Random) -> Request:
    """Sessions of 1 to 300 clicks, alone and up to 300 together, known items and others, in several forms."""
    recommender = Recommender.load(run)
    n = recommender.n_items

    def some(most: int) -> Any:
        return [int(item) for item in random.integers(1, n + 2, small_or_large(random, most))]

    def ask() -> object:
        kind, k = random.integers(12), small_or_large(random, n)
        if kind == 0:
            return recommender.similar(int(random.integers(1, n + 1)), k)
        options: dict[str, Any] = {"seen": bool(kind % 2), "exclude": some(n) if kind % 3 else ()}
        if kind % 4 == 3:
            options["only"] = [int(random.integers(1, n + 1)), *some(n)]
        if kind > 8:
            return recommender.recommend([Query(some(40)) for _ in range(small_or_large(random, 300))], k, **options)
        return recommender.recommend(Query(list(np.array(some(300)))), k, **options)

    return ask


def click_requests(run: Path, random: Random) -> Request:
    """Users and profiles, with and without filters, and explanations."""
    recommender = ClickRecommender.load(run)

    def ask() -> object:
        kind, k = random.integers(6), small_or_large(random, ITEMS)
        user = customer(int(random.integers(USERS))) if kind % 2 else None
        profile = {"age": float(random.integers(20, 60)), "skin": str(random.choice([*SKINS, "odd"]))}
        if kind == 0:
            return recommender.explain(product(int(random.integers(ITEMS))), user, profile)
        where = {"category": str(random.choice(SKINS))} if kind > 3 else None
        exclude = [product(int(item)) for item in random.integers(0, ITEMS, random.integers(ITEMS))]
        return recommender.recommend(user, profile, k=k, exclude_seen=bool(kind % 3), exclude=exclude, where=where)

    return ask


def tower_requests(run: Path, random: Random) -> Request:
    """Customers and profiles, what they have, similar items and customers; now and then a new item."""
    recommender = TowerRecommender.load(run)
    added = [0]

    def ask() -> object:
        kind, k = random.integers(10), small_or_large(random, 3 * ITEMS)
        user = customer(int(random.integers(USERS))) if kind % 2 else None
        profile = {"age": int(random.integers(20, 60)), "likes": ["spa", "gold"][: random.integers(3)]}
        if random.integers(100) == 0:
            rows = [
                {"product": f"new {added[0]} {number}", "category": SKINS[number % 4], "brand": BRANDS[0], "price": 5}
                for number in range(small_or_large(random, 20))
            ]
            added[0] += 1
            return recommender.add_items(rows)
        if kind == 0:
            return recommender.similar_items(product(int(random.integers(ITEMS))), k)
        if kind == 1:
            return recommender.similar_customers(profile, user, k)
        gone = [product(int(item)) for item in random.integers(0, ITEMS - 4, random.integers(ITEMS))]
        half = len(gone) // 2
        return recommender.recommend(profile, user, gone[:half], gone[half:], k, bool(kind % 3), bool(kind % 4))

    return ask


def event_requests(run: Path, random: Random) -> Request:
    """Sequences of 1 to 40 events, alone and up to 100 together, filters, times; now and then a new listing."""
    market = EventRecommender.load(run)
    ids, newest = market.listings.vocabulary.ids, market.listings.time(None)
    added = [10**9]

    def events(most: int) -> list[dict[str, Any]]:
        return [{"item": int(random.choice(ids)), "event": str(random.choice(market.types))}
                for _ in range(small_or_large(random, most))]  # fmt: skip

    def ask() -> object:
        kind, k = random.integers(12), small_or_large(random, len(ids))
        if random.integers(100) == 0:
            rows = [{"item": added[0] + n, "name": "red ball", "price": 5} for n in range(small_or_large(random, 20))]
            added[0] += len(rows)
            return market.add_items(rows)
        if kind == 0:
            return market.similar_items(int(random.choice(ids)), k)
        options: dict[str, Any] = {"exclude": [int(one) for one in random.choice(ids, random.integers(50))]}
        if kind % 4 == 1:
            options["where"] = f"price >= {random.integers(5)}"
        if kind % 4 == 2:
            options["at"] = newest - int(random.integers(3600)) * 1000
        if kind > 9:
            return market.recommend([events(10) for _ in range(small_or_large(random, 100))], k, **options)
        return market.recommend(events(40), k, exclude_bought=bool(kind % 2), **options)

    return ask


# ---- runs ------------------------------------------------------------------------------------------------------------

CLICKS: dict[str, dict[str, Any]] = {
    "model": {"name": "autoint", "hidden": None, "output_dim": None, "dropout_hidden": None, "blocks": 1, "heads": 1,
              "attention_dim": 4, "deep": [8]},
    "loss": {"name": "binary"},
    "data": {"protocol": "rows", "test_fraction": 0.1, "validation_fraction": 0.1},
    "training": {"epochs": 1, "passes": None, "metric": "auc"},
}  # fmt: skip


def make_runs(place: Path, kinds: list[str]) -> dict[str, Path]:
    """A run of each kind."""
    runs = {kind: place / kind for kind in kinds}
    if "sessions" in runs:
        assert call("prepare", "synthetic", "--out", place / "session data", *SYNTHETIC) == 0
        config = write_config(place / "sessions.yaml", place / "session data", training={"epochs": 1})
        assert call("train", "--config", config, "--run", runs["sessions"]) == 0
    if {"clicks", "towers"} & set(runs):
        write_source(place / "row data", learnable=True)
    for kind, sections in (("clicks", CLICKS), ("towers", {"training": {"epochs": 1}})):
        if kind in runs:
            config = write_towers(place / f"{kind}.yaml", place / "row data", sections)
            drop_nothing(config)
            assert call("train", "--config", config, "--run", runs[kind]) == 0
    if "events" in runs:
        train_small(make_event_data(place / "event data"), runs["events"])
    return runs


def drop_nothing(config: Path) -> None:
    """Take the fields without a value out of a configuration."""
    lines = config.read_text(encoding="utf-8").splitlines()
    config.write_text("\n".join(line for line in lines if not line.endswith(" null")) + "\n", encoding="utf-8")


REQUESTS = {
    "sessions": session_requests, "clicks": click_requests, "towers": tower_requests, "events": event_requests,
}  # fmt: skip


def resident() -> float:
    """MiB of memory that the process takes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--of", nargs="+", choices=sorted(REQUESTS), default=list(REQUESTS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    failed, compilations = [], Compilations()
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(listings, "find_model", fake_find_model),
        mock.patch.object(listings, "encoded", fake_encoded),
    ):
        for kind, run in make_runs(Path(place), options.of).items():
            ask, begun = REQUESTS[kind](run, np.random.default_rng(1)), time.perf_counter()
            compilations.count, first, at = 0, 0.0, max(1, options.requests // 10)
            for number in range(1, options.requests + 1):
                ask()
                first = resident() if number == at else first
                if number % at == 0:
                    seconds = time.perf_counter() - begun
                    print(f"{kind}: {number:,} requests, {compilations.count} programs, {resident():,.0f} MiB, "
                          f"{seconds:.0f} s", flush=True)  # fmt: skip
            if compilations.count > PROGRAMS or resident() - first > GROWTH:
                failed.append(kind)
    print(f"failed: {', '.join(failed)}" if failed else "all within bounds")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
