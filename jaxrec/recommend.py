"""python -m jaxrec.recommend, and ``Recommender``: raw ids in, raw ids out, from a run directory alone."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import runtime
from jaxrec.cli import Parser, command
from jaxrec.data.vocabulary import Vocabulary
from jaxrec.errors import UserError
from jaxrec.models import SessionModel
from jaxrec.ranking import block_size, top_items
from jaxrec.rundir import load_session_model, open_run

Ids = list[int] | list[str]
MOST = 2**31  # clicks of a session
BATCH = 256  # sessions ranked in one go


class UnknownItems(UserWarning):
    """Items of a session that the model has never seen; they are left out."""


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
        items: Sequence[Any],
        k: int = 20,
        exclude_seen: bool = True,
        exclude: Iterable[Any] = (),
        candidates: Iterable[Any] | None = None,
    ) -> tuple[Any, Any]:
        """The k items that most likely come next.

        Args:
            items: a session, raw ids in order of time; or a list of sessions.
            k: how many, at most the number of items.
            exclude_seen: leave out the session's own items.
            exclude: leave these out as well.
            candidates: recommend only from these; None for the whole catalogue.

        Returns:
            For one session a list of raw ids and float32[n] scores, best first; for several a list of each. n is k, or
            less where exclusions leave fewer. Unknown items are left out with an ``UnknownItems`` warning; a session
            without any known item gets the most popular items, scored by their number of events.

        Raises:
            UserError: an empty session, k out of range, or no known candidate.
        """
        if isinstance(items, (str, int)):
            raise UserError(f"items: a list of ids is expected, such as [{items!r}], not a single one")
        several = len(items) > 0 and isinstance(items[0], (list, tuple, np.ndarray))
        sessions = [self._encode_ids(session) for session in (items if several else [items])]
        self._check_k(k)
        banned = self._known(exclude)
        pool = self._pool(candidates)
        ids: list[Ids] = []
        scores: list[np.ndarray] = []
        for start in range(0, len(sessions), BATCH):
            found = self._rank(sessions[start : start + BATCH], k, exclude_seen, banned, pool)
            ids.extend(found[0])
            scores.extend(found[1])
        return (ids, scores) if several else (ids[0], scores[0])

    def similar_items(self, item: Any, k: int = 20) -> tuple[Ids, np.ndarray]:
        """The k items whose vectors have the highest cosine similarity to that of ``item``.

        Returns:
            k raw ids (fewer in a catalogue of k items or less), and float32[k] similarities.

        Raises:
            UserError: the item is unknown, or k out of range.
        """
        index = int(self.vocabulary.encode([item])[0])
        if index < 0:
            raise UserError(f"item {item}: unknown to this run's vocabulary of {len(self.vocabulary)} items")
        self._check_k(k)
        vectors = self._model.vectors(self._tables)
        vectors = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found, scores = top_items(vectors[index][None], vectors, jnp.array([[index]], jnp.int32), k, self._size)
        return self._answer(np.asarray(found[0]), np.asarray(scores[0]))

    def unknown(self, items: Iterable[Any]) -> list[Any]:
        """Those of the raw ids that the vocabulary does not hold."""
        values = list(items)
        return [value for value, index in zip(values, self.vocabulary.encode(values), strict=True) if index < 0]

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= len(self.vocabulary):
            raise UserError(f"k = {k}: expected 1 to {len(self.vocabulary)}, the number of items in the catalogue")

    def _encode_ids(self, session: Sequence[Any]) -> np.ndarray:
        if len(session) == 0:
            raise UserError("an empty session: give at least one item that was clicked")
        known = self.vocabulary.encode(session)
        if (known < 0).any():
            left_out = ", ".join(str(value) for value in self.unknown(session)[:5])
            instead = "" if (known >= 0).any() else "; none is known, so the most popular items are recommended"
            count = int((known < 0).sum())
            warnings.warn(f"{count} unknown items left out: {left_out}{instead}", UnknownItems, stacklevel=3)
        return known[known >= 0]

    def _known(self, raw: Iterable[Any]) -> np.ndarray:
        indices = self.vocabulary.encode(raw)
        return indices[indices >= 0]

    def _pool(self, candidates: Iterable[Any] | None) -> np.ndarray | None:
        if candidates is None:
            return None
        pool = np.unique(self._known(candidates))
        if not len(pool):
            raise UserError("candidates: none of them is in this run's vocabulary")
        return pool

    def _rank(
        self, sessions: list[np.ndarray], k: int, exclude_seen: bool, exclude: np.ndarray, pool: np.ndarray | None
    ) -> tuple[list[Ids], list[np.ndarray]]:
        n_items = len(self.vocabulary)
        banned = [np.concatenate([exclude, session]) if exclude_seen else exclude for session in sessions]
        width = room(max(map(len, banned)))
        ban = np.stack([np.pad(row, (0, width - len(row)), constant_values=n_items) for row in banned])
        items, size = self._items, n_items
        if pool is not None:
            # Ranked within the pool: positions in it take the place of item indices.
            size = room(len(pool))
            inside = np.searchsorted(pool, ban)
            found = pool[np.minimum(inside, len(pool) - 1)] == ban
            padding = np.broadcast_to(np.arange(len(pool), size), (len(ban), size - len(pool)))
            ban = np.concatenate([np.where(found, inside, size), padding], axis=1)
            items = items[jnp.asarray(np.pad(pool, (0, size - len(pool))))]
        rows = room(len(sessions))
        ban = np.pad(ban, ((0, rows - len(ban)), (0, 0)), constant_values=size).astype(np.int32)
        places, scores = top_items(self._queries(sessions, rows), items, jnp.asarray(ban), min(k, size), self._size)
        ids: list[Ids] = []
        values: list[np.ndarray] = []
        for row, session in enumerate(sessions):
            place, score = np.asarray(places[row]), np.asarray(scores[row])
            index = place if pool is None else np.append(pool, np.full(size - len(pool) + 1, n_items))[place]
            if not len(session):
                index, score = self._popular(k, exclude, pool)
            answer = self._answer(index, score)
            ids.append(answer[0])
            values.append(answer[1])
        return ids, values

    def _popular(self, k: int, exclude: np.ndarray, pool: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(len(self.vocabulary)) if pool is None else pool  # both in order of popularity
        index = index[~np.isin(index, exclude)][:k]
        return index, self.vocabulary.counts[index].astype(np.float32)

    def _answer(self, index: np.ndarray, score: np.ndarray) -> tuple[Ids, np.ndarray]:
        allowed = np.isfinite(score) & (index < len(self.vocabulary))
        return self.vocabulary.decode(index[allowed]), score[allowed]

    def _queries(self, sessions: list[np.ndarray], rows: int) -> Any:
        """float32[rows, Q]; sessions and rows are padded to powers of two, so that few shapes are compiled."""
        window = self._model.window
        sessions = [session[-window:] if window else session for session in sessions]
        length = min(room(max(map(len, sessions))), window or MOST)
        inputs = np.zeros((rows, length), np.int32)
        for row, session in enumerate(sessions):
            inputs[row, : len(session)] = session
        lengths = np.zeros(rows, np.int32)
        lengths[: len(sessions)] = [len(session) for session in sessions]
        return self._encode(self._params, self._tables, jnp.asarray(inputs), jnp.asarray(lengths))


def room(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.recommend``."""
    options = _parser().parse_args(argv)
    model = open_run(options.run).config.model.name
    kind = model if model in KNOWN else "sessions"
    for name in sorted(set().union(*KNOWN.values()) - KNOWN[kind]):
        if getattr(options, name) not in (None, [], False):
            raise UserError(f"--{name.replace('_', '-')}: {options.run} is a run of {model}, which does not know it; "
                            "leave it out")  # fmt: skip
    if options.k is None and kind != "merrec":
        options.k = 20 if kind == "sessions" else 10
    if kind == "sessions":
        _answer(options)
        return
    from jaxrec import answer_events, recommend_rows, recommend_towers

    runtime.start()
    {"autoint": recommend_rows, "two_tower": recommend_towers, "merrec": answer_events}[kind].answer(options)


