"""``ClickRecommender``: items for a user or a profile from a click model's run alone; see jaxrec/recommend.py."""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from jaxrec.cli.command import as_json, say
from jaxrec.cli.options import pairs
from jaxrec.data.codes import Entities, FieldCodes, note_ignored, noted_unknown, warn_unknown
from jaxrec.data.ids import bare, check_one, check_single, plain, read_ids
from jaxrec.errors import UserError, one_line, shown
from jaxrec.models.base import ClickModel
from jaxrec.plots.clicks import attention
from jaxrec.plots.pictures import check_picture
from jaxrec.run import Run
from jaxrec.tasks.base import load
from jaxrec.tasks.history import History, again, check_seen
from jaxrec.tasks.vectors import check_k

CHUNK = 4096  # items scored in one call


class Recommendation(NamedTuple):
    """An item and the probability that the user likes it, with what is known of it."""

    item: Any
    probability: float
    known: dict[str, Any]


class Rating(NamedTuple):
    """What a user rated before, or clicked: the rating is the label of its row."""

    item: Any
    rating: float
    known: dict[str, Any]


class Explanation(NamedTuple):
    """One prediction.

    Attributes:
        fields: names of the fields, F.
        values: what stands in them, as text.
        weights: of each interacting layer float32[heads, F, F]: how much the row's field draws from the column's; rows
            sum to 1.
        probability: of a positive label.
    """

    fields: list[str]
    values: list[str]
    weights: list[np.ndarray]
    probability: float


