"""New items as people give them: rows in Python, or a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from jaxrec.data.raw_ids import is_list
from jaxrec.errors import UserError, shown
from jaxrec.json_text import parse_json

SUCH_AS = '[{"id": 1}]'


def item_rows(items: Any, texts: Collection[str]) -> list[dict[str, Any]]:
    """Rows of new items: mappings, a table of pandas or Arrow, or a Parquet, CSV or JSON file (a list of objects).

    Args:
        texts: columns of a CSV file that hold text, as ids and categories do: 007 is not 7. The types of its other
            columns are those that their values have.
    """
    if isinstance(items, str | Path):
        return _read(Path(items), texts)
    if isinstance(items, pa.Table | pa.RecordBatch):
        items = items.to_pylist()
    elif hasattr(items, "to_dict") and hasattr(items, "columns"):  # a table of pandas
        items = items.to_dict("records")
    rows = list(items) if is_list(items) else [items]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not is_list(items):
            raise UserError(f"new item {number}: found {shown(row)}; expected a list of mappings, such as {SUCH_AS}")
    return [dict(row) for row in rows]


def _read(file: Path, texts: Collection[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; check its name")
    try:
        if file.suffix == ".json":
            rows = parse_json(file.read_text(encoding="utf-8-sig"), str(file))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UserError(f"{file}: expected a list of objects, such as {SUCH_AS}")
            return rows
        if file.suffix in (".parquet", ".csv"):
            table = pq.read_table(file) if file.suffix == ".parquet" else _read_csv(file, texts)
            if twice := {name for name in table.column_names if table.column_names.count(name) > 1}:
                raise UserError(f"{file}: column '{min(twice)}' is there twice; rename or remove one")
            found: list[dict[str, Any]] = table.to_pylist()
            return found
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    raise UserError(f"{file}: found '{file.suffix}'; end it in .parquet, .csv or .json")


def _read_csv(file: Path, texts: Collection[str]) -> pa.Table:
    """An empty cell of text is an empty text, of a number nothing."""
    types = dict.fromkeys(texts, pa.string())
    parsing = pc_csv.ParseOptions(newlines_in_values=True)
    return pc_csv.read_csv(file, parse_options=parsing, convert_options=pc_csv.ConvertOptions(column_types=types))
