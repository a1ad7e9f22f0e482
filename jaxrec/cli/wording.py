"""How messages are put into words. Only the standard library is imported here: ``startup`` needs it before all else."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a row, ``last`` before the last one.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")
    ('a', 'a and b', 'a, b or c')
    """
    return f" {last} ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
