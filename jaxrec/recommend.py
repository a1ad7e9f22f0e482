"""python -m jaxrec.recommend, and ``Recommender``: raw ids in, raw ids out, from a run directory alone."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, as_json, command, say
from jaxrec.data.codes import noted_unknown
from jaxrec.errors import UserError, one_line
from jaxrec.run import open_run
from jaxrec.tasks.cutoffs import default_k, ranked_items
from jaxrec.tasks.history import SEEN
from jaxrec.tasks.serving import DEFAULT_K, UnknownItems
from jaxrec.tasks.sessions.recommend import Recommender


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.recommend``."""
    options = _parser().parse_args(argv)
    run = open_run(options.run)
    model, kind = run.config.model.name, run.config.model.task
    for name in sorted(set().union(*KNOWN.values()) - KNOWN[kind]):
        if getattr(options, name) not in (None, [], False):
            raise UserError(f"--{name.replace('_', '-')}: {options.run} is a run of {model}, which does not know it; "
                            "leave it out")  # fmt: skip
    if options.k is None and kind != "events":  # whose items depend on --add-items
        bounded = options.explain is None and not options.similar_customers and options.add_items is None
        options.k = default_k(ranked_items(run.manifest) if bounded else None, DEFAULT_K if kind == "sessions" else 10)
    if kind == "sessions":
        _answer(options)
        return
    from jaxrec.tasks.clicks import recommend as recommend_rows
    from jaxrec.tasks.events import answers as answer_events
    from jaxrec.tasks.retrieval import recommend as recommend_towers

    runtime.start()
    {"clicks": recommend_rows, "retrieval": recommend_towers, "events": answer_events}[kind].answer(options)


KNOWN = {
    "sessions": {"items", "candidates", "similar_to", "include_seen"},
    "clicks": {"user", "profile", "date", "where", "explain", "out", "include_seen", "seen"},
    "retrieval": {"user", "profile", "purchased", "add_items", "similar_to", "similar_customers", "no_rules",
                  "include_seen", "seen"},
    "events": {"events", "example", "seed", "where", "at", "include_bought", "add_items", "similar_to", "model"},
}  # fmt: skip
"""Options that only some kinds of run know."""


