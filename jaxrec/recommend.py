"""``Recommender``: raw ids in, raw ids out, from a run directory of any kind alone; and python -m jaxrec.recommend."""

from __future__ import annotations

import gc
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, as_json, command, pairs, say, tell
from jaxrec.data.filters import joined
from jaxrec.data.given import item_rows, read_list
from jaxrec.data.items import Added
from jaxrec.errors import UserError, listed
from jaxrec.run import Run, check_out, written
from jaxrec.tasks import batches
from jaxrec.tasks.base import load, part_of
from jaxrec.tasks.query import FIELDS, Answer, Query, answer_json, answer_table, answers, shown_time
from jaxrec.tasks.vectors import check_k


class Recommender:
    """Recommends from a trained run, whatever its kind.

    >>> r = Recommender.load("checkpoints/gru4rec_diginetica")  # doctest: +SKIP
    >>> r.recommend(Query(items=[81766, 31331]), k=10).items[0].id  # doctest: +SKIP

    Attributes:
        kind: the recommender of its kind of run, a ``jaxrec.tasks.query.Kind``.
        reads: the fields of ``Query`` that it reads.
        can: its methods beside ``recommend``, and arguments that mean something: ``filter`` (``only`` as text) and
            ``rules``.
    """

    def __init__(self, run: Run, kind: Any) -> None:
        self.run, self.kind, self.reads, self.can = run, kind, kind.reads, kind.can
        self._unread = [name for name in FIELDS if name not in kind.reads]

    @classmethod
    def load(cls, run: str | Path | Run) -> Recommender:
        """Load a run directory."""
        loaded = load(run)
        return cls(loaded.run, part_of(loaded.run.config, "recommend").Recommender(loaded))

    @property
    def n_items(self) -> int:
        """Items that can be recommended, added ones included."""
        return len(self.kind.items)

    def recommend(self, queries: Any, k: int | None = None, *, exclude: Iterable[Any] = (), only: Any = None,
                  seen: bool = False, rules: bool = True) -> Any:  # fmt: skip
        """The k best items for one query, an ``Answer``, or for each of several, a list of them.

        What the run does not know is left out and noted; where nothing is known, the most popular items are given.

        Args:
            queries: a ``Query``, a mapping of its fields, or a list of either, answered in batches.
            k: how many, of sessions and events at most ``n_items``; None: 20, or all where there are fewer.
            exclude: raw ids never to recommend.
            only: recommend only these raw ids, or the items that a filter leaves, such as ``price <= 50``.
            seen: whether items may be recommended that the user has already: those of the session, purchases, ratings.
            rules: whether the configuration's rules apply.
        """
        several = not isinstance(queries, Query | Mapping)
        asked = [self.query(one) for one in (read_list("queries", queries, ordered=True) if several else [queries])]
        k = min(check_k(k, None if "user" in self.reads else self.n_items), self.n_items)
        if not asked:
            return []
        mask, notes = self.kind.items.allowed(only, exclude)
        found = answers(self.kind, self.kind.read(asked, seen), k, mask, notes, rules)
        return found if several else found[0]

    def query(self, given: Any) -> Query:
        """A query that this run can read."""
        query = given if isinstance(given, Query) else Query.parse(given)
        if strange := [name for name in self._unread if query.gives(name)]:
            raise UserError(f"query: a run of {self.run.config.model.name} does not read {listed(strange, 'or')}; it "
                            f"reads {listed(self.reads)}")  # fmt: skip
        return query

    def similar(self, item: Any, k: int | None = None) -> Answer:
        """The k items most like one, by the cosine of their vectors."""
        return cast(Answer, self._can("similar")(item, check_k(k, self.n_items)))

    def similar_users(self, query: Any, k: int | None = None) -> Answer:
        """The k users of the data most like the user of a query; k is at most their number."""
        return cast(Answer, self._can("similar_users")(self.query(query), check_k(k)))

    def add(self, items: Any) -> Added:
        """Let items be recommended that no training has seen, from rows with their fields, or a file; returns ids."""
        return cast(Added, self._can("add")(items))

    def explain(self, query: Any, item: Any) -> Any:
        """What the prediction for one item comes from; its class is that of the kind."""
        return self._can("explain")(self.query(query), item)

    def score(self, rows: Any) -> np.ndarray:
        """float32[n]: the probability of a positive label of each row, a table or mappings of its raw fields."""
        return cast(np.ndarray, self._can("score")(rows))

    def vectors(self) -> pa.Table:
        """The vector of every item that can be ranked, ``vector``, beside its raw ``id`` and its attributes."""
        return cast(pa.Table, self._can("vectors")())

    def example(self, seed: int | None = None) -> list[dict[str, Any]]:
        """A sequence of events of the run's data, drawn at random; ``seed`` draws the same one again."""
        return cast(list[dict[str, Any]], self._can("example")(seed))

    def _can(self, what: str) -> Any:
        if what not in self.can:
            raise UserError(f"{what}: a run of {self.run.config.model.name} cannot do that; it has "
                            f"{listed(sorted(self.can))}")  # fmt: skip
        return getattr(self.kind, what)


