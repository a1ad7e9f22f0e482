"""``TowerRecommender``: items for a customer whom nobody has seen, from a two-tower run alone; see recommend.py."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.cli.command import as_json
from jaxrec.cli.options import pairs
from jaxrec.data.codes import Entities, FieldCodes, note_ignored, noted_unknown, warn_unknown
from jaxrec.data.given import item_rows
from jaxrec.data.ids import Places, bare, check_one, check_single, new_id, plain, read_ids
from jaxrec.data.retrieval import Catalogue
from jaxrec.data.rows import Field, Schema
from jaxrec.errors import UserError, nearest, one_line
from jaxrec.models.base import TowerModel
from jaxrec.ops.topk import block_size, top_items
from jaxrec.run import Run
from jaxrec.tasks.base import load
from jaxrec.tasks.history import History, again, check_seen
from jaxrec.tasks.retrieval.item_vectors import item_vectors, load_item_vectors
from jaxrec.tasks.rules import Rule, RuleBook, describe
from jaxrec.tasks.vectors import best, capacity, check_k, steps


class Suggestion(NamedTuple):
    """An item, with what is known of it.

    Attributes:
        item: raw id.
        score: (1 + cosine) / 2, from 0 to 1, and what rules add to it.
        rules: those that moved it.
    """

    item: Any
    score: float
    rules: list[Rule]
    known: dict[str, Any]


class Neighbour(NamedTuple):
    """An item or a customer, its cosine to the one asked for, and what is known of it."""

    id: Any
    similarity: float
    known: dict[str, Any]


class TowerRecommender:
    """Recommends from a two-tower run.

    >>> shop = TowerRecommender.load("checkpoints/two_tower_amore")  # doctest: +SKIP
    >>> shop.recommend({"age": 32, "gender": "F", "skin_type": "dry"}, k=3)  # doctest: +SKIP
    """

    def __init__(self, run: Run, model: TowerModel, weights: dict[str, Any], which: str) -> None:
        self.run, self.schema = run, Schema.from_manifest(run.manifest)
        self._model, self._weights = model, weights
        self._encode = jax.jit(model.encode, static_argnums=0)
        self._codes, self._past = FieldCodes(run), History(run)
        self._items, self._users = (Entities(run, side, str(name)) for side, name in
                                    (("item", self.schema.item), ("user", self.schema.user)))  # fmt: skip
        self._ids, self._known = list(self._items.ids), {}  # type: list[Any], dict[int, dict[str, Any]]
        self._places = Places(self._ids[1:], first=1)
        self._rules = RuleBook(run.config.recommendation.rules, self.schema, self._codes.strict)
        fields = self._items.fields(np.arange(len(self._items)))
        vectors = load_item_vectors(run, which, len(self._items))
        if vectors is None:
            vectors = item_vectors(model, weights, Catalogue(*self._stacked("item", fields)))
        self._vectors = np.concatenate([vectors, self._rules.of_items(self._coded(fields))], axis=1)
        self._table = jnp.asarray(self._vectors)

    @classmethod
    def load(cls, run: str | Path) -> TowerRecommender:
        """Load a run directory."""
        return cls(*load(run, "retrieval"))

    # ---- to recommend --------------------------------------------------------------------------------------------

    def recommend(
        self,
        profile: Mapping[str, Any] | None = None,
        user: Any = None,
        purchased: Iterable[Any] = (),
        exclude: Iterable[Any] = (),
        k: int = 10,
        exclude_seen: bool = True,
        rules: bool = True,
        seen: str | None = None,
    ) -> list[Suggestion]:
        """The k items closest to a customer.

        Args:
            profile: values of fields of the customer; one that is not named counts as unknown, a
                number as the mean.
            user: raw id of one customer of the data, whose fields the profile overrides; None for somebody new.
            purchased: raw ids of items that the customer has; not recommended again.
            exclude: raw ids of items to leave out as well.
            exclude_seen: leave out what the user has seen in the data.
            rules: whether the configured rules apply.
            seen: what is seen, ``positives`` or ``rows``; None: all rows where labels are ratings, and the positives
                where they are 0 and 1, as what was only shown may be recommended.

        Returns:
            Best first; fewer than k where there are no more. An unknown user or value counts as the unknown one, and
            unknown ids to leave out are ignored, each with an ``UnknownValues`` warning.
        """
        k = check_k(k)
        check_seen(seen, exclude_seen)
        columns = self._profile(profile, user)
        gone = {*self._indices("purchased", purchased), *self._indices("exclude", exclude)}
        past = set() if plain(user) is None or not exclude_seen else self._seen(user, seen) - gone
        if len(gone) + len(past) >= self.n_items:
            if past:
                raise UserError(f"--user, --exclude: nothing is left to recommend of {self.n_items:,} items"
                                f"{again(len(past), self._past.word(seen))}")  # fmt: skip
            raise UserError(f"--purchased, --exclude: they name all {self.n_items:,} items; nothing is left to "
                            "recommend")  # fmt: skip
        by_rule = self._rules.of_users(self._coded({name: value[None] for name, value in columns.items()}))
        if not rules:
            by_rule = np.zeros_like(by_rule)
        query = np.concatenate([self._query(columns), by_rule], axis=1)
        found, scores = self._top(query, self._table, len(self._ids), [0, *gone, *past], k)
        of_items = self._vectors[found, query.shape[1] - by_rule.shape[1] :]
        return [
            Suggestion(self._ids[item], float(1 + score) / 2, self._rules.applied(by_rule[0], moved), self._what(item))
            for item, score, moved in zip(found, scores, of_items, strict=True)
        ]

    def similar_items(self, item: Any, k: int = 10) -> list[Neighbour]:
        """The k items whose vectors are closest to that of ``item``."""
        k = check_k(k)
        check_single("item", item)
        own = self._places.find(item)
        if own < 0:
            raise UserError(f"--similar-to {bare(item)}: no such item{self._places.nearest(item)}; the run knows "
                            f"{len(self._places):,}")  # fmt: skip
        query = self._vectors[own][None].copy()
        query[:, query.shape[1] - len(self._rules) :] = 0  # which are not of the vector
        found, scores = self._top(query, self._table, len(self._ids), [0, own], k)
        return [
            Neighbour(self._ids[one], float(score), self._what(one)) for one, score in zip(found, scores, strict=True)
        ]

    def similar_customers(
        self, profile: Mapping[str, Any] | None = None, user: Any = None, k: int = 10
    ) -> list[Neighbour]:
        """The k customers of the data whose vectors are closest to that of a customer; see ``recommend``."""
        k = check_k(k)
        query = self._query(self._profile(profile, user))
        found, scores = self._top(query, self._customers, len(self._users), [0, self._user(user)], k)
        return [Neighbour(self._users.ids[one], float(score), self._users.known(one))
                for one, score in zip(found, scores, strict=True)]  # fmt: skip

    def add_items(self, items: str | Path | Sequence[Mapping[str, Any]]) -> list[Any]:
        """Let new items be recommended, without training: their fields go through the products' tower.

        Args:
            items: mappings of the item's id and fields, or a Parquet, CSV or JSON file with such columns. A field that
                is missing, or of a value that training has not seen (with an ``UnknownValues`` warning), counts as
                unknown.

        Returns:
            Their ids.
        """
        fields, name = self.schema.side("item").fields, str(self.schema.item)
        rows = item_rows(items, [field.name for field in fields if field.kind != "numerical"])
        ids: list[Any] = []
        taken: set[str] = set()
        for number, row in enumerate(rows, 1):
            place = f"new item {number}"
            one = new_id(place, name, row.get(name), self._places.integers)
            if self._places.find(one) >= 0 or str(one) in taken:
                raise UserError(f"{place}: '{bare(one)}' is there already; leave it out, or give it another id")
            taken.add(str(one))
            ids.append(one)
        if not rows:
            return []
        self._note_misspelt(rows)
        fresh = {field.name: np.stack([self._new_value(field, row, number) for number, row in enumerate(rows, 1)])
                 for field in fields}  # fmt: skip
        self._append(np.concatenate([self._new_vectors(fresh), self._rules.of_items(self._coded(fresh))], axis=1))
        for one, row in zip(ids, rows, strict=True):
            self._known[len(self._ids)] = {str(field): value for field, value in row.items() if field != name}
            self._ids.append(one)
        self._places = self._places.extended(ids)
        return ids

    @property
    def n_items(self) -> int:
        """Items that can be recommended."""
        return len(self._ids) - 1

    # ---- vectors -------------------------------------------------------------------------------------------------

    def _query(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[1, D] of one customer."""
        return self._customer_vectors({name: value[None] for name, value in columns.items()})

    def _customer_vectors(self, by_field: Mapping[str, np.ndarray]) -> np.ndarray:
        columns, numbers = self._stacked("user", by_field)
        return np.asarray(self._encode("user", self._weights, jnp.asarray(columns), jnp.asarray(numbers)))

    @cached_property
    def _customers(self) -> Array:
        """float32[U, D] of the customers of the data."""
        return jnp.asarray(self._customer_vectors(self._users.fields(np.arange(len(self._users)))))

    def _new_vectors(self, by_field: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[n, D] of items; padded, so that few shapes are compiled."""
        columns, numbers = self._stacked("item", by_field)
        n = len(columns)
        more = ((0, steps(n, 16, 16) - n), (0, 0))
        padded = (jnp.asarray(np.pad(part, more)) for part in (columns, numbers))
        return np.asarray(self._encode("item", self._weights, *padded))[:n]

    def _append(self, vectors: np.ndarray) -> None:
        """More rows of the table; what room there is for others is padding."""
        self._vectors = np.concatenate([self._vectors, vectors])
        n, old = len(self._vectors), len(self._items)
        self._table = jnp.asarray(np.pad(self._vectors, ((0, capacity(old, n - old) - n), (0, 0))))

    def _stacked(self, side: str, by_field: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M] of the fields of a side that the model reads."""
        read = self.run.schema.side(side)
        n = len(next(iter(by_field.values())))
        columns = [self._codes.trained(field, by_field[field.name]) for field in read.coded]
        numbers = [by_field[field.name].reshape(-1, 1) for field in read.numerical]
        return (
            np.concatenate([np.zeros((n, 0), np.int32), *columns], axis=1).astype(np.int32),
            np.concatenate([np.zeros((n, 0), np.float32), *numbers], axis=1).astype(np.float32),
        )

    def _coded(self, by_field: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of fields those that rules can name."""
        coded = {field.name for field in self.schema.coded}
        return {name: value for name, value in by_field.items() if name in coded}

    def _top(
        self, query: np.ndarray, table: Array, count: int, banned: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of one query among the first ``count`` rows of a table: int64[at most k] and float32."""
        size = block_size(len(table), self.run.config.evaluation.memory)

        def kernel(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
            return top_items(queries, table, ban, k, size, count)

        (found,) = best(kernel, jnp.asarray(query), len(table), [np.array(banned)], k)
        return found

    # ---- values --------------------------------------------------------------------------------------------------

    def _profile(self, profile: Mapping[str, Any] | None, user: Any) -> dict[str, np.ndarray]:
        """By field of the user its columns, or its number: all fields of the data, read or not, for rules."""
        check_one("user", user, profile)
        fields = {field.name: field for field in self.schema.side("user").fields if field.name != self.schema.user}
        index = self._user(user)
        found = self._users.fields(index)
        if plain(user) is not None and not index:
            warn_unknown(f"user {bare(user)} is none of the {len(self._users) - 1:,} customers"
                         f"{self._users.places.nearest(user)} and counts as somebody new")  # fmt: skip
        if not index:  # nothing is known: the unknown value, and the mean of a number
            found = {name: np.array([0] + [-1] * (value.size - 1), value.dtype).reshape(value.shape)
                     for name, value in found.items()}  # fmt: skip
        for name, value in (profile or {}).items():
            if name not in fields:
                raise UserError(f"field '{bare(name)}': not one of a profile{nearest(str(name), fields)}; those are "
                                f"{', '.join(fields)}")  # fmt: skip
            found[name] = self._codes.encode(fields[name], value)
        return found

    def _note_misspelt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        names = [field.name for field in self.schema.side("item").fields]
        given = {str(column) for row in rows for column in row}
        for column in sorted(given - set(names)):
            if hint := nearest(column, [name for name in names if name not in given]):
                warn_unknown(f"new items: '{bare(column)}' is no field{hint}; it is only shown")

    def _new_value(self, field: Field, row: Mapping[str, Any], number: int) -> np.ndarray:
        value = None if field.name == self.schema.item else row.get(field.name)
        try:
            if field.kind == "bag":
                values = self._codes.bag_values(field, value)
                if len(values) > field.width:
                    warn_unknown(f"new item {number}: field '{field.name}': {len(values)} values, the first "
                                 f"{field.width} are read, as many as in the data")  # fmt: skip
                value = values[: field.width]
            return self._codes.encode(field, value)
        except UserError as error:
            raise UserError(f"new item {number}: {error}") from None

    def _indices(self, what: str, raw: Iterable[Any]) -> list[int]:
        """Where those of some items are that are known; the others are noted."""
        ids = read_ids(what, raw)
        places = [self._places.find(one) for one in ids]
        note_ignored(what, [one for one, place in zip(ids, places, strict=True) if place < 0])
        return [place for place in places if place >= 0]

    def _user(self, user: Any) -> int:
        """The index of a customer; 0 for somebody new."""
        return self._users.codes([user])[0]

    def _seen(self, user: Any, seen: str | None) -> set[int]:
        return set(self._past.seen(self._user(user), seen)[0].tolist())

    def _what(self, item: int) -> dict[str, Any]:
        return self._known[item] if item in self._known else self._items.known(item)


# ---- the command -----------------------------------------------------------------------------------------------------

ALONE = {
    "similar_to": ("similar_customers", "user", "profile", "purchased", "exclude", "include_seen", "seen", "no_rules"),
    "similar_customers": ("purchased", "exclude", "include_seen", "seen", "no_rules", "add_items"),
}
"""Options with those that have no meaning beside them."""


def answer(options: Namespace) -> None:
    """What ``python -m jaxrec.recommend`` prints of a two-tower run."""
    profile = pairs("--profile", options.profile)
    for option, others in ALONE.items():
        for other in others:
            if getattr(options, option) not in (None, False) and getattr(options, other) not in (None, [], False):
                one, two = (f"--{name.replace('_', '-')}" for name in (option, other))
                raise UserError(f"{one}: {two} does not go with it; leave one of them out")
    if options.similar_to is None and options.user is None and options.profile is None:
        raise UserError("--user, --profile: neither is given; name a customer, or describe one, such as "
                        "--profile gender=F age=25")  # fmt: skip
    shop = TowerRecommender.load(options.run)
    with noted_unknown():
        if options.add_items is not None:
            shop.add_items(options.add_items)
        if options.similar_to is not None:
            rows = [_neighbour(one) for one in shop.similar_items(options.similar_to, options.k)]
        elif options.similar_customers:
            rows = [_neighbour(one) for one in shop.similar_customers(profile, options.user, options.k)]
        else:
            rows = [_suggestion(one) for one in shop.recommend(
                profile, options.user, options.purchased or (), options.exclude, options.k, not options.include_seen,
                not options.no_rules, options.seen,
            )]  # fmt: skip
    columns = ("item", "score")
    if options.similar_to is not None or options.similar_customers:
        columns = ("customer" if options.similar_customers else "item", "similarity")
    print(as_json({"recommendations": rows}) if options.json else _table(rows, *columns))


def _suggestion(one: Suggestion) -> dict[str, Any]:
    return _row(one.item, one.score, [describe(rule) for rule in one.rules], one.known)


def _neighbour(one: Neighbour) -> dict[str, Any]:
    return _row(one.id, one.similarity, [], one.known)


def _row(item: Any, score: float, rules: list[str], known: Mapping[str, Any]) -> dict[str, Any]:
    row = {"item": item, "score": score, "rules": rules}
    return row | {name: value for name, value in known.items() if name not in row}


def _table(rows: Sequence[Mapping[str, Any]], who: str, score: str) -> str:
    if not rows:
        return ""
    fields = "  ".join(name for name in rows[0] if name not in ("item", "score", "rules"))
    lines = [f"{'rank':>4}  {who:>10}  {score:>10}  {fields}".rstrip()]
    for rank, row in enumerate(rows, 1):
        known = [
            str(value) for name, value in row.items() if name not in ("item", "score", "rules") and value is not None
        ]
        why = "".join(f"  [{rule}]" for rule in row["rules"])
        lines.append(f"{rank:4d}  {row['item']!s:>10}  {row['score']:10.4f}  {'  '.join(known)}{why}")
    return "\n".join(map(one_line, lines))
