"""Where the rows of a run's tables come from when it goes on from another run: those of ids that the other one was
trained on move, and the rows of new ids begin as ``start.new_rows`` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.config.sections import StartConfig
from jaxrec.data.codes import FieldCodes
from jaxrec.data.dataset import Dataset, Field, RowsDataset, Schema
from jaxrec.data.items import Items
from jaxrec.data.store import checked, map_array
from jaxrec.data.text.encoding import NAMES, open_name_vectors
from jaxrec.errors import UserError, nearest
from jaxrec.ops.tables import TableSpec
from jaxrec.run import Run
from jaxrec.tasks.base import Loaded

OLD_ROWS = "old_rows"  # bool, an array that a run keeps: which rows of its tables, sorted by name, moved to it
ATTRIBUTES = "attributes.parquet"
AT_ONCE = 65_536  # rows of a least-squares problem that are added up


class Names(NamedTuple):
    """What the ids of a table are called."""

    vectors: np.ndarray  # float16[U, dim], of the distinct names; mapped
    name_of: np.ndarray  # int32[V], the name of each row; -1 for none


class Moves(NamedTuple):
    """Where the V rows of a table come from."""

    rows: np.ndarray  # int64[V], the row of the other run's table; -1 where that was not trained on the id
    parts: np.ndarray  # int64[V], the number of the id's field; -1 where the row is of no id, as of an unknown value
    trained: int  # ids of the table that the other run was trained on
    groups: np.ndarray | None = None  # int64[V], the value of start.attribute, -1 for none; None: not asked for
    names: Names | None = None  # None: not asked for

    @property
    def known(self) -> int:
        """How many ids move."""
        return int(((self.rows >= 0) & (self.parts >= 0)).sum())


def old_rows(run: Run, tables: Mapping[str, TableSpec]) -> dict[str, np.ndarray] | None:
    """Of each table of a run bool[V], which rows moved to it; None where it began without another run."""
    if not run.keeps(OLD_ROWS):
        return None
    names, whole = sorted(tables), run.kept(OLD_ROWS)
    return dict(zip(names, np.split(whole, np.cumsum([tables[name].rows for name in names])[:-1]), strict=False))


# ---- which rows move -------------------------------------------------------------------------------------------------


def item_moves(loaded: Loaded, dataset: Dataset, start: StartConfig, trained: np.ndarray | None = None) -> Moves:
    """Of a table by item; ``trained``: bool[items of the run], which of them it was trained on (None: all)."""
    rows = loaded.run.vocabulary().ids.encode(Items.read(dataset.path / "items.parquet").ids.values()).astype(np.int64)
    if trained is not None:
        rows = np.where((rows >= 0) & trained[rows], rows, -1)
    count = loaded.run.n_items if trained is None else int(trained.sum())
    groups = _groups_of_items(dataset, start) if start.new_rows == "category" else None
    names = _names_of_items(dataset) if start.new_rows == "text" else None
    return Moves(rows, np.zeros(len(rows), np.int64), count, groups, names)


def field_moves(
    loaded: Loaded, dataset: RowsDataset, start: StartConfig, fields: Sequence[Field], table: str
) -> Moves:  # fmt: skip
    """Of a table that stacks the values of fields in this order, as ``models.fields.Stack`` does. A value moves if the
    run was trained on it, or if its row had moved to the run; the unknown value and the row of a number always do."""
    if start.new_rows == "text":
        raise UserError(f"start.new_rows: text reads the names of items, and {dataset.path} holds rows of fields; "
                        "choose mean, category or random")  # fmt: skip
    run, old = loaded.run, (old_rows(loaded.run, loaded.model.tables) or {}).get(table)
    sizes, counts = {field.name: field.size for field in run.schema.fields}, run.schema.apart(run.kept("value_counts"))
    vocabulary, parts, begin, trained = FieldCodes(run).vocabulary, list[tuple[int, np.ndarray | None]](), 0, 0
    for field in fields:
        size, codes = sizes[field.name], None
        if field.kind != "numerical":
            seen = counts[field.name] > 0
            seen = seen if old is None else seen | old[begin : begin + size]
            codes = vocabulary(field.name).encode(dataset.values(field.name)).astype(np.int64)
            codes, trained = np.where((codes > 0) & seen[codes], codes, -1), trained + int(seen[1:].sum())
        parts.append((size, codes))
        begin += size
    groups = _groups_of_fields(dataset, start, fields) if start.new_rows == "category" else None
    return stacked(parts, trained)._replace(groups=groups)


def stacked(parts: Sequence[tuple[int, np.ndarray | None]], trained: int) -> Moves:
    """Of a table of parts that lie one behind the other. Of each the number of rows in the other run's table, and
    int64[n], where in them the row of each id is, -1 for a new id; the first row is of no id. None: all rows move as
    they are, and none is of an id."""
    rows, owners, begin = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for number, (size, codes) in enumerate(parts):
        own = np.arange(size) if codes is None else np.append(0, codes)
        rows.append(np.where(own < 0, -1, own + begin))
        owners.append(np.where((np.arange(len(own)) == 0) | (codes is None), -1, number))
        begin += size
    return Moves(np.concatenate(rows), np.concatenate(owners), trained)


def check_fields(run: Run, schema: Schema) -> None:
    """Refuse other fields than those that a run's model reads, in their order: its parameters are by field."""
    ours, theirs = ([f"{field.name} ({field.kind})" for field in one.fields] for one in (schema, run.schema))
    for place in range(max(len(ours), len(theirs))):
        mine, other = (names[place] if place < len(names) else "none" for names in (ours, theirs))
        if mine != other:
            wanted = " ".join(field.name for field in run.schema.fields)
            raise UserError(f"data.fields: field {place + 1} is {mine} here and {other} in {run.path}; set it to the "
                            f"fields of the run, {wanted}, on data that have them")  # fmt: skip