KNOWN = {
    "sessions": {"items", "candidates", "similar_to", "include_seen"},
    "autoint": {"user", "profile", "date", "where", "explain", "out", "include_seen"},
    "two_tower": {"user", "profile", "purchased", "add_items", "similar_to", "similar_customers", "no_rules",
                  "include_seen"},
    "merrec": {"events", "example", "seed", "where", "at", "include_bought", "add_items", "similar_to", "model"},
}  # fmt: skip
"""Options that only some kinds of run know."""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxrec.recommend",
        description="Recommend the next items for a session, or of a click model those that a user most likely likes, "
        "with the ids of the raw data.",
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    parser.add_argument("--k", type=int, help="how many items (default: 20, of a click model 10)")
    parser.add_argument("--include-seen", action="store_true", help="allow the session's own items, or those that the "
                        "user has rated, as well")  # fmt: skip
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
    note, unknown = "", []
    if options.similar_to is not None:
        ids, scores = recommender.similar_items(options.similar_to, options.k)
    else:
        unknown = recommender.unknown(options.items)
        if unknown:
            note = f"unknown items left out: {' '.join(unknown)}"
        if len(unknown) == len(options.items):
            note += "; no item is known, so these are the most popular ones"
            if any("," in item for item in unknown):
                note += " (ids are separated by spaces, not commas)"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownItems)  # the note says it
            ids, scores = recommender.recommend(
                options.items, options.k, not options.include_seen, options.exclude, options.candidates
            )
    for option, given in (("--exclude", options.exclude), ("--candidates", options.candidates or [])):
        if strange := recommender.unknown(given):
            note += ("; " if note else "") + f"{option}: unknown items ignored: {' '.join(strange)}"
    if note:
        print(f"jaxrec: note: {note}", file=sys.stderr)
    if not ids:
        print("jaxrec: note: the exclusions leave nothing to recommend", file=sys.stderr)
    if options.json:
        rows = [{"item": item, "score": float(score)} for item, score in zip(ids, scores, strict=True)]
        popular = bool(unknown) and len(unknown) == len(options.items)
        print(json.dumps({"recommendations": rows, "unknown": unknown, "popularity": popular}))
    else:
        for rank, (item, score) in enumerate(zip(ids, scores, strict=True), 1):
            print(f"{rank:4d}  {item!s:>20}  {float(score):10.4f}")


if __name__ == "__main__":
    sys.exit(command(main))
