"""What cleaning took from a data set, filter by filter."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxrec.errors import UserError


@dataclass
class Ledger:
    """What each filter took from the data called ``name``; becomes ``dropped`` in the manifest."""

    name: str
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def took(self, name: str, **amounts: int) -> None:
        """Record that the filter ``name`` took e.g. ``sessions=3, events=7``."""
        self.dropped[name] = {unit: int(amount) for unit, amount in amounts.items()}

    def require(self, left: int, what: str) -> None:
        """Stop where nothing is left."""
        if left:
            return
        took = "; ".join(
            f"{name} took {' and '.join(f'{amount:,} {unit}' for unit, amount in amounts.items())}"
            for name, amounts in self.dropped.items()
            if any(amounts.values())
        )
        took = took or "no filter took any"
        raise UserError(f"{self.name}: no {what} left: {took}; loosen a filter or give more data")
