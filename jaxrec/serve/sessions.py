"""The sessions that a server follows: the least recently used go first, and each after a time without a click."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrec.cli.text import parse_json
from jaxrec.errors import UserError
from jaxrec.run import written

CLICKS = 1_000  # that are kept of a session


@dataclass
class Session:
    """What has happened in one session; the model's state is that of one version of the run."""

    clicks: list[dict[str, Any]] = field(default_factory=list)  # the latest, as they came: item, time, event, …
    user: Any = None
    profile: dict[str, Any] = field(default_factory=dict)
    last: float = 0.0  # seconds since 1970
    version: int = -1  # of the run that ``places`` and ``state`` are of
    places: list[int] = field(default_factory=list)  # the items clicked, of those the run knows
    state: Any = None


class Sessions:
    """Sessions by their ids, at most ``most``, each until it is idle for ``ttl`` seconds. Used by one thread."""

    def __init__(self, most: int, ttl: float) -> None:
        self._most, self._ttl, self._by_id = most, ttl, OrderedDict[str, Session]()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[tuple[str, Session]]:
        return iter(self._by_id.items())

    def touch(self, name: str) -> Session:
        """The session of an id, which becomes the most recently used one; a new one where there is none."""
        now = time.time()
        self._expire(now)
        session = self._by_id.setdefault(name, Session())
        self._by_id.move_to_end(name)
        session.last = now
        while len(self._by_id) > self._most:
            self._by_id.popitem(last=False)
            self.evicted += 1
        return session

    def end(self, name: str) -> bool:
        """Forget a session; whether there was one."""
        self._expire(time.time())
        return self._by_id.pop(name, None) is not None

    def _expire(self, now: float) -> None:
        while self._by_id and now - next(iter(self._by_id.values())).last > self._ttl:
            self._by_id.popitem(last=False)
            self.evicted += 1

    # ---- snapshots ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, list[dict[str, Any]], Any, dict[str, Any], float]]:
        """All that a snapshot keeps; another thread may write it."""
        return [(name, list(one.clicks), one.user, one.profile, one.last) for name, one in self]

    def restore(self, file: Path) -> None:
        """Sessions of a snapshot, without their states, which are worked out again from their clicks."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); name another --snapshot, or delete it") from None
        for number, line in enumerate(lines, 1):
            place = f"{file}: line {number:,}"
            row = parse_json(line, place, "delete the line, or the file")
            try:
                name, clicks = str(row["id"]), [dict(one) for one in row["clicks"]]
                session = Session(clicks[-CLICKS:], row["user"], dict(row["profile"]), float(row["last"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{place}: no session of a snapshot ({error!r}); delete the line") from None
            self._by_id[name] = session
        self._by_id = OrderedDict(sorted(self._by_id.items(), key=lambda entry: entry[1].last))


def write_snapshot(file: Path, rows: list[tuple[str, list[dict[str, Any]], Any, dict[str, Any], float]]) -> None:
    """A line of JSON for each session; a process killed meanwhile leaves the file of before."""
    with written(file) as part, open(part, "w", encoding="utf-8") as stream:
        for name, clicks, user, profile, last in rows:
            row = {"id": name, "clicks": clicks, "user": user, "profile": profile, "last": last}
            stream.write(json.dumps(row) + "\n")
