"""``TowerRecommender``: items for a customer whom nobody has seen, from a two-tower run alone; see recommend.py."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config import Rule
from jaxrec.data.field_codes import Entities, FieldCodes, bag_values, coded, noted_unknown, warn_unknown
from jaxrec.data.given import read_items, tower_number
from jaxrec.data.retrieval import Catalogue
from jaxrec.data.rows import Field, Schema
from jaxrec.errors import UserError, nearest
from jaxrec.item_vectors import item_vectors, load_item_vectors
from jaxrec.models import TowerModel
from jaxrec.options import pairs
from jaxrec.ranking import block_size, top_items
from jaxrec.rules import RuleBook, describe
from jaxrec.rundir import Run, load_tower_model, open_run


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
        self._codes = FieldCodes(run)
        self._items, self._users = (Entities(run, side, str(name)) for side, name in
                                    (("item", self.schema.item), ("user", self.schema.user)))  # fmt: skip
        self._ids, self._known = list(self._items.ids), {}  # type: list[Any], dict[int, dict[str, Any]]
        everything = np.arange(len(self._items))
        self._fields = self._items.fields(everything)
        kept = load_item_vectors(run, which, len(self._items))
        self._vectors = item_vectors(model, weights, self._catalogue(self._fields)) if kept is None else kept
        self._rules = RuleBook(run.config.recommendation.rules, self.schema, self._codes.strict)

    @classmethod
    def load(cls, run: str | Path) -> TowerRecommender:
        """Load a run directory.

        Raises:
            UserError: it is no two-tower run, or has no checkpoint.
        """
        opened = open_run(run)
        return cls(opened, *load_tower_model(opened))

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
    ) -> list[Suggestion]:
        """The k items closest to a customer.

        Args:
            profile: values of fields of the customer; one that is not named counts as unknown, a
                number as the mean.
            user: raw id of a customer of the data, whose fields the profile overrides; None for somebody new.
            purchased: raw ids of items that the customer has; not recommended again.
            exclude: raw ids of items to leave out as well.
            exclude_seen: leave out what the user has in the data.
            rules: whether the configured rules apply.

        Returns:
            Best first; fewer than k where there are no more.

        Raises:
            UserError: k is below 1; an unknown user, field, value or item; nothing is left to recommend.
        """
        if k < 1:
            raise UserError(f"k = {k}: expected 1 or more")
        columns = self._profile(profile or {}, user)
        gone = {*self._indices("--purchased", purchased), *self._indices("--exclude", exclude)}
        if user is not None and exclude_seen:
            gone |= set(self._history(user))
        left = len(self._ids) - 1 - len(gone)
        if left < 1:
            raise UserError(f"--purchased, --exclude: they name all {len(self._ids) - 1:,} items; nothing is left to "
                            "recommend")  # fmt: skip
        by_rule, of_items = self._rule_columns(columns, rules)
        query = np.concatenate([self._query(columns), by_rule], axis=1)
        items = np.concatenate([self._vectors, of_items], axis=1)
        found, scores = self._top(query, items, [0, *sorted(gone)], min(k, left))
        return [
            Suggestion(self._ids[item], float(1 + score) / 2, self._rules.applied(by_rule[0], of_items[item]) if rules
                       else [], self._what(item))
            for item, score in zip(found, scores, strict=True)
        ]  # fmt: skip

    def similar_items(self, item: Any, k: int = 10) -> list[Neighbour]:
        """The k items whose vectors are closest to that of ``item``.

        Raises:
            UserError: the item is unknown, or k is below 1.
        """
        if k < 1:
            raise UserError(f"k = {k}: expected 1 or more")
        (own,) = self._indices("--similar-to", [item])
        found, scores = self._top(self._vectors[own][None], self._vectors, [0, own], min(k, len(self._ids) - 2))
        return [
            Neighbour(self._ids[one], float(score), self._what(one)) for one, score in zip(found, scores, strict=True)
        ]

    def similar_customers(
        self, profile: Mapping[str, Any] | None = None, user: Any = None, k: int = 10
    ) -> list[Neighbour]:
        """The k customers of the data whose vectors are closest to that of a customer; see ``recommend``."""
        if k < 1:
            raise UserError(f"k = {k}: expected 1 or more")
        own = [] if user is None else [self._user(user)]
        vectors = self._customer_vectors(self._users.fields(np.arange(len(self._users))))
        query = self._query(self._profile(profile or {}, user))
        found, scores = self._top(query, vectors, [0, *own], min(k, len(self._users) - 1 - len(own)))
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

        Raises:
            UserError: an id is missing or there already, a number is none, or the file cannot be read.
        """
        name, taken = str(self.schema.item), {str(one) for one in self._ids[1:]}
        rows = read_items(Path(items), name) if isinstance(items, (str, Path)) else [dict(row) for row in items]
        fields = self.schema.side("item").fields
        for number, row in enumerate(rows, 1):
            for field in fields:
                if field.kind != "bag" and isinstance(row.get(field.name), (list, dict)):
                    raise UserError(f"new item {number}: {field.name}: found {row[field.name]}; give a single value")
            if row.get(name) in (None, ""):
                raise UserError(f"new item {number}: no '{name}', which identifies it; give one")
            if str(row[name]) in taken:
                raise UserError(
                    f"new item {number}: '{row[name]}' is there already; leave it out, or give it another id"
                )
            taken.add(str(row[name]))
        if not rows:
            return []
        self._note_misspelt(rows)
        fresh = {field.name: np.stack([self._new_value(field, row, number) for number, row in enumerate(rows, 1)])
                 for field in fields}  # fmt: skip
        vectors = item_vectors(self._model, self._weights, self._catalogue(fresh))
        self._vectors = np.concatenate([self._vectors, vectors])
        self._fields = {field: np.concatenate([old, fresh[field]]) for field, old in self._fields.items()}
        for row in rows:
            self._known[len(self._ids)] = {field: value for field, value in row.items() if field != name}
            self._ids.append(row[name])
        return [row[name] for row in rows]

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

    def _catalogue(self, by_field: Mapping[str, np.ndarray]) -> Catalogue:
        return Catalogue(*self._stacked("item", by_field))

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

    def _rule_columns(self, user: Mapping[str, np.ndarray], apply: bool) -> tuple[np.ndarray, np.ndarray]:
        if not apply:
            return np.zeros((1, 0), np.float32), np.zeros((len(self._ids), 0), np.float32)
        coded = {field.name for field in self.schema.coded}
        one = {name: value[None] for name, value in user.items() if name in coded}
        items = {name: value for name, value in self._fields.items() if name in coded}
        return self._rules.of_users(one), self._rules.of_items(items)

    def _top(
        self, query: np.ndarray, vectors: np.ndarray, banned: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of one query: int[k] and float32[k]."""
        if k < 1:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        size = block_size(len(vectors), self.run.config.evaluation.memory)
        ban = jnp.asarray([banned], jnp.int32)
        found, scores = top_items(jnp.asarray(query), jnp.asarray(vectors), ban, k, size)
        return np.asarray(found[0]), np.asarray(scores[0])

    # ---- values --------------------------------------------------------------------------------------------------

    def _profile(self, profile: Mapping[str, Any], user: Any) -> dict[str, np.ndarray]:
        """By field of the user its columns, or its number: all fields of the data, read or not, for rules."""
        fields = {field.name: field for field in self.schema.side("user").fields if field.name != self.schema.user}
        found = self._users.fields(0 if user is None else self._user(user))
        if user is None:  # nothing is known: the unknown value, and the mean of a number
            found = {name: np.array([0] + [-1] * (value.size - 1), value.dtype).reshape(value.shape)
                     for name, value in found.items()}  # fmt: skip
        for name, value in profile.items():
            if name not in fields:
                raise UserError(f"field '{name}': not one of a profile{nearest(name, fields)}; those are "
                                f"{', '.join(fields)}")  # fmt: skip
            found[name] = self._encoded(fields[name], value)
        return found

    def _encoded(self, field: Field, value: Any) -> np.ndarray:
        if field.kind == "numerical":
            return tower_number(field, value)
        return coded(field, bag_values(field, value), self._codes.strict)

    def _note_misspelt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        names = [field.name for field in self.schema.side("item").fields]
        given = {column for row in rows for column in row}
        for column in sorted(given - set(names)):
            if hint := nearest(column, [name for name in names if name not in given]):
                warn_unknown(f"new items: '{column}' is no field{hint}; it is only shown")

    def _new_value(self, field: Field, row: Mapping[str, Any], number: int) -> np.ndarray:
        try:
            return self._coded(field, row.get(field.name))
        except UserError as error:
            raise UserError(f"new item {number}: {error}") from None

    def _coded(self, field: Field, value: Any) -> np.ndarray:
        if field.kind == "numerical":
            return np.zeros((), np.float32) if value is None else tower_number(field, value)
        if value is None or field.name == self.schema.item:
            return np.array([0] + [-1] * (field.width - 1), np.int32)
        codes = [self._codes.code(field, one) for one in bag_values(field, value)][: field.width]
        return np.array(codes + [-1] * (field.width - len(codes)), np.int32)

    def _indices(self, option: str, raw: Iterable[Any]) -> list[int]:
        places = {str(one): index for index, one in enumerate(self._ids) if index}
        wanted = [str(value) for value in raw]
        for value in wanted:
            if value not in places:
                raise UserError(f"{option} {value}: no such item{nearest(value, places)}; the run knows "
                                f"{len(places):,}")  # fmt: skip
        return [places[value] for value in wanted]

    def _user(self, user: Any) -> int:
        (index,) = self._users.codes([user])
        if not index:
            raise UserError(f"--user {user}: no such customer among {len(self._users) - 1:,}; describe a new one with "
                            "--profile")  # fmt: skip
        return index

    def _history(self, user: Any) -> list[int]:
        index = self._user(user)
        start, stop = self.run.kept("history_offsets")[index : index + 2]
        rated = self.run.kept("history_ratings")[start:stop] >= self.schema.threshold
        return [int(item) for item in self.run.kept("history_items")[start:stop][rated] if item]

    def _what(self, item: int) -> dict[str, Any]:
        return self._known[item] if item in self._known else self._items.known(item)


# ---- the command -----------------------------------------------------------------------------------------------------

ALONE = {
    "similar_to": ("similar_customers", "user", "profile", "purchased", "exclude", "include_seen", "no_rules"),
    "similar_customers": ("purchased", "exclude", "include_seen", "no_rules", "add_items"),
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
                not options.no_rules,
            )]  # fmt: skip
    print(json.dumps({"recommendations": rows}, ensure_ascii=False, default=str) if options.json else _table(rows))


def _suggestion(one: Suggestion) -> dict[str, Any]:
    return _row(one.item, one.score, [describe(rule) for rule in one.rules], one.known)


def _neighbour(one: Neighbour) -> dict[str, Any]:
    return _row(one.id, one.similarity, [], one.known)


def _row(item: Any, score: float, rules: list[str], known: Mapping[str, Any]) -> dict[str, Any]:
    row = {"item": item, "score": score, "rules": rules}
    return row | {name: value for name, value in known.items() if name not in row}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for rank, row in enumerate(rows, 1):
        known = [
            str(value) for name, value in row.items() if name not in ("item", "score", "rules") and value is not None
        ]
        why = "".join(f"  [{rule}]" for rule in row["rules"])
        lines.append(f"{rank:4d}  {row['item']!s:>10}  {row['score']:8.4f}  {'  '.join(known)}{why}")
    return "\n".join(lines)