# ---- the command -----------------------------------------------------------------------------------------------------

QUERY, ALWAYS = {"items", "times", "user", "profile", "at", "events"}, {"run", "k", "json", "add_items"}
HOW = {"exclude", "candidates", "where", "include_seen", "no_rules"}  # to recommend
MODES = {
    "queries": HOW | {"out", "overwrite", "skip_bad"}, "score": {"out", "overwrite"}, "vectors": {"overwrite"},
    "similar_to": set(), "similar_customers": {"user", "profile"}, "explain": QUERY | {"out"},
}  # fmt: skip
"""What is asked for instead of items for a query: options with those that go with them."""


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.recommend``."""
    options = _parser().parse_args(argv)
    _check(options)
    events = () if options.events is None else item_rows(options.events)
    query = Query(options.items, events, options.user, pairs("--profile", options.profile), options.at,
                  options.times)  # fmt: skip
    runtime.start()
    r = Recommender.load(options.run)
    if options.add_items is not None:
        _notes(r.add(options.add_items).notes)
    only = joined(options.where) if options.where else options.candidates
    ask = partial(r.recommend, k=options.k, exclude=options.exclude, only=only, seen=options.include_seen,
                  rules=not options.no_rules)  # fmt: skip
    if options.vectors is not None:
        check_out(options.vectors, (batches.PARQUET,), options.overwrite)
        with written(options.vectors) as part:
            pq.write_table(r.vectors(), part)
        tell(f"{options.vectors}: vectors of {r.n_items:,} items")
    elif options.queries is not None:
        gc.freeze()  # nothing of what is loaded goes: the collector need not look through it again and again
        done = batches.answer_file(ask, options.queries, options.out, options.overwrite, options.skip_bad)
        bad = f"; {done['bad']:,} bad ones left out" if done["bad"] else ""
        tell(f"{options.out}: answers to {done['answered']:,} queries{bad}")
    elif options.score is not None:
        rows = batches.score_file(r.score, options.score, options.out, options.overwrite)
        tell(f"{options.out}: probabilities of {rows:,} rows")
    elif options.explain is not None:
        found = r.explain(query, options.explain)
        _notes(found.notes)
        if options.out is not None:
            found.picture(options.out)
        print(as_json(found.row()) if options.json else found.text())
    elif options.similar_to is not None:
        _print(r, r.similar(options.similar_to, options.k), options)
    elif options.similar_customers:
        _print(r, r.similar_users(query, options.k), options)
    else:
        _print(r, ask(query), options)


def _check(options: Namespace) -> None:
    """Refuse options that do not go with one another; what a run cannot do the recommender says."""
    given = {name for name, value in vars(options).items() if value not in (None, [], False)}
    mode = next((name for name in MODES if name in given), "")
    what = f"--{mode.replace('_', '-')}" if mode else "a single query"
    for name in sorted(given - (MODES[mode] | {mode} if mode else QUERY | HOW) - ALWAYS):
        raise UserError(f"--{name.replace('_', '-')}: does not go with {what}; leave it out")
    if mode in ("queries", "score") and options.out is None:
        raise UserError(f"--out: is missing; say where to write what {what} finds")


def _notes(notes: Iterable[str]) -> None:
    for note in notes:
        say("note", note)


def _print(r: Recommender, answer: Answer, options: Namespace) -> None:
    _notes(answer.notes)
    score = getattr(r.kind, "score_name", "score")
    if options.json:
        print(as_json(answer_json(answer, score, "rules" in r.can, "user" not in r.reads)))
        return
    if answer.at is not None:
        print(f"recommended of what is live at {shown_time(answer.at)}:")
    similar = options.similar_to is not None or options.similar_customers
    who = "customer" if options.similar_customers else "item"
    print(answer_table(answer.items, who, "similarity" if similar else score))


UNKNOWN = """\
A field, a column or an option that is not there is an error; a value, a user or an item that is not there is a note: it
counts as unknown, or is left out. Ids and values are text, so that 007 is not 7, unless those of the run are integers.
Several values of one field have the separator between them that prepare was given (|).
"""


def _parser() -> Parser:
    parser = Parser(prog="python -m jaxrec.recommend", epilog=UNKNOWN, description=(
        "Recommend the next items for a session, a user or a sequence of events, or for a file of them, with the ids "
        "of the raw data."))  # fmt: skip
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    add("--k", type=int, help="how many items (default: 20; all where there are fewer)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--exclude", nargs="*", default=[], metavar="ID", help="items never to recommend")
    add("--candidates", nargs="+", metavar="ID", help="recommend only from these")
    add("--where", nargs="+", metavar="FILTER", help='only what a filter leaves: genres=Comedy or "price <= 50"')
    add("--include-seen", "--include-bought", action="store_true", help="allow what the user has already")
    query = parser.add_argument_group("who asks; every model reads some of it").add_argument
    query("--items", "--purchased", nargs="*", default=[], metavar="ID", help="what was clicked or bought, in order")
    query("--times", nargs="*", default=[], metavar="TIME", help="hstu: when each of --items was (default: unknown)")
    query("--events", metavar="FILE", help='merrec: a sequence, oldest first: [{"item": 1, "event": "item_view"}]; '
          'unknown items by "name"; - reads standard input')  # fmt: skip
    query("--user", metavar="ID", help="click models, two towers: the user; without one somebody new")
    query("--profile", nargs="+", metavar="FIELD=VALUE", help="fields of the user or the occasion, such as gender=F")
    query("--at", "--date", metavar="TIME", help="when, as 2023-05-31 (default: at the newest event or row of the run)")
    query("--no-rules", action="store_true", help="two towers: leave the configuration's rules out")
    query("--add-items", metavar="FILE", help="two towers, merrec: new items (.parquet, .csv or .json)")
    other = parser.add_argument_group("instead").add_argument
    other("--similar-to", metavar="ID", help="the items most similar to this one")
    other("--similar-customers", action="store_true", help="two towers: customers most similar to this one")
    other("--explain", metavar="ID", help="click models: the prediction for this item, and what each field attended to")
    files = parser.add_argument_group("files").add_argument
    files("--queries", type=Path, metavar="FILE", help="a query a line (.jsonl) or row (.parquet): items, times, "
          "events, user, profile, at, and id, which is copied to its answer")  # fmt: skip
    files("--score", type=Path, metavar="FILE", help="click models: rows (.parquet) to predict the label of")
    files("--vectors", type=Path, metavar="FILE", help="write all items' vectors with their attributes (.parquet)")
    files("--out", type=Path, metavar="FILE", help="with --queries: answers (.parquet or .jsonl); with --score: the "
          "rows with a column probability; with --explain: a picture (.png, .pdf or .svg)")  # fmt: skip
    files("--overwrite", action="store_true", help="replace --out or --vectors if it exists")
    files("--skip-bad", action="store_true", help="with --queries: leave out bad lines, and count them")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