class ClickRecommender:
    """Recommends from the run of a click model.

    >>> ClickRecommender.load("checkpoints/autoint_plus_ml1m").recommend(42, k=10)  # doctest: +SKIP
    """

    def __init__(self, run: Run, model: ClickModel, parameters: dict[str, Any]) -> None:
        self.run, self.schema = run, run.schema
        if self.schema.item is None:
            raise UserError(f"{run.path}: its data has no item field, so there is nothing to recommend")
        self._params, self._tables = parameters["params"], parameters["tables"]
        self._logits, self._attention = jax.jit(model.logits), jax.jit(model.attention)
        self._codes, self._past = FieldCodes(run), History(run)
        self._items = Entities(run, "item", self.schema.item)
        self._users = None if self.schema.user is None else Entities(run, "user", self.schema.user)

    @classmethod
    def load(cls, run: str | Path) -> ClickRecommender:
        """Load a run directory."""
        opened, model, weights, _ = load(run, "clicks")
        return cls(opened, model, weights)

    def recommend(
        self,
        user: Any = None,
        profile: Mapping[str, Any] | None = None,
        date: Any = None,
        k: int = 10,
        exclude_seen: bool = True,
        exclude: Iterable[Any] = (),
        where: Mapping[str, Any] | None = None,
        seen: str | None = None,
    ) -> list[Recommendation]:
        """The k items that the user most likely likes.

        Args:
            user: raw id of one user; None for somebody new.
            profile: values of fields of the user and the occasion; they win over those known of the user.
            date: of the occasion, as 2003-02-28; None for that of the data's last row.
            k: how many.
            exclude_seen: leave out what the user has seen in the data.
            exclude: raw ids of items to leave out as well.
            where: only items with these values of fields of the item (of a bag: that hold it).
            seen: what that is, ``positives`` or ``rows``; None: all rows where labels are ratings, and the positives
                where they are 0 and 1, as what was only shown may be recommended.

        Returns:
            Best first; fewer than k where there are no more. An unknown user or value counts as the unknown one, and
            unknown ids to leave out are ignored, each with an ``UnknownValues`` warning.
        """
        k = check_k(k)
        check_seen(seen, exclude_seen)
        query = self._query(user, profile, date)
        gone = [*self._gone(exclude), *(self._history(user, seen)[0] if exclude_seen else ())]
        items = self._allowed(where or {})
        items = np.setdiff1d(items, np.array(gone, np.int64))
        logits = self._score(query, items)
        best = np.argsort(-logits, kind="stable")[:k]
        return [
            Recommendation(self._items.ids[item], float(expit(np.float64(logit))), self._items.known(item))
            for item, logit in zip(items[best], logits[best], strict=True)
        ]

    def rated(self, user: Any, seen: str | None = None) -> list[Rating]:
        """What the user has seen in the data, the most recent last; nothing for an unknown user.

        Args:
            seen: see ``recommend``.
        """
        items, ratings = self._history(user, seen)
        return [
            Rating(self._items.ids[item], float(rating), self._items.known(item))
            for item, rating in zip(items, ratings, strict=True)
        ]

    def seen_word(self, seen: str | None = None) -> str:
        """What users have done with what they have seen: ``rated``, ``clicked`` or ``seen``."""
        return "seen" if self._users is None else self._past.word(seen)

    def explain(
        self, item: Any, user: Any = None, profile: Mapping[str, Any] | None = None, date: Any = None
    ) -> Explanation:
        """The prediction for one item, and what the interacting layers attended to."""
        check_single("item", item)
        (index,) = self._items.codes([item])
        if not index:
            hint = self._items.places.nearest(item)
            raise UserError(
                f"item {bare(item)}: unknown to this run{hint}; name one of its {len(self._items) - 1:,} items"
            )
        columns, numbers = self._rows(self._query(user, profile, date), np.array([index]))
        row = (self._params, self._tables, jnp.asarray(columns), jnp.asarray(numbers))
        return Explanation(
            [field.name for field in self.schema.fields],
            self._codes.texts(columns[0], numbers[0]),
            [np.asarray(weights[0]) for weights in self._attention(*row)],
            float(expit(np.float64(self._logits(*row)[0]))),
        )

    @property
    def n_items(self) -> int:
        """Items that can be recommended."""
        return len(self._items) - 1

    @property
    def users(self) -> list[Any]:
        """Raw ids of the users."""
        return [] if self._users is None else self._users.ids[1:]

    def user(self, user: Any) -> dict[str, Any]:
        """What is known of a user; nothing of an unknown one."""
        check_one("user", user, None)
        index = 0 if self._users is None or user is None else self._users.codes([user])[0]
        return self._users.known(index) if self._users is not None and index else {}

    def values(self, name: str) -> list[Any]:
        """The values of a categorical field or bag."""
        return list(self._codes.values(name))

    # ---- a row ---------------------------------------------------------------------------------------------------

    def _query(self, user: Any, profile: Mapping[str, Any] | None, date: Any) -> dict[str, Any]:
        """By field of the user and the occasion: the columns or the number."""
        check_one("user", user, profile)
        query = self._codes.usual()
        query |= self._codes.calendar(self._date(date))
        if plain(user) is not None and self._users is not None:
            (index,) = self._users.codes([user])
            if not index:
                hint = self._users.places.nearest(user)
                warn_unknown(f"user {bare(user)} is unknown to this run{hint} and counts as somebody new")
            query |= self._users.fields(index)
        for name, value in (profile or {}).items():
            field = self._codes.field(name)
            if field.side == "item":
                raise UserError(f"field '{name}': is of the item; a profile takes those of the user and the occasion, "
                                f"{', '.join(self._codes.names('user', 'context'))}")  # fmt: skip
            query[name] = self._codes.encode(field, value)
        return query

    def _rows(self, query: Mapping[str, Any], items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M], a row for each item."""
        columns, numbers = [], []
        own = self._items.fields(items)
        for field in self.schema.fields:
            value = own[field.name] if field.side == "item" else np.asarray(query[field.name])[None]
            if field.kind == "numerical":
                numbers.append(np.broadcast_to(value.reshape(-1), len(items)))
            else:
                columns.append(self._codes.trained(field, np.broadcast_to(value, (len(items), field.width))))
        none = np.zeros((len(items), 0), np.int32)
        return (
            np.concatenate([none, *columns], axis=1).astype(np.int32),
            np.stack(numbers, axis=1).astype(np.float32) if numbers else none.astype(np.float32),
        )

    def _score(self, query: Mapping[str, Any], items: np.ndarray) -> np.ndarray:
        """float32[n] logits; in chunks of one shape, so that one program serves all."""
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            columns, numbers = self._rows(query, np.pad(part, (0, CHUNK - len(part))))
            logits = self._logits(self._params, self._tables, jnp.asarray(columns), jnp.asarray(numbers))
            found.append(np.asarray(logits)[: len(part)])
        return np.concatenate(found)

    def _allowed(self, where: Mapping[str, Any]) -> np.ndarray:
        """int64[n]: the items that have the values asked for."""
        if not isinstance(where, Mapping):
            raise UserError(f"where: found {shown(where)}, expected fields with their values, such as "
                            "{'genres': 'Comedy'}")  # fmt: skip
        items = np.arange(1, len(self._items))
        for name, value in where.items():
            field = self._items.field(name)
            code = self._codes.code(field, value)
            items = items[np.any(self._items.fields(items)[name] == code, axis=1) & (code > 0)]
            if not len(items):
                hint = "" if code else self._codes.nearest(field, value)
                raise UserError(
                    f"where: {name}={bare(value)}{hint} leaves none of {len(self._items) - 1:,} items; ask for less"
                )
        return items

    def _gone(self, exclude: Iterable[Any]) -> list[int]:
        """The indices of items to leave out; unknown ones are noted."""
        ids = read_ids("exclude", exclude)
        codes = self._items.codes(ids)
        note_ignored("exclude", [one for one, code in zip(ids, codes, strict=True) if not code])
        return codes

    def _history(self, user: Any, seen: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Items that a user has seen in all of the data, and their labels."""
        check_one("user", user, None)
        index = 0 if user is None or self._users is None else self._users.codes([user])[0]
        return self._past.seen(index, seen)

    def _date(self, date: Any) -> datetime.date:
        if isinstance(date, np.datetime64) and not np.isnat(date):
            date = date.astype("datetime64[D]")
        date = plain(date)
        if date is None:
            return datetime.datetime.fromtimestamp(int(self.run.kept("last_time")[0]), datetime.UTC).date()
        try:
            return date if isinstance(date, datetime.date) else datetime.date.fromisoformat(str(date))
        except ValueError:
            raise UserError(f"date '{bare(date)}': expected a day such as 2003-02-28") from None


