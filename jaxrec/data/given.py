"""What users give a run: numbers and bags of a profile, and files of new items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from jaxrec.data.field_codes import finite_number
from jaxrec.data.rows import Field
from jaxrec.errors import UserError
from jaxrec.json_text import parse_json

FARTHEST = 1e4  # deviations of a number from the mean: beyond it float32 says nothing any more


def tower_number(field: Field, value: Any) -> np.ndarray:
    """float32[]: the number that the tower reads."""
    number = field.standardised(finite_number(field.name, value))
    if isinstance(value, bool) or abs(number) > FARTHEST:
        raise UserError(f"field '{field.name}': found {value}, expected a number such as those of the data (mean "
                        f"{field.raw(0.0):.4g}, one deviation more {field.raw(1.0):.4g})")  # fmt: skip
    return np.array(number, np.float32)


def read_items(file: Path, identity: str) -> list[dict[str, Any]]:
    """Rows of a Parquet, CSV or JSON file (a list of objects); ids of CSV are text, as 007 is not 7.

    Raises:
        UserError: it cannot be read, or is of another kind.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; check its name")
    try:
        if file.suffix == ".json":
            rows = parse_json(file.read_text(encoding="utf-8"), str(file))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UserError(f'{file}: expected a list of objects, such as [{{"id": 1}}]')
            return rows
        if file.suffix in (".parquet", ".csv"):
            table = pq.read_table(file) if file.suffix == ".parquet" else _read_csv(file, identity)
            found: list[dict[str, Any]] = table.to_pylist()
            return found
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    raise UserError(f"{file}: found '{file.suffix}'; end it in .parquet, .csv or .json")


def _read_csv(file: Path, identity: str) -> pa.Table:
    return pc_csv.read_csv(file, convert_options=pc_csv.ConvertOptions(column_types={identity: pa.string()}))