# ---- how new rows begin ----------------------------------------------------------------------------------------------


def moved_table(how: str, moves: Moves, old: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """float32[V, width]: the rows of float32[V', width] that move, and new ones as ``start.new_rows`` says: as in
    float32[V, width] ``fresh`` ones (random, or where a field has no old row), or from old rows of the same table."""
    known, ids = moves.rows >= 0, moves.parts >= 0
    table = np.where(known.reshape(-1, *(1,) * (fresh.ndim - 1)), old[np.maximum(moves.rows, 0)], fresh)
    if how == "random":
        return table
    _take_means(table, ~known, known & ids, moves.parts)
    if moves.groups is not None:
        _take_means(table, ~known, known & ids & (moves.groups >= 0), moves.groups)
    if moves.names is not None:
        _take_mapped(table, ~known, known, moves.names)
    return table


def _take_means(table: np.ndarray, new: np.ndarray, examples: np.ndarray, groups: np.ndarray) -> None:
    """Put in the place of each new row the mean of the example rows of its group, where there are any; bool[V] each."""
    size = int(groups.max(initial=-1)) + 1
    sums, counts = np.zeros((size, table.shape[1])), np.bincount(groups[examples], minlength=size)
    np.add.at(sums, groups[examples], table[examples])
    taken = new & (groups >= 0)
    taken[taken] = counts[groups[taken]] > 0
    table[taken] = sums[groups[taken]] / counts[groups[taken], None]


def _take_mapped(table: np.ndarray, new: np.ndarray, examples: np.ndarray, names: Names) -> None:
    """Put in the place of each new row that has a name what an affine map makes of its name vector: the one that is
    nearest to the example rows in the sum of squares, and the shortest of these."""
    named = names.name_of >= 0
    size = names.vectors.shape[1] + 1
    squares, products = np.zeros((size, size)), np.zeros((size, table.shape[1]))

    def parts(chosen: np.ndarray) -> list[np.ndarray]:
        places = np.flatnonzero(chosen & named)
        return np.split(places, range(AT_ONCE, len(places), AT_ONCE))

    def inputs(places: np.ndarray) -> np.ndarray:
        vectors = names.vectors[names.name_of[places]].astype(np.float64)
        return np.column_stack([vectors, np.ones(len(places))])

    for places in parts(examples):
        x = inputs(places)
        squares, products = squares + x.T @ x, products + x.T @ table[places]
    if squares[-1, -1]:  # the number of examples
        kernel = np.linalg.pinv(squares, rcond=1e-10, hermitian=True) @ products
        for places in parts(new):
            table[places] = inputs(places) @ kernel


def _groups_of_items(dataset: Dataset, start: StartConfig) -> np.ndarray:
    """``Moves.groups`` of items by index."""
    if ATTRIBUTES not in dataset.manifest["files"]:
        raise UserError(f"start.new_rows: category reads an attribute of items, and {dataset.path} has none; choose "
                        "mean or random")  # fmt: skip
    file = checked(dataset.path, ATTRIBUTES, dataset.manifest)
    kinds = {field.name: field.type for field in pq.read_schema(file)}
    name = _attribute(start, dataset, [name for name, kind in kinds.items() if not pa.types.is_nested(kind)])
    column = pq.read_table(file, columns=[name])[name].combine_chunks()
    codes = pc.fill_null(column.dictionary_encode().indices, -1)
    return np.asarray(codes.to_numpy(zero_copy_only=False), np.int64)


def _groups_of_fields(dataset: RowsDataset, start: StartConfig, fields: Sequence[Field]) -> np.ndarray | None:
    """``Moves.groups`` of the values of fields, stacked: of users, or of items, by a field that describes them; None
    where the fields have no such ids."""
    schema = dataset.schema
    entities = {side: name for side, name in (("user", schema.user), ("item", schema.item)) if name is not None}
    sides = {field.name: field.side for field in schema.coded
             if field.kind == "categorical" and entities.get(field.side, field.name) != field.name}  # fmt: skip
    name = _attribute(start, dataset, list(sides))
    side = sides[name]
    if entities[side] not in (field.name for field in fields):
        return None
    codes = dataset.array(f"{side}s.npy")[:, schema.side(side).columns((name,))[0]].astype(np.int64)
    parts = [codes if field.name == entities[side] else np.zeros(field.size, np.int64) for field in fields]
    groups = np.concatenate(parts)
    return np.where(groups > 0, groups, -1)


def _attribute(start: StartConfig, dataset: Dataset | RowsDataset, names: Sequence[str]) -> str:
    """``start.attribute``, which has to be one of these."""
    name = str(start.attribute)
    if name not in names:
        there = f"there are {', '.join(names)}" if names else "there are none; set start.new_rows to mean"
        raise UserError(f"start.attribute: {dataset.path} has no '{name}'{nearest(name, names)}; {there}")
    return name


def _names_of_items(dataset: Dataset) -> Names:
    """``Moves.names`` of items by index."""
    if NAMES not in dataset.manifest["files"]:
        raise UserError(f"start.new_rows: text reads the names of items, and {dataset.path} has none; choose mean or "
                        "random")  # fmt: skip
    vectors, _ = open_name_vectors(dataset.path, dataset.manifest)
    return Names(vectors, np.asarray(map_array(dataset.path, "item_names.npy", dataset.manifest)))