# ---- the command -----------------------------------------------------------------------------------------------------


def answer(options: Namespace) -> None:
    """What ``python -m jaxrec.recommend`` prints of a click model's run."""
    if options.out is not None and options.explain is None:
        raise UserError("--out: belongs to --explain; leave it out")
    if options.out is not None:
        check_picture(options.out)
    if options.user is None and options.profile is None:
        raise UserError("--user, --profile: neither is given; name a user, or describe one, such as "
                        "--profile gender=F age=25")  # fmt: skip
    profile, where = pairs("--profile", options.profile), pairs("--where", options.where)
    recommender = ClickRecommender.load(options.run)
    with noted_unknown():
        if options.explain is not None:
            found = recommender.explain(options.explain, options.user, profile, options.date)
            text = as_json(_json(found)) if options.json else explanation_table(found)
            if options.out is not None:
                attention(found.fields, found.values, found.weights, options.out, _title(recommender, options, found))
        else:
            ask = partial(recommender.recommend, options.user, profile, options.date, exclude=options.exclude)
            best = ask(options.k, not options.include_seen, where=where, seen=options.seen)
            rows = [{"item": one.item, "probability": one.probability, **one.known} for one in best]
            text = as_json({"recommendations": rows}) if options.json else _table(best)
            if not best:
                more = "" if options.include_seen else again(
                    len(ask(recommender.n_items, False, where=where)), recommender.seen_word(options.seen)
                )  # fmt: skip
                say("note", f"the exclusions leave nothing to recommend{more}")
    print(text)


def explanation_table(found: Explanation) -> str:
    """The probability, and by layer what each field drew from most, on average over heads."""
    width = max(map(len, found.fields))
    lines = [f"probability {found.probability:.4f}"]
    for number, weights in enumerate(found.weights, 1):
        lines.append(f"layer {number}: each field, and the three it draws most from")
        for row, name in enumerate(found.fields):
            mean = weights.mean(axis=0)[row]
            most = ", ".join(f"{found.fields[j]} {mean[j]:.2f}" for j in np.argsort(-mean)[:3])
            lines.append(f"  {name:{width}} {found.values[row][:24]:24} {most}")
    return "\n".join(map(one_line, lines))


def _title(recommender: ClickRecommender, options: Namespace, found: Explanation) -> str:
    user = "a new user" if options.user is None else f"user {options.user}"
    return f"{recommender.run.path.name}: item {options.explain} for {user}, probability {found.probability:.2f}"


def _json(found: Explanation) -> dict[str, Any]:
    weights = [layer.round(6).tolist() for layer in found.weights]
    return {"probability": found.probability, "fields": found.fields, "values": found.values, "weights": weights}


def _table(best: Sequence[Recommendation]) -> str:
    if not best:
        return ""
    lines = [f"{'rank':>4}  {'item':>10}  {'probability':>11}  {'  '.join(best[0].known)}".rstrip()]
    for rank, one in enumerate(best, 1):
        known = "  ".join(str(value) for value in one.known.values() if value is not None)
        lines.append(f"{rank:4d}  {one.item!s:>10}  {one.probability:11.4f}  {known}")
    return "\n".join(map(one_line, lines))
