"""What is recommended of a two-tower run: items for a customer of the data, or one whom nobody has seen; see
``jaxrec.recommend``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.codes import Columns, Entities, FieldCodes, Profiles
from jaxrec.data.given import item_rows
from jaxrec.data.ids import plain
from jaxrec.data.items import Added
from jaxrec.data.retrieval import Catalogue
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError, nearest
from jaxrec.models.base import TowerModel
from jaxrec.ops.topk import block_size, top_items
from jaxrec.run import Run
from jaxrec.tasks.base import load
from jaxrec.tasks.history import History
from jaxrec.tasks.query import Answer, Item, Query
from jaxrec.tasks.retrieval.item_vectors import item_vectors, load_item_vectors
from jaxrec.tasks.rules import RuleBook
from jaxrec.tasks.vectors import NOTHING_LEFT, POPULAR, batches, best, capacity, steps, vector_table, within


class TowerRecommender:
    """The items closest to a customer.

    Attributes:
        items, users: of the data, and items that were added since.
        past: what the users have.
    """

    reads = ("user", "profile", "items")
    can = frozenset({"similar", "similar_users", "add", "vectors", "filter", "rules", "history"})

    def __init__(self, run: Run, model: TowerModel, weights: dict[str, Any], which: str) -> None:
        self.run, self._weights = run, weights
        self._encode = jax.jit(model.encode, static_argnums=0)
        self.codes, self.past = FieldCodes(run), History(run)
        self.items, self.users = (Entities(run, side, self.codes) for side in ("item", "user"))
        self.profiles = Profiles(self.codes, self.users.fields, self.users)
        schema = Schema.from_manifest(run.manifest)
        self._rules = RuleBook(run.config.recommendation.rules, schema, self.codes.vocabulary)
        fields = self.items.values(slice(None))
        vectors = load_item_vectors(run, which, len(self.items))
        if vectors is None:
            vectors = item_vectors(model, weights, Catalogue(*self._stacked("item", fields)))
        self._dim = vectors.shape[1]
        self._vectors = np.concatenate([vectors, self._rules.of_items(fields)], axis=1)
        self._table = jnp.asarray(self._vectors)

    @classmethod
    def load(cls, run: Run) -> TowerRecommender:
        return cls(*load(run, "retrieval"))

    @property
    def n_items(self) -> int:
        return len(self.items.items)

    # ---- to recommend ------------------------------------------------------------------------------------------------

    def recommend(
        self, queries: Sequence[Query], k: int, *, exclude: Any = (), only: Any = None, seen: bool | str = False,
        rules: bool = True,
    ) -> list[Answer]:  # fmt: skip
        """The items closest to each customer; scores are (1 + cosine) / 2, from 0 to 1, and what rules add. The items
        of a query are those that the customer has, beside what the data say.
        """
        mask, notes = self.items.items.allowed(only, exclude)
        pool = None if only is None else np.flatnonzero(mask)
        banned, asked, said = list[np.ndarray](), list[Columns](), list[list[str]]()
        for query in queries:
            has, unknown = self.items.items.places("items", query.items)
            said.append([*notes, *unknown])
            asked.append(self.profiles.read(query.user, query.profile, self.users.nothing(), said[-1]))
            past = self.past.seen(self.profiles.index(query.user), seen)[0]
            own = past if seen is True else np.append(has, past)
            banned.append(np.append(own, np.flatnonzero(~mask) if pool is None else own[:0]))
        answers, nothing = list[Answer](), self.users.nothing()
        for part, rows in batches(len(queries)):
            users = self._users(asked[part], rules)
            padded = jnp.asarray(np.pad(users, ((0, rows - len(users)), (0, 0))))
            found = self._top(padded, self._table, len(self._vectors), banned[part], k, pool)
            for row, (items, scores) in enumerate(found, part.start):
                own_notes, scores = said[row], (1 + scores) / 2
                nobody = all(np.array_equal(asked[row][name], value) for name, value in nothing.items())
                if nobody:
                    own_notes.append(POPULAR)
                    items, scores = self.past.popular(np.setdiff1d(np.flatnonzero(mask), banned[row]), k)
                why: Iterable[tuple[str, ...]] = repeat(())
                if not nobody:
                    by_rule, moved = users[row - part.start, self._dim :], self._vectors[items, self._dim :]
                    why = (self._rules.applied(by_rule, one) for one in moved)
                own_notes += [NOTHING_LEFT] * (not len(items))
                answers.append(self._answer(self.items, items, scores, own_notes, nobody, why))
        return answers

    def similar(self, item: Any, k: int) -> Answer:
        """The items whose vectors are closest to that of ``item``."""
        own = self.items.items.index(item)
        query = self._vectors[own][None].copy()
        query[:, self._dim :] = 0  # which are not of the vector
        ((found, scores),) = self._top(jnp.asarray(query), self._table, len(self._vectors), [np.array([0, own])], k)
        return self._answer(self.items, found, scores)

    def similar_users(self, query: Query, k: int) -> Answer:
        """The customers of the data whose vectors are closest to that of one."""
        notes = list[str]()
        asked = self.profiles.read(query.user, query.profile, self.users.nothing(), notes)
        gone, own = [np.array([0, self.profiles.index(query.user)])], jnp.asarray(self._towards("user", [asked]))
        ((found, scores),) = self._top(own, self._customers, len(self.users), gone, k)
        return self._answer(self.users, found, scores, notes)

    def vectors(self) -> pa.Table:
        """``id``, attributes, and ``vector``, float32 of length 1: what a customer's vector is multiplied with."""
        table = self.items.items.attributes.slice(1).drop_columns([self.items.name])
        return vector_table(self.items.items.ids.values(), self._vectors[1:, : self._dim], table)

    # ---- to add items ------------------------------------------------------------------------------------------------

    def add(self, items: Any) -> Added:
        """Let new items be recommended, without training: their fields go through the products' tower. A field that is
        missing, or of a value that training has not seen, counts as unknown.
        """
        name, fields, notes = self.items.name, self.items.fields, list[str]()
        rows = item_rows(items, [field.name for field in fields if field.kind != "numerical"])
        ids = self.items.items.new_ids("new item", name, rows)
        if not rows:
            return Added([])
        given, names = {str(column) for row in rows for column in row}, [field.name for field in fields]
        for column in sorted(given - set(names)):
            if hint := nearest(column, [one for one in names if one not in given]):
                notes.append(f"new items: '{column}' is no field{hint}; it is only shown")
        values, filtered = list[dict[str, np.ndarray]](), list[dict[str, Any]]()
        for number, (row, one) in enumerate(zip(rows, ids, strict=True), 1):
            values.append({})
            filtered.append({field: plain(value) for field, value in row.items()} | {name: one})
            for field in fields:
                value = None if field.name == name else row.get(field.name)
                try:
                    if field.kind == "bag":
                        value = self.codes.bag_values(field, value)
                        filtered[-1] |= {field.name: value} if field.name in row else {}
                        if len(value) > field.width:
                            notes.append(f"new item {number}: field '{field.name}': {len(value)} values, the first "
                                         f"{field.width} are read, as many as in the data")  # fmt: skip
                            value = value[: field.width]
                    values[-1][field.name] = self.codes.encode(field, value, notes)
                except UserError as error:
                    raise UserError(f"new item {number}: {error}") from None
        stacked = {field.name: np.stack([one[field.name] for one in values]) for field in fields}
        new = np.concatenate([self._towards("item", values), self._rules.of_items(stacked)], axis=1)
        self._vectors = np.concatenate([self._vectors, new])
        n, old = len(self._vectors), len(self.items)  # what room there is for others is padding
        self._table = jnp.asarray(np.pad(self._vectors, ((0, capacity(old, n - old) - n), (0, 0))))
        known = [{str(field): value for field, value in row.items() if field != name} for row in rows]
        self.items.items.add(ids, filtered, known)
        return Added(ids, notes)

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _users(self, asked: Sequence[Columns], rules: bool) -> np.ndarray:
        """float32[n, D + rules] of customers."""
        by_rule = self._rules.of_users({name: np.stack([one[name] for one in asked]) for name in asked[0]})
        return np.concatenate([self._towards("user", asked), by_rule * np.float32(rules)], axis=1)

    def _towards(self, side: str, entities: Sequence[Columns]) -> np.ndarray:
        """float32[n, D] of customers or items; padded, so that few shapes are compiled."""
        stacked = self._stacked(side, {name: np.stack([one[name] for one in entities]) for name in entities[0]})
        n = len(entities)
        more = ((0, (1 if n == 1 and side == "user" else steps(n, 16, 16)) - n), (0, 0))
        padded = (jnp.asarray(np.pad(part, more)) for part in stacked)
        return np.asarray(self._encode(side, self._weights, *padded))[:n]

    @cached_property
    def _customers(self) -> Array:
        """float32[U, D] of the customers of the data."""
        stacked = map(jnp.asarray, self._stacked("user", self.users.values(slice(None))))
        return jnp.asarray(self._encode("user", self._weights, *stacked))

    def _stacked(self, side: str, values: Columns) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M] of the fields of a side that the model reads."""
        return self.codes.stacked(self.run.schema.side(side).fields, values)

    def _top(
        self, queries: Array, table: Array, count: int, banned: Sequence[np.ndarray], k: int,
        pool: np.ndarray | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
        """The k nearest of each query among the first ``count`` rows of a table, or some of them."""
        if pool is not None:
            table, count, banned = within(table, pool, banned)
        size = block_size(len(table), self.run.config.evaluation.memory)

        def kernel(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
            return top_items(queries, table, ban, k, size, count)

        found = best(kernel, queries, len(table), banned, k)
        return found if pool is None else [(pool[places], scores) for places, scores in found]

    def _answer(
        self, side: Entities, places: np.ndarray, scores: np.ndarray, notes: Sequence[str] = (), popular: bool = False,
        why: Iterable[tuple[str, ...]] = repeat(()),
    ) -> Answer:  # fmt: skip
        items = map(Item, side.items.decode(places), scores.tolist(), side.items.known(places), why)
        return Answer(list(items), list(dict.fromkeys(notes)), popular)


Recommender = TowerRecommender
