"""What a training step costs, counted from shapes: what the algorithm needs, not what happens to be executed."""

from __future__ import annotations

from typing import NamedTuple

from jaxrec.config import OptimizerConfig


class Work(NamedTuple):
    """Cost of one step.

    Attributes:
        flop: floating-point operations.
        bytes: of memory that are read and written.
    """

    flop: int
    bytes: int


def row_state(optimizer: OptimizerConfig, width: int) -> int:
    """Numbers that the optimizer keeps of a table's row of ``width`` numbers."""
    return width * optimizer.moments if optimizer.tables == "same" else min(1, width)
