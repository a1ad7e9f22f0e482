"""``Recommender``: raw ids in, raw ids out, from a run directory of any kind alone; and python -m jaxrec.recommend."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, as_json, command, make_callable, pairs, say, tell
from jaxrec.data.filters import joined
from jaxrec.data.given import read_events
from jaxrec.data.ids import read_list
from jaxrec.data.items import Added
from jaxrec.errors import UserError, listed
from jaxrec.plots.pictures import check_picture
from jaxrec.run import Run, open_run
from jaxrec.tasks import batches
from jaxrec.tasks.answers import answer_table, happenings_table, json_text, shown_time
from jaxrec.tasks.base import part_of
from jaxrec.tasks.cutoffs import default_k
from jaxrec.tasks.history import SEEN
from jaxrec.tasks.query import Answer, Query
from jaxrec.tasks.vectors import DEFAULT_K, check_k


class Recommender:
    """Recommends from a trained run, whatever its kind.

    >>> r = Recommender.load("checkpoints/gru4rec_diginetica")  # doctest: +SKIP
    >>> r.recommend(Query(items=[81766, 31331]), k=10).items[0].id  # doctest: +SKIP

    Attributes:
        run: the run directory.
        kind: the recommender of its kind, ``jaxrec.tasks.<kind>.recommend``.
        reads: the fields of ``Query`` that it reads.
        can: what it can do beside ``recommend``: ``similar``, ``similar_users``, ``add``, ``explain``, ``score``,
            ``vectors``, ``example``; and arguments that mean something: ``filter`` (``only`` as text), ``rules``,
            ``history`` (``seen`` as text).
    """

    def __init__(self, run: Run, kind: Any) -> None:
        self.run, self.kind = run, kind
        self.reads: tuple[str, ...] = kind.reads
        self.can: frozenset[str] = kind.can

    @classmethod
    def load(cls, run: str | Path | Run, **options: Any) -> Recommender:
        """Load a run directory.

        Args:
            options: of its kind; ``text_model`` says where that of the run's item names is now, if not where it was.
        """
        opened = open_run(run)
        return cls(opened, kind_of(opened).load(opened, **options))

    @property
    def n_items(self) -> int:
        """Items that can be recommended, added ones included."""
        return int(self.kind.n_items)

    @overload
    def recommend(self, queries: Query | Mapping[str, Any], k: int | None = None, *, exclude: Iterable[Any] = (),
                  only: Any = None, seen: bool | str = False, rules: bool = True) -> Answer: ...  # fmt: skip

    @overload
    def recommend(self, queries: Sequence[Query | Mapping[str, Any]], k: int | None = None, *,
                  exclude: Iterable[Any] = (), only: Any = None, seen: bool | str = False,
                  rules: bool = True) -> list[Answer]: ...  # fmt: skip

    def recommend(self, queries: Any, k: int | None = None, *, exclude: Iterable[Any] = (), only: Any = None,
                  seen: bool | str = False, rules: bool = True) -> Answer | list[Answer]:  # fmt: skip
        """The k best items for one query, or for each of several.

        What the run does not know is left out and noted; where nothing is known, the most popular items are given.

        Args:
            queries: a ``Query``, a mapping of its fields, or a list of either, answered in batches.
            k: how many, of sessions and events at most ``n_items``; None: 20, or all where there are fewer.
            exclude: raw ids never to recommend.
            only: recommend only these raw ids, or the items that a filter leaves, such as ``price <= 50``.
            seen: whether items may be recommended that the user has already: those of the session, purchases, ratings.
                Where ``can`` has ``history``, ``positives`` or ``rows`` say what of the user's rows is left out.
            rules: whether the configuration's rules apply.
        """
        several = not isinstance(queries, Query | Mapping)
        members = read_list("queries", queries, ordered=True) if several else [queries]
        asked = [self.query(member) for member in members]
        bounded = k is None or "user" not in self.reads  # of users' items as many as are left may be asked for
        k = check_k(k, self.n_items) if bounded else min(check_k(k), self.n_items)
        if isinstance(only, str) and "filter" not in self.can:
            raise UserError(f"only: found a filter, and the items of {self.run.path} have no attributes; give a list "
                            "of ids")  # fmt: skip
        if isinstance(seen, str) and "history" not in self.can:
            raise UserError(f"seen: found '{seen}', and {self.run.path} keeps no rows of its users; give True or False")
        if not asked:
            return []
        answers: list[Answer] = self.kind.recommend(asked, k, exclude=exclude, only=only, seen=seen, rules=rules)
        return answers if several else answers[0]

    def query(self, given: Any) -> Query:
        """A query that this run can read."""
        query = given if isinstance(given, Query) else Query.parse(given)
        if strange := [name for name in query.asked if name not in self.reads]:
            raise UserError(f"query: {self._called} does not read {listed(strange, 'or')}; it reads "
                            f"{listed(self.reads)}")  # fmt: skip
        return query

    def similar(self, item: Any, k: int | None = None) -> Answer:
        """The k items most like one, by the cosine of their vectors."""
        found: Answer = self._can("similar").similar(item, check_k(k, self.n_items))
        return found

    def similar_users(self, query: Any, k: int | None = None) -> Answer:
        """The k users of the data most like the user of a query; k is at most their number."""
        k = DEFAULT_K if k is None else check_k(k)
        found: Answer = self._can("similar_users").similar_users(self.query(query), k)
        return found

    def add(self, items: Any) -> Added:
        """Let items be recommended that no training has seen, from rows with their fields, or a file; returns their
        ids, with ``notes`` of what is unknown.
        """
        found: Added = self._can("add").add(items)
        return found

    def explain(self, query: Any, item: Any) -> Any:
        """What the prediction for one item comes from; its class is that of the kind."""
        return self._can("explain").explain(self.query(query), item)

    def score(self, rows: Any) -> np.ndarray:
        """float32[n]: the probability of a positive label of each row, a table or mappings of its raw fields."""
        found: np.ndarray = self._can("score").score(rows)
        return found

    def vectors(self) -> pa.Table:
        """The vector of every item that can be ranked, ``vector``, beside its raw ``id`` and its attributes."""
        return self._can("vectors").vectors()

    def example(self, seed: int | None = None) -> list[Any]:
        """A sequence of events of the run's data, drawn at random; ``seed`` draws the same one again."""
        found: list[Any] = self._can("example").example(seed)
        return found

    @property
    def _called(self) -> str:
        return f"{self.run.path}, a run of {self.run.config.model.name},"

    def _can(self, what: str) -> Any:
        if what not in self.can:
            raise UserError(f"{what}: {self._called} cannot do that; it can {listed(sorted(self.can))}")
        return self.kind


