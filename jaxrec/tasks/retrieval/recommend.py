"""What is recommended of a two-tower run: the items closest to a customer of the data, or to one whom nobody has seen;
see ``jaxrec.recommend``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.codes import Columns
from jaxrec.data.dataset import Schema
from jaxrec.data.given import item_rows, plain
from jaxrec.data.items import Added
from jaxrec.errors import UserError
from jaxrec.ops.rows import deal, mesh_of
from jaxrec.tasks import vectors as ranking
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.history import People
from jaxrec.tasks.query import Answer, Inputs, Query, most_similar
from jaxrec.tasks.rules import RuleBook
from jaxrec.tasks.vectors import capacity, filled, in_batches, steps, vector_table


class Recommender:
    """See ``jaxrec.tasks.query.Kind``. Scores are (1 + cosine) / 2, from 0 to 1, and what rules add; ``gone`` are the
    items of the query, which the customer has, beside what the data say."""

    reads = ("user", "profile", "items")
    can = frozenset({"similar", "similar_users", "add", "vectors", "filter", "rules"})

    def __init__(self, loaded: Loaded) -> None:
        run, model, weights, _ = loaded
        self.run, self._weights, self._memory = run, weights, run.config.evaluation.memory
        self._encode = jax.jit(model.encode, static_argnums=0)
        self.people = People(run)
        assert self.people.users is not None
        self._goods, self._users, self.codes = self.people.goods, self.people.users, self.people.codes
        self.id_field = self._goods.name
        self.items, self.nothing = self._goods.items, self._users.nothing()
        schema = Schema.from_manifest(run.manifest)
        self._rules = RuleBook(run.config.recommendation.rules, schema, self.codes.vocabulary)
        fields = self._goods.values(slice(None))
        vectors = np.asarray(self._encode("item", weights, *self.stacked("item", fields)))
        self._dim = vectors.shape[1]
        self._set(np.concatenate([vectors, self._rules.of_items(fields)], axis=1))

    def _set(self, vectors: np.ndarray) -> None:
        n, old = len(vectors), len(self._goods)
        mesh, rows = mesh_of(self._weights), np.pad(vectors, ((0, capacity(old, n - old) - n), (0, 0)))
        self._vectors, self._table = vectors, jnp.asarray(rows) if mesh is None else deal(rows, mesh)
        self.counts = self.people.past.counts(n)

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]:
        inputs, nothing = [self.people.read(query, seen, self.nothing, []) for query in queries], self.nothing.items()
        return [one._replace(known=any((one.what[name] != value).any() for name, value in nothing)) for one in inputs]

    def best(self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool) -> Iterator[Any]:
        by_rule = self._rules.of_users(_stack([one.what for one in inputs])) * np.float32(rules)

        def dispatch(part: slice, rows: int) -> ranking.Waiting:
            own, gone = self._towards("user", [one.what for one in inputs[part]]), [one.gone for one in inputs[part]]
            queries = filled(np.concatenate([own, by_rule[part]], axis=1), rows)
            return ranking.nearest(queries, self._table, mask, gone, k, self._memory)

        for own, (places, scores) in zip(by_rule, in_batches(len(inputs), dispatch), strict=True):
            yield places, (1 + scores) / 2, self._rules.applied(own, self._vectors[places, self._dim :])

    def similar(self, item: Any, k: int) -> Answer:
        """The items whose vectors are closest to that of ``item``."""
        index = self.items.index(item)
        query = np.where(np.arange(self._vectors.shape[1]) < self._dim, self._vectors[[index]], 0)  # rules aside
        return most_similar(self.items, jnp.asarray(query), self._table, [0, index], k, self._memory)

    def similar_users(self, query: Query, k: int) -> Answer:
        """The customers of the data whose vectors are closest to that of one."""
        (one,) = self.read([query], True)
        own, without = jnp.asarray(self._towards("user", [one.what])), [0, self.people.index(query.user)]
        return most_similar(self._users.items, own, self._customers, without, k, self._memory, one.notes)

    def vectors(self) -> pa.Table:
        """``id``, attributes, and ``vector``, float32 of length 1: what a customer's vector is multiplied with."""
        table = self.items.attributes.slice(1).drop_columns([self._goods.name])
        return vector_table(self.items.ids.values(), self._vectors[1:, : self._dim], table)

    def add(self, items: Any) -> Added:
        """The fields of new items go through the products' tower; what is missing, or not in training, is unknown."""
        name, notes, values, filtered = self._goods.name, list[str](), list[Columns](), list[dict[str, Any]]()
        rows = item_rows(items)
        ids = self.items.new_ids("new item", name, rows)
        for number, (row, one) in enumerate(zip(rows, ids, strict=True), 1):
            given = {field: row.get(field.name) for field in self._goods.fields if field.name != name}
            try:
                values.append({field.name: self.codes.encode(field, given.get(field), notes)
                               for field in self._goods.fields})  # fmt: skip
                bags = {field.name: self.codes.members(field, value) for field, value in given.items()
                        if field.kind == "bag"}  # fmt: skip
            except UserError as error:
                raise UserError(f"new item {number}: {error}") from None
            filtered.append({str(field): plain(value) for field, value in row.items()} | bags | {name: one})
        if rows:
            new = np.concatenate([self._towards("item", values), self._rules.of_items(_stack(values))], axis=1)
            self._set(np.concatenate([self._vectors, new]))
            known = [{str(field): value for field, value in row.items() if field != name} for row in rows]
            self.items.add(ids, filtered, known)
        return Added(ids, notes)

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _towards(self, side: str, entities: Sequence[Columns]) -> np.ndarray:
        """float32[n, D] of customers or items; padded, so that few shapes are compiled."""
        n = len(entities)
        rows = 1 if n == 1 and side == "user" else steps(n, 16, 16)
        stacked = [filled(part, rows) for part in self.stacked(side, _stack(entities))]
        return np.asarray(self._encode(side, self._weights, *stacked))[:n]

    @cached_property
    def _customers(self) -> Array:
        """float32[U, D] of the customers of the data."""
        return self._encode("user", self._weights, *self.stacked("user", self._users.values(slice(None))))

    def stacked(self, side: str, values: Columns) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M] of the fields of a side that the model reads."""
        return self.codes.stacked(self.run.schema.side(side).fields, values)


def _stack(entities: Sequence[Columns]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in entities]) for name in entities[0]}
