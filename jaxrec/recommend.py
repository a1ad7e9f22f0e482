"""python -m jaxrec.recommend, and ``Recommender``: raw ids in, raw ids out, from a run directory alone."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, as_json, command, say
from jaxrec.data.codes import noted_unknown
from jaxrec.data.ids import bare, listing, read_ids, read_sessions
from jaxrec.data.items import Vocabulary
from jaxrec.errors import Note, UserError, one_line
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import BlockSize, block_size, top_items
from jaxrec.run import load_session_model, open_run
from jaxrec.tasks.cutoffs import default_k, ranked_items
from jaxrec.tasks.history import SEEN
from jaxrec.tasks.serving import DEFAULT_K, batches, best, check_k, steps

Ids = list[int] | list[str]
MOST = 2**31  # clicks of a session


class UnknownItems(Note):
    """Items that the model has never seen; they are left out."""


class Recommender:
    """Recommends from a trained run.

    >>> Recommender.load("checkpoints/gru4rec_diginetica").recommend([81766, 31331], k=20)  # doctest: +SKIP
    """

    def __init__(
        self, model: SessionModel, parameters: dict[str, Any], vocabulary: Vocabulary, memory: int = 64
    ) -> None:
        self._model, self._params, self._tables = model, parameters["params"], parameters["tables"]
        self.vocabulary = vocabulary
        self._size = block_size(len(vocabulary), memory)
        self._items = model.items(self._tables)
        self._encode = jax.jit(model.last_query)

    @classmethod
    def load(cls, run: str | Path) -> Recommender:
        """Load a run directory.

        Raises:
            UserError: it is no run, or has no checkpoint.
        """
        opened = open_run(run)
        vocabulary = opened.vocabulary()
        model, parameters, _ = load_session_model(opened)
        return cls(model, parameters, vocabulary, opened.config.evaluation.memory)

    def recommend(
        self,
        items: Any,
        k: int | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[Any] = (),
        candidates: Iterable[Any] | None = None,
    ) -> tuple[Any, Any]:
        """The k items that most likely come next.

        Args:
            items: a session, raw ids in order of time: a list, tuple, array, Series or generator of them; or several
                sessions, a list of such or an array of two dimensions.
            k: how many, at most the number of items; None: 20, or all where there are fewer.
            exclude_seen: leave out the session's own items.
            exclude: leave these out as well.
            candidates: recommend only from these; None for the whole catalogue.

        Returns:
            For one session a list of raw ids and float32[n] scores, best first; for several a list of each. n is k, or
            less where exclusions leave fewer. Unknown items, also of ``exclude`` and ``candidates``, are left out with
            one ``UnknownItems`` warning for all sessions. A session without any known item gets the most popular items,
            scored by their number of events; so does an empty one among several.

        Raises:
            UserError: a single empty session, k out of range, or no known candidate.
        """
        sessions, several = read_sessions(items)
        if not several and not sessions[0]:
            raise UserError("an empty session: give at least one item that was clicked")
        k = check_k(k, len(self.vocabulary))
        known = [self.vocabulary.encode(session) for session in sessions]
        self._note_left_out(sessions, known, several)
        banned, pool = self._known("exclude", exclude), self._pool(candidates)
        ids: list[Ids] = []
        scores: list[np.ndarray] = []
        for part, rows in batches(len(known)):
            clicks = [indices[indices >= 0] for indices in known[part]]
            for index, score in self._rank(clicks, rows, k, exclude_seen, banned, pool):
                ids.append(self.vocabulary.decode(index))
                scores.append(score)
        return (ids, scores) if several else (ids[0], scores[0])

    def similar_items(self, item: Any, k: int | None = None) -> tuple[Ids, np.ndarray]:
        """The k items whose vectors have the highest cosine similarity to that of ``item``; k as in ``recommend``.

        Returns:
            k raw ids (fewer in a catalogue of k items or less), and float32[k] similarities.

        Raises:
            UserError: the item is unknown, or k out of range.
        """
        index = int(self.vocabulary.encode([item])[0])
        if index < 0:
            raise UserError(f"item {bare(item)}: unknown to this run's vocabulary of {len(self.vocabulary)} items"
                            f"{self.vocabulary.nearest(item)}")  # fmt: skip
        k = check_k(k, len(self.vocabulary))
        vectors = self._model.vectors(self._tables)
        query = _unit(jax.lax.dynamic_slice_in_dim(vectors, index, 1))

        def kernel(query: Any, ban: Any, k: int) -> Any:
            return _nearest(query, vectors, ban, k, self._size)

        ((found, scores),) = best(kernel, query, len(self.vocabulary), [np.array([index])], k)
        return self.vocabulary.decode(found), scores

    def unknown(self, items: Iterable[Any]) -> list[Any]:
        """Those of the raw ids that the vocabulary does not hold."""
        values = list(items)
        return [value for value, index in zip(values, self.vocabulary.encode(values), strict=True) if index < 0]

    # ---- what is unknown ---------------------------------------------------------------------------------------------

    def _note_left_out(self, sessions: list[list[Any]], known: list[np.ndarray], several: bool) -> None:
        """One warning for all sessions."""
        lost = [value for session, indices in zip(sessions, known, strict=True)
                for value, index in zip(session, indices, strict=True) if index < 0]  # fmt: skip
        notes = []
        if lost:
            where = f" in {sum(bool((indices < 0).any()) for indices in known)} of {len(known)} sessions"
            notes.append(f"{_count(lost)}{where if several else ''} left out: {listing(lost)}"
                         f"{self.vocabulary.nearest(lost[0]) if len(lost) == 1 else ''}")  # fmt: skip
        instead = "so the most popular items are recommended"
        if not several and not (known[0] >= 0).any():
            notes.append(f"none is known, {instead}")
        of = f"of {len(sessions)}"
        if empty := [number for number, session in enumerate(sessions, 1) if not session and several]:
            notes.append(f"{_sessions(empty)} {of} {'are' if len(empty) > 1 else 'is'} empty, {instead}")
        strange = [number for number, session in enumerate(sessions, 1)
                   if several and session and not (known[number - 1] >= 0).any()]  # fmt: skip
        if strange:
            notes.append(
                f"{_sessions(strange)} {of} {'hold' if len(strange) > 1 else 'holds'} no known item, {instead}"
            )
        if notes:
            warnings.warn("; ".join(notes), UnknownItems, stacklevel=3)

    def _known(self, what: str, raw: Any) -> np.ndarray:
        """The indices of those of a list of ids that are known; the others are noted."""
        values = read_ids(what, raw)
        indices = self.vocabulary.encode(values)
        if lost := [value for value, index in zip(values, indices, strict=True) if index < 0]:
            warnings.warn(f"{what}: {_count(lost)} ignored: {listing(lost)}", UnknownItems, stacklevel=4)
        return indices[indices >= 0]

    def _pool(self, candidates: Any) -> np.ndarray | None:
        if candidates is None:
            return None
        values = read_ids("candidates", candidates)
        if not (self.vocabulary.encode(values) >= 0).any():
            found = f" (found {listing(values)})" if values else ""
            raise UserError(f"candidates: none of them is in this run's vocabulary{found}")
        return np.unique(self._known("candidates", values))

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _rank(
        self,
        sessions: list[np.ndarray],
        rows: int,
        k: int,
        exclude_seen: bool,
        exclude: np.ndarray,
        pool: np.ndarray | None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Indices and scores for each session, best first."""
        n_items = len(self.vocabulary)
        banned = [np.concatenate([exclude, session]) if exclude_seen else exclude for session in sessions]
        items, size, count = self._items, n_items, n_items
        if pool is not None:
            # Ranked within the pool: positions in it take the place of item indices.
            size, count = min(steps(len(pool), 256, 16), n_items), len(pool)
            banned = [np.flatnonzero(np.isin(pool, one)) for one in banned]
            items = items[jnp.asarray(np.pad(pool, (0, size - count)))]

        def kernel(queries: Any, ban: Any, k: int) -> Any:
            return top_items(queries, items, ban, k, self._size, count)

        ranked = best(kernel, self._queries(sessions, rows), size, banned, k)
        if pool is not None:
            ranked = [(pool[place], score) for place, score in ranked]
        return [
            one if len(session) else self._popular(k, exclude, pool)
            for one, session in zip(ranked, sessions, strict=True)
        ]

    def _popular(self, k: int, exclude: np.ndarray, pool: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(len(self.vocabulary)) if pool is None else pool  # both in order of popularity
        index = index[~np.isin(index, exclude)][:k]
        return index, self.vocabulary.counts[index].astype(np.float32)

    def _queries(self, sessions: list[np.ndarray], rows: int) -> Any:
        """float32[rows, Q]; sessions are padded as well, so that few shapes are compiled."""
        window = self._model.window
        sessions = [session[-window:] if window else session for session in sessions]
        length = min(steps(max(map(len, sessions)), 16, 4), window or MOST)
        inputs = np.zeros((rows, length), np.int32)
        for row, session in enumerate(sessions):
            inputs[row, : len(session)] = session
        lengths = np.zeros(rows, np.int32)
        lengths[: len(sessions)] = [len(session) for session in sessions]
        return self._encode(self._params, self._tables, jnp.asarray(inputs), jnp.asarray(lengths))


def _unit(vectors: Any) -> Any:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("k", "size"))
def _nearest(query: Any, vectors: Any, banned: Any, k: int, size: BlockSize) -> Any:
    return top_items(query, _unit(vectors), banned, k, size)


