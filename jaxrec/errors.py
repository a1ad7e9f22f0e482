"""The one exception that a user may see: a single line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: the file, row or field; what was found; what is allowed; what to do.
    Commands print it as ``jaxrec: error: …`` and exit with status 2 (see ``jaxrec.cli``).
    """


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``allowed`` is close to ``name``, otherwise an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