def recommend(run: str | Path | Run, queries: Any, k: int | None = None, **options: Any) -> Any:
    """What a run recommends, loaded for this one call; see ``Recommender.recommend``."""
    return Recommender.load(run).recommend(queries, k, **options)


def kind_of(run: Run) -> Any:
    """The recommender's class of a run's kind."""
    return part_of(run.config, "recommend").Recommender


# ---- the command -----------------------------------------------------------------------------------------------------

NEEDS = {
    "items": "items", "user": "user", "profile": "profile", "at": "at", "events": "events", "example": "example",
    "seed": "example", "model": "names", "where": "filter", "no_rules": "rules", "seen": "history", "add_items": "add",
    "similar_to": "similar", "similar_customers": "similar_users", "explain": "explain", "score": "score",
    "vectors": "vectors",
}  # fmt: skip
"""Options that only some kinds of run know: the field of a query, or the ability, that each goes with."""
QUERY = {"items", "user", "profile", "at", "events"}
HOW = {"exclude", "candidates", "where", "seen", "include_seen", "no_rules"}  # to recommend
ALWAYS = {"run", "k", "json", "add_items", "model"}
MODES = {
    "queries": HOW | {"out", "overwrite", "skip_bad"},
    "score": {"out", "overwrite"},
    "vectors": {"overwrite"},
    "similar_to": set(),
    "similar_customers": {"user", "profile"},
    "explain": QUERY | {"out"},
    "example": HOW | {"at", "seed"},
}
"""What is asked for instead of items for a query: options with those that go with them."""
SUCH_AS = {"items": "--items 81766 31331", "events": "--events FILE.json", "user": "--user 42",
           "profile": "--profile gender=F age=25"}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.recommend``."""
    options = _parser().parse_args(argv)
    run = open_run(options.run)
    _check(options, run, kind_of(run))
    if options.explain is not None and options.out is not None:
        check_picture(options.out)
    profile = pairs("--profile", options.profile)
    events = () if options.events is None else read_events(options.events)
    query = Query(options.items, events, options.user, profile, options.at)
    runtime.start()
    recommender = Recommender.load(run, **({"text_model": options.model} if options.model else {}))
    if options.add_items is not None:
        for note in recommender.add(options.add_items).notes:
            say("note", note)
    if options.vectors is not None:
        rows = batches.vectors_file(recommender.vectors(), options.vectors, options.overwrite)
        tell(f"{options.vectors}: vectors of {rows:,} items")
    elif options.score is not None:
        rows = batches.score_file(recommender.score, options.score, options.out, options.overwrite)
        tell(f"{options.out}: probabilities of {rows:,} rows")
    elif options.explain is not None:
        _explain(recommender, query, options)
    else:
        _recommend(recommender, query, options)


def _recommend(recommender: Recommender, query: Query, options: Namespace) -> None:
    users = options.similar_customers
    k = options.k if options.k is not None or users else default_k(recommender.n_items)
    happened = recommender.example(options.seed) if options.example else []
    if happened:  # what came last is what a recommendation should have been
        asked = happened[:-1] or happened
        at = asked[-1]["time"] if options.at is None and "at" in recommender.reads else options.at
        query = Query(events=[{name: one[name] for name in ("item", "event")} for one in asked], at=at)
    only = joined(options.where) if options.where else options.candidates
    seen = options.include_seen or options.seen or False
    ask: Any = partial(
        recommender.recommend, k=k, exclude=options.exclude, only=only, seen=seen, rules=not options.no_rules
    )
    if options.queries is not None:
        done = batches.answer_file(
            ask, recommender.query, options.queries, options.out, options.overwrite, options.skip_bad
        )
        tell(f"{options.out}: answers to {done['answered']:,} queries"
             + (f"; {done['bad']:,} bad ones left out" if done["bad"] else ""))  # fmt: skip
        return
    if options.similar_to is not None:
        answer = recommender.similar(options.similar_to, k)
    else:
        answer = recommender.similar_users(query, k) if users else ask(query)
    _print(recommender, answer, happened, options)


def _print(recommender: Recommender, answer: Answer, happened: list[dict[str, Any]], options: Namespace) -> None:
    for note in dict.fromkeys(answer.notes):
        say("note", note)
    if any("," in str(one) for one in answer.unknown):
        say("note", "--items: ids are separated by spaces, not commas")
    similar = options.similar_to is not None or options.similar_customers
    score, rules = getattr(recommender.kind, "score_name", "score"), "rules" in recommender.can
    past, last = happened[:-1] or happened, happened[-1] if len(happened) > 1 else None
    if options.json:
        extra = {"events": past, "next": last} if happened else {}
        print(json_text(answer, extra, score=score, rules=rules, unknown="user" not in recommender.reads))
        return
    lines = ["what happened:", happenings_table(past)] if happened else []
    if last is not None:
        rank = next((f"place {n} below" for n, one in enumerate(answer.items, 1) if one.id == last["item"]),
                    f"not among the {len(answer.items)} below")  # fmt: skip
        lines += [f"what came next ({rank}):", happenings_table([last])]
    if answer.at is not None:
        lines.append(f"recommended of what is live at {shown_time(answer.at)}:")
    who = "customer" if options.similar_customers else "item"
    print("\n".join([*lines, answer_table(answer.items, who, "similarity" if similar else score)]))


def _explain(recommender: Recommender, query: Query, options: Namespace) -> None:
    found = recommender.explain(query, options.explain)
    for note in found.notes:
        say("note", note)
    if options.out is not None:
        found.picture(options.out)
    print(as_json(found.row()) if options.json else found.text())


def _check(options: Namespace, run: Run, kind: Any) -> None:
    """Refuse options that this kind of run does not know, or that do not go with one another."""
    given = {name for name, value in vars(options).items() if value not in (None, [], False)}
    for name in sorted(given & NEEDS.keys()):
        if NEEDS[name] not in {*kind.reads, *kind.can}:
            raise UserError(f"{_option(name)}: {run.path} is a run of {run.config.model.name}, which does not know it; "
                            "leave it out")  # fmt: skip
    modes = [name for name in MODES if name in given]
    goes = MODES[modes[0]] | {modes[0]} if modes else QUERY | HOW
    for name in sorted(given - goes - ALWAYS):
        beside = _option(modes[0]) if modes else f"--queries or {'--explain' if name == 'out' else '--score'}"
        does = f"does not go with {beside}; leave one of them out" if modes else f"belongs to {beside}; leave it out"
        raise UserError(f"{_option(name)}: {does}")
    if modes and modes[0] in ("queries", "score") and options.out is None:
        raise UserError(f"--out: is missing; say where to write what {_option(modes[0])} finds")
    needed = [name for name in SUCH_AS if name in kind.reads]  # an example of the run's stands for them
    if (not modes or modes[0] in ("explain", "similar_customers")) and not given & {*needed}:
        raise UserError(f"{', '.join(map(_option, needed))}: nothing is given to recommend for; say it, such as with "
                        f"{listed([SUCH_AS[name] for name in needed], 'or')}")  # fmt: skip
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed {options.seed}: expected 0 or more")


def _option(name: str) -> str:
    return {"at": "--at (--date)", "items": "--items (--purchased)"}.get(name, f"--{name.replace('_', '-')}")


UNKNOWN = """\
What a run does not know, whatever its kind: a field, a column or an option that is not there is an error. A value of
--profile or --where, a user, an item of the query or of --exclude or --candidates that is not there is a note: it
counts as unknown, or is left out. Where nothing is left to choose from, and where the one item that is asked about
(--similar-to, --explain) is not there, that is an error.
Ids and values are text, so that 007 is not 7, unless those of the run are integers. Several values of one field stand
between the separator that prepare was given (| where none was), or are a list: ['a', 'b'].
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
    add("--where", nargs="+", metavar="FILTER", help="recommend only what a filter of attributes leaves, such as "
        "genres=Comedy or \"price <= 50 and c0_name = 'Men'\"")  # fmt: skip
    add("--include-seen", "--include-bought", action="store_true", help="allow what the query or the data say that the "
        "user has already: the session's items, purchases, ratings")  # fmt: skip
    query = parser.add_argument_group("who asks; every model reads some of it").add_argument
    query("--items", "--purchased", nargs="*", default=[], metavar="ID", help="of sessions: the items clicked, oldest "
          "first; two towers: what the customer has")  # fmt: skip
    query("--events", metavar="FILE", help='merrec: a sequence, oldest first: [{"item": 1, "event": "item_view"}]; '
          'unknown items by "name"; - reads standard input')  # fmt: skip
    query("--user", metavar="ID", help="click models, two towers: the user; without one somebody new")
    query("--profile", nargs="+", metavar="FIELD=VALUE", help="fields of the user or the occasion, such as gender=F")
    query("--at", "--date", metavar="TIME", help="the day or time of the occasion, as 2023-05-31; merrec: only what is "
          "live then (default: at the newest event or row of the run)")  # fmt: skip
    query("--seen", choices=SEEN, help="what of the user's rows is left out (default: positives where labels are 0 and "
          "1, as of what was shown and clicked; rows where they are ratings)")  # fmt: skip
    query("--no-rules", action="store_true", help="two towers: leave the configuration's rules out")
    query("--add-items", metavar="FILE", help="two towers, merrec: new items with their fields (.parquet, .csv or "
          ".json), which no training has seen")  # fmt: skip
    query("--model", metavar="M", help="merrec: where the text model of the run's names is now, if not where it was")
    other = parser.add_argument_group("instead").add_argument
    other("--similar-to", metavar="ID", help="the items most similar to this one (merrec also takes a name)")
    other("--similar-customers", action="store_true", help="two towers: customers most similar to this one")
    other("--explain", metavar="ID", help="click models: the prediction for this item, and what each field attended to")
    other("--example", action="store_true", help="merrec: for a real sequence, drawn at random")
    other("--seed", type=int, metavar="N", help="with --example: draw the same one again")
    files = parser.add_argument_group("files").add_argument
    files("--queries", type=Path, metavar="FILE", help="a query a line (.jsonl) or row (.parquet): items, events, "
          "user, profile, at, and id, which is copied to its answer")  # fmt: skip
    files("--score", type=Path, metavar="FILE", help="click models: rows (.parquet) to predict the label of")
    files("--vectors", type=Path, metavar="FILE", help="write the vectors of all items with ids and attributes "
          "(.parquet), for an index of vectors")  # fmt: skip
    files("--out", type=Path, metavar="FILE", help="with --queries: answers (.parquet or .jsonl); with --score: the "
          "rows with a column probability; with --explain: a picture (.png, .pdf or .svg)")  # fmt: skip
    files("--overwrite", action="store_true", help="replace --out or --vectors if it exists")
    files("--skip-bad", action="store_true", help="with --queries: leave out bad lines, and count them")
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