def _count(values: Sequence[Any]) -> str:
    return f"{len(values):,} unknown item{'s' if len(values) > 1 else ''}"


def _sessions(numbers: Sequence[int]) -> str:
    return f"session{'s' if len(numbers) > 1 else ''} {listing(numbers)}"


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.recommend``."""
    options = _parser().parse_args(argv)
    run = open_run(options.run)
    model = run.config.model.name
    kind = model if model in KNOWN else "sessions"
    for name in sorted(set().union(*KNOWN.values()) - KNOWN[kind]):
        if getattr(options, name) not in (None, [], False):
            raise UserError(f"--{name.replace('_', '-')}: {options.run} is a run of {model}, which does not know it; "
                            "leave it out")  # fmt: skip
    if options.k is None and kind != "merrec":  # whose items depend on --add-items
        bounded = options.explain is None and not options.similar_customers and options.add_items is None
        options.k = default_k(ranked_items(run.manifest) if bounded else None, DEFAULT_K if kind == "sessions" else 10)
    if kind == "sessions":
        _answer(options)
        return
    from jaxrec.tasks.clicks import recommend as recommend_rows
    from jaxrec.tasks.events import answers as answer_events
    from jaxrec.tasks.retrieval import recommend as recommend_towers

    runtime.start()
    {"autoint": recommend_rows, "two_tower": recommend_towers, "merrec": answer_events}[kind].answer(options)


KNOWN = {
    "sessions": {"items", "candidates", "similar_to", "include_seen"},
    "autoint": {"user", "profile", "date", "where", "explain", "out", "include_seen", "seen"},
    "two_tower": {"user", "profile", "purchased", "add_items", "similar_to", "similar_customers", "no_rules",
                  "include_seen", "seen"},
    "merrec": {"events", "example", "seed", "where", "at", "include_bought", "add_items", "similar_to", "model"},
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