UNKNOWN = """\
What a run does not know, whatever its model: a field, a column or an option that is not there is an error. A value of
--profile or --where, a user, an item of the session or of --exclude, --purchased or --candidates that is not there is a
note, which names the nearest one: it counts as unknown, or is left out. Where nothing is left to choose from, and where
the one item that is asked about (--similar-to, --explain) is not there, that is an error.
Ids and values are text, so that 007 is not 7, unless those of the run are integers. Several values of one field stand
between the separator that prepare was given (| where none was), or are a list: ['a', 'b'].
"""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxrec.recommend",
        description="Recommend the next items for a session, or of a click model those that a user most likely likes, "
        "with the ids of the raw data.",
        epilog=UNKNOWN,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    parser.add_argument(
        "--k",
        type=int,
        help="how many items (default: 20, of a click model or two towers 10; all where there are fewer)",
    )
    parser.add_argument("--include-seen", action="store_true", help="allow the session's own items, or what the user "
                        "has seen in the data, as well")  # fmt: skip
    parser.add_argument("--exclude", nargs="*", default=[], metavar="ID", help="items never to recommend")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sessions = parser.add_argument_group("models of sessions")
    sessions.add_argument("--items", nargs="*", default=[], metavar="ID", help="the session's items, oldest first")
    sessions.add_argument("--candidates", nargs="+", metavar="ID", help="recommend only from these")
    sessions.add_argument("--similar-to", metavar="ID", help="instead: the items most similar to this one (two towers "
                          "and merrec as well; merrec also takes a name)")  # fmt: skip
    events = parser.add_argument_group("merrec")
    events.add_argument("--events", metavar="FILE", help='a sequence, oldest first: [{"item": 1, "event": "item_view"}]'
                        '; unknown items by "name"; - reads standard input')  # fmt: skip
    events.add_argument("--example", action="store_true", help="instead: a real sequence, drawn at random")
    events.add_argument("--seed", type=int, metavar="N", help="with --example: draw the same one again")
    events.add_argument("--at", metavar="TIME", help="only what is live then, as 2023-05-31 (default: at the newest "
                        "event that the run keeps, or of the example)")  # fmt: skip
    events.add_argument("--include-bought", action="store_true", help="allow what the sequence says was bought as well")
    events.add_argument("--model", metavar="M", help="where the text model of the run's names is now, if not where it "
                        "was")  # fmt: skip
    rows = parser.add_argument_group("click models and two towers")
    rows.add_argument("--user", metavar="ID", help="the user; without one somebody new")
    rows.add_argument("--profile", nargs="+", metavar="FIELD=VALUE", help="fields of the user or the occasion, such as "
                      "gender=F age=25")  # fmt: skip
    rows.add_argument("--seen", choices=SEEN, help="what of the user's rows is seen and left out (default: positives "
                      "where labels are 0 and 1, as of what was shown and clicked; rows where they are ratings)",
                      )  # fmt: skip
    towers = parser.add_argument_group("two towers")
    towers.add_argument("--purchased", nargs="+", metavar="ID", help="items that the customer has, not to recommend")
    towers.add_argument("--add-items", metavar="FILE", help="new items with their fields (.parquet, .csv or .json), "
                        "which no training has seen (merrec as well)")  # fmt: skip
    towers.add_argument("--similar-customers", action="store_true", help="instead: customers most similar to this one")
    towers.add_argument("--no-rules", action="store_true", help="leave the configuration's rules out")
    rows = parser.add_argument_group("click models")
    rows.add_argument("--date", metavar="DAY", help="of the occasion, as 2003-02-28 (default: that of the last row)")
    rows.add_argument("--where", nargs="+", metavar="FIELD=VALUE", help="only items with these values, such as "
                      "genres=Comedy; merrec: those that a filter leaves, such as \"price <= 50 and c0_name = 'Men'\"",
                      )  # fmt: skip
    rows.add_argument("--explain", metavar="ID", help="instead: the prediction for this item, and what each field "
                      "attended to")  # fmt: skip
    rows.add_argument("--out", type=Path, metavar="FILE", help="with --explain: a picture of it, .png, .pdf or .svg")
    return parser


def _answer(options: Namespace) -> None:
    """Of a run of sessions."""
    if options.similar_to is not None and (options.items or options.exclude or options.candidates):
        raise UserError("--similar-to: compares items, so --items, --exclude and --candidates do not go with it")
    if not options.items and options.similar_to is None:
        raise UserError("--items: an empty session; give at least one clicked item, such as --items 81766 31331")
    runtime.start()
    recommender = Recommender.load(options.run)
    with noted_unknown(UnknownItems):
        if options.similar_to is not None:
            ids, scores = recommender.similar_items(options.similar_to, options.k)
        else:
            ids, scores = recommender.recommend(
                options.items, options.k, not options.include_seen, options.exclude, options.candidates
            )
    unknown = recommender.unknown(options.items)
    if any("," in item for item in unknown):
        say("note", "--items: ids are separated by spaces, not commas")
    if not ids:
        say("note", "the exclusions leave nothing to recommend")
    if options.json:
        rows = [{"item": item, "score": float(score)} for item, score in zip(ids, scores, strict=True)]
        popular = bool(unknown) and len(unknown) == len(options.items)
        print(as_json({"recommendations": rows, "unknown": unknown, "popularity": popular}))
        return
    score_name = "score" if options.similar_to is None else "similarity"
    print(f"{'rank':>4}  {'item':>20}  {score_name:>10}")
    for rank, (item, score) in enumerate(zip(ids, scores, strict=True), 1):
        print(one_line(f"{rank:4d}  {item!s:>20}  {float(score):10.4f}"))


if __name__ == "__main__":
    sys.exit(command(main))
