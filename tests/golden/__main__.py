"""``python tests/golden``: record.py under the settings of pytest."""

import sys
from pathlib import Path


def main() -> None:
    """The same paths as under pytest and, before JAX is imported, the same flags."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import conftest  # noqa: F401

    from golden import record

    record.main()


main()
