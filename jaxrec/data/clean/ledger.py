"""What cleaning took from a data set, filter by filter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxrec.data.reading.duck import fetch_sums
from jaxrec.errors import UserError


@dataclass
class Ledger:
    """What each filter took from the data called ``name``; becomes ``dropped`` in the manifest."""

    name: str
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def took(self, name: str, **amounts: int) -> None:
        """Record that the filter ``name`` took e.g. ``sessions=3, events=7``."""
        self.dropped[name] = {unit: int(amount) for unit, amount in amounts.items()}

    def drop(
        self,
        connection: Any,
        table: str,
        condition: str,
        name: str,
        unit: str = "sessions",
        need: str | None = "events",
    ) -> tuple[int, int]:
        """Delete what an SQL condition names from a table with a row a ``unit`` and a column ``events``; records it.

        Args:
            need: what has to be left; None: nothing has to.

        Returns:
            How many rows and events are left.
        """
        rows, events = fetch_sums(connection, table)
        connection.execute(f"DELETE FROM {table} WHERE {condition}")
        left = fetch_sums(connection, table)
        self.took(name, **{unit: rows - left[0], "events": events - left[1]})
        if need is not None:
            self.require(left[1], need)
        return left

    def require(self, left: int, what: str) -> None:
        """Stop where nothing is left."""
        if left:
            return
        took = [f"{name} took {' and '.join(f'{amount:,} {unit}' for unit, amount in amounts.items())}"
                for name, amounts in self.dropped.items() if any(amounts.values())]  # fmt: skip
        raise UserError(f"{self.name}: no {what} left: {'; '.join(took) or 'no filter took any'}; loosen a filter or "
                        "give more data")  # fmt: skip
