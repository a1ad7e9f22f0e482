"""Rows with raw values to numbers: indices of vocabularies, and standardised numbers.

What depends on all rows (vocabularies, the most values of a bag, means and deviations) is decided here, from counts and
sums of the *pieces* that hold the rows: one in memory, or shards (``row_shards``). So both write the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.clean.protocol import Coded, RawField, RawRows
from jaxrec.data.clean.sums import partial_sums, whole_sum
from jaxrec.data.dataset import Field
from jaxrec.data.reading.columns import id_notes

Found = tuple[dict[str, Any], dict[str, pa.Table]]
"""What a step finds in a piece: JSON values, and tables by name."""


@dataclass(frozen=True)
class Plan:
    """What has been decided for all rows."""

    fields: list[Field]
    codes: list[pa.Table | None]  # of each coded field ``value``, as the rows have it, and its ``index``
    whole: set[str] = dataclasses.field(default_factory=set)  # fields of parts whose text is whole numbers
    divisor: int = 1  # of times


class Pieces(Protocol):
    """Where the rows are."""

    def run(self, name: str, step: Callable[..., Found], arguments: Sequence[Sequence[Any]] | None = None) -> list[Any]:
        """Run a step on each piece, with ``arguments`` of its own; the JSON values that it finds."""

    def counts(self, place: int) -> pa.Table:
        """The table ``counts<place>`` of the step ``count_values``: value, count; each value once."""

    def encode(self, plan: Plan) -> Iterable[tuple[np.ndarray, ...]]:
        """``block_of`` of each piece in turn."""

    def shown(self, plan: Plan, side: str, rows: np.ndarray) -> pa.Table | None:
        """The raw values of a side's fields at int64[m] rows, in any order, by the fields' names; None where it has no
        more than the raw id."""


class InMemory:
    """All rows as one piece; those that are streamed are encoded one table after the other."""

    def __init__(self, raw: RawRows) -> None:
        self.raw, self.tables = raw, dict[str, pa.Table]()

    def run(self, name: str, step: Callable[..., Found], arguments: Sequence[Sequence[Any]] | None = None) -> list[Any]:
        numbers, tables = step(self.raw, *(arguments[0] if arguments else ()))
        self.tables |= tables
        return [numbers]

    def counts(self, place: int) -> pa.Table:
        return self.tables.pop(f"counts{place}")

    def encode(self, plan: Plan) -> Iterable[tuple[np.ndarray, ...]]:
        if (streamed := self.raw.streamed) is None:
            return [block_of(self.raw, plan)]
        fields = bare_fields(streamed.fields)
        return (block_of(rows_of(table, fields), plan) for table in streamed.tables())

    def shown(self, plan: Plan, side: str, rows: np.ndarray) -> pa.Table | None:
        raise AssertionError("rows in memory bring what is shown of them")


def encode_rows(raw: RawRows, pieces: Pieces) -> RawRows:
    """``raw`` with its rows as ``coded``; its own are read by ``InMemory`` alone."""
    if (given := raw.streamed) is not None:
        plan = Plan(given.fields, [_codes(given.vocabularies.get(one.name)) for one in given.fields])
        return replace(raw, coded=Coded(given.fields, given.vocabularies, given.rows, pieces.encode(plan)))
    found = pieces.run("count", count_values)
    moments = iter(_moments(found, pieces))
    plan, vocabularies, notes = Plan([], []), dict[str, pa.Table](), list(raw.notes)
    for place, field in enumerate(raw.fields):
        if field.kind == "numerical":
            plan.fields.append(Field(field.name, field.kind, field.side, 1, 0, *next(moments), field.logarithm))
            plan.codes.append(None)
            continue
        held, count = pieces.counts(place).combine_chunks().columns
        values = held = held.combine_chunks()
        if raw.part and (numbers := whole_numbers(undotted(field, held))) is not None:
            dotted = pc.not_equal(undotted(field, held), held).to_numpy(zero_copy_only=False)
            notes += id_notes(f"column '{field.name}'", 0, int(count.to_numpy()[dotted].sum()))
            values = numbers
            plan.whole.add(field.name)
        vocabularies[field.name] = vocabulary = _vocabulary(values, count.to_numpy(), raw.min_count)
        width = max(piece["fields"][place]["width"] for piece in found)
        plan.fields.append(Field(field.name, field.kind, field.side, len(vocabulary) + 1, width))
        plan.codes.append(_codes(vocabulary, values, held))
    if raw.part and raw.time_unit == "ms" and not any(piece["ms"] for piece in found):
        plan, raw = replace(plan, divisor=1000), replace(raw, time_unit="s")
    rows, shown = sum(piece["rows"] for piece in found), partial(pieces.shown, plan) if raw.part else None
    return replace(raw, coded=Coded(plan.fields, vocabularies, rows, pieces.encode(plan), shown), notes=notes)


def _moments(found: Sequence[dict[str, Any]], pieces: Pieces) -> list[tuple[float, float]]:
    """The mean and the deviation of each numerical field, with the bits of ``numpy.mean`` and ``numpy.std``."""
    numbers = [[field for field in piece["fields"] if "known" in field] for piece in found]  # [pieces, fields]
    if not numbers[0]:
        return []
    known = np.array([[field["known"] for field in piece] for piece in numbers])
    firsts, totals = (np.cumsum(known, axis=0) - known).tolist(), known.sum(axis=0).tolist()

    def means(name: str, *centres: list[float]) -> list[float]:
        sums = pieces.run(name, sum_numbers, [(one, totals, *centres) for one in firsts])
        return [whole_sum([piece["sums"][place] for piece in sums], total) / max(1, total)
                for place, total in enumerate(totals)]  # fmt: skip

    mean = means("sum")
    deviation = np.sqrt(means("sum_squares", mean)).tolist()
    moments = []
    for place, one in enumerate(zip(mean, deviation, strict=True)):
        ends = [piece[place] for piece in numbers if piece[place]["known"]]
        low, high = (pick((one[end] for one in ends), default=0.0) for pick, end in ((min, "low"), (max, "high")))
        if low == high or one[1] == 0:  # the deviation of equal numbers may be a rounding error
            one = ends[0]["first"] if ends else 0.0, 1.0
        moments.append(one)
    return moments


def _vocabulary(values: pa.Array, counts: np.ndarray, least: int) -> pa.Table:
    """The values in their order, and only those that are frequent enough; ``counts`` of equal ones are added up."""
    codes = values.dictionary_encode()
    values, seen = codes.dictionary, np.bincount(codes.indices, weights=counts, minlength=len(codes.dictionary))
    order = pc.array_sort_indices(values).to_numpy() if len(values) else np.zeros(0, np.int64)
    order = order[seen[order] >= least]
    return pa.table({"value": values.take(pa.array(order)), "count": pa.array(seen[order].astype(np.int64))})


def _codes(vocabulary: pa.Table | None, values: pa.Array | None = None, held: pa.Array | None = None) -> Any:
    """An entry of ``Plan.codes``; where the rows hold texts in the place of ``values``, these are ``held``."""
    if vocabulary is None:
        return None
    kept = vocabulary["value"].combine_chunks()
    index = pc.index_in(kept if values is None else values, value_set=kept)
    codes = pa.table({"value": kept if held is None else held, "index": pc.add(index, pa.scalar(1, pa.int32()))})
    return codes.filter(index.is_valid())


def whole_numbers(texts: pa.Array) -> pa.Array | None:
    """Texts as int64 if that loses nothing: no leading zero, sign or space in any of them."""
    try:
        integers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return integers if integers.cast(texts.type).equals(texts) else None


def undotted(field: RawField, texts: pa.Array) -> pa.Array:
    """Values of a field that may be whole numbers: of one that is no bag without the .0 behind them."""
    return texts if field.kind == "bag" else pc.replace_substring_regex(texts, r"\.0+$", "")


def bare_fields(fields: Sequence[RawField | Field]) -> list[RawField]:
    """Fields without their values."""
    return [RawField(field.name, field.kind, field.side, pa.nulls(0), logarithm=field.logarithm) for field in fields]


def rows_of(table: pa.Table, fields: Sequence[RawField]) -> RawRows:
    """The rows of a table with the columns rating, time and, for ``fields`` of any place, ``field<place>``."""
    columns = [table[name] for name in table.column_names if name.startswith("field")]
    found = []
    for field, column in zip(fields, columns, strict=True):
        if pa.types.is_string(column.type):  # more text than one array can hold may have few values
            codes = column.dictionary_encode("encode").combine_chunks()
            found.append(replace(field, values=codes.dictionary, by=codes.indices.to_numpy()))
        else:
            found.append(replace(field, values=column.combine_chunks()))
    return RawRows(found, table["rating"].to_numpy(), table["time"].to_numpy(), 0.0, 0.0, 0.0)


# ---- steps -----------------------------------------------------------------------------------------------------------


def count_values(rows: RawRows) -> Found:
    """How many rows hold each value, the most values of a bag, and the ends of numbers."""
    fields, tables = list[dict[str, Any]](), dict[str, pa.Table]()
    for place, field in enumerate(rows.fields):
        if field.kind == "numerical":
            some = _known(_numbers(field))
            ends = {"low": some.min(), "high": some.max(), "first": some[0]} if len(some) else {}
            fields.append({"known": len(some), **{name: float(end) for name, end in ends.items()}})
            continue
        tables[f"counts{place}"] = _counted(field)
        width = int(_lengths(field).max(initial=1)) if field.kind == "bag" else 1
        fields.append({"width": width})
    return {"rows": len(rows.ratings), "fields": fields, "ms": bool((rows.times % 1000).any())}, tables


def _counted(field: RawField) -> pa.Table:
    entities = len(field.values)
    weight = np.ones(entities, np.int64) if field.by is None else np.bincount(field.by, minlength=entities)
    codes = _flat(field).dictionary_encode()
    held = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if field.kind == "bag":
        # A value that one bag holds twice counts once.
        size = len(codes.dictionary) + 1
        pairs = np.unique(np.repeat(np.arange(entities), _lengths(field)) * size + held + 1)
        held, weight = pairs % size - 1, weight[pairs // size]
    counts = np.bincount(held[held >= 0], weights=weight[held >= 0], minlength=len(codes.dictionary)).astype(np.int64)
    return pa.table({"value": codes.dictionary, "count": counts})


def sum_numbers(
    rows: RawRows, firsts: Sequence[int], totals: Sequence[int], centres: Sequence[float] | None = None
) -> Found:
    """The sum of each numerical field, or that of the squares of what lies between numbers and ``centres``; where the
    known numbers begin among those of all rows, and how many these are."""
    sums = []
    numerical = (field for field in rows.fields if field.kind == "numerical")
    for place, (field, first, total) in enumerate(zip(numerical, firsts, totals, strict=True)):
        some = _known(_numbers(field))
        if centres is not None:
            some = np.square(some - centres[place])
        sums.append(partial_sums(some, first, total))
    return {"sums": sums}, {}


def block_of(rows: RawRows, plan: Plan) -> tuple[np.ndarray, ...]:
    """The columns int32[n, C], numbers float32[n, M], ratings float32[n] and times int64[n] of rows."""
    n = len(rows.ratings)
    columns, numbers = [np.zeros((n, 0), np.int32)], [np.zeros((n, 0), np.float32)]
    for raw, field, codes in zip(rows.fields, plan.fields, plan.codes, strict=True):
        if codes is not None:
            columns.append(_indices(raw, codes, field.width))
            continue
        values = _numbers(raw)
        known, standard = np.isfinite(values), np.zeros((n, 1), np.float32)  # 0 where they are missing
        standard[known, 0] = (values[known] - field.mean) / field.deviation
        numbers.append(standard)
    times = np.asarray(rows.times, np.int64)
    times = times // plan.divisor if plan.divisor > 1 else times
    return np.concatenate(columns, 1), np.concatenate(numbers, 1), np.asarray(rows.ratings, np.float32), times


def _indices(field: RawField, codes: pa.Table, width: int) -> np.ndarray:
    """int32[n, width]; -1 behind a bag's last value, 0 for what is not among the ``codes``, and for an unknown bag."""
    of_code = np.append(codes["index"].to_numpy(), 0).astype(np.int32)
    found = pc.index_in(_flat(field), value_set=codes["value"].combine_chunks())
    index = of_code[found.fill_null(-1).to_numpy(zero_copy_only=False)]
    table = index[:, None]
    if field.kind == "bag":
        table = np.full((len(field.values), width), -1, np.int32)
        table[np.arange(width) < _lengths(field)[:, None]] = index
        table[field.values.is_null().to_numpy(zero_copy_only=False), 0] = 0
    return table if field.by is None else table[field.by]


def _flat(field: RawField) -> pa.Array:
    return field.values.flatten() if field.kind == "bag" else field.values


def _lengths(field: RawField) -> np.ndarray:
    """int64[entities]: how many values each bag has."""
    return field.values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(field: RawField) -> np.ndarray:
    """float64[n] by row, NaN where they are missing."""
    values = field.values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # an id may exceed 2^53
    values = values if field.by is None else values[field.by]
    return np.sign(values) * np.log1p(np.abs(values)) if field.logarithm else values


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
