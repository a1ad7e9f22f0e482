"""Load for a server (python -m jaxrec.serve): clicks of sessions, or batches of queries, at a fixed rate.

Requests are sent when they are due, whether or not earlier ones have been answered, and times count from then on: a
server that falls behind is not asked less (Poisson arrivals; a connection each while it waits).

  python scripts/load.py --run checkpoints/gru4rec --data data/mine --rate 300 --seconds 60
  python scripts/load.py --run checkpoints/gru4rec --data data/mine --rate 0 --batch 256      # as fast as it goes
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.command import Parser, as_json, command, ranged
from jaxrec.data.dataset import Dataset, open_dataset
from jaxrec.errors import UserError
from jaxrec.run import open_run

PATIENCE = 30.0  # seconds for an answer


class Connection(asyncio.Protocol):
    """One request at a time over a connection that is kept."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._data, self._length, self._status = b"", -1, 0
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes) -> asyncio.Future[int]:
        """The status of the answer; 0 where the connection broke."""
        self.answer = asyncio.get_running_loop().create_future()
        self._data, self._length = b"", -1
        self._transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._length < 0 and (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._status, self._length = int(head[9:12]), end + 4 + int(length or 0)
        if 0 <= self._length <= len(self._data) and self.answer is not None and not self.answer.done():
            self.answer.set_result(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(0)

    def close(self) -> None:
        self._transport.abort()


class Load:
    """Sends requests and notes their times (seconds) and statuses."""

    def __init__(self, host: str, port: int) -> None:
        self._place, self._free = (host, port), deque[Connection]()
        self.times, self.statuses = list[tuple[int, float]](), Counter[int]()

    async def send(self, request: bytes, due: float) -> None:
        """Send one request; its time begins when it was due."""
        try:
            if self._free:
                connection = self._free.popleft()
            else:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._place)
            status = await asyncio.wait_for(connection.send(request), PATIENCE)
        except (OSError, TimeoutError):
            status = 0
        else:
            if status:
                self._free.append(connection)
        self.statuses[status] += 1
        self.times.append((status, time.perf_counter() - due))

    async def run(self, requests: Iterator[bytes], rate: float, seconds: float, connections: int) -> float:
        """At ``rate`` a second, or without one on so many connections, each as soon as it is free; seconds taken."""
        begin = time.perf_counter()
        if rate:
            tasks, draw, due = set[Any](), np.random.default_rng(0), begin
            while due < begin + seconds:
                if (ahead := due - time.perf_counter()) > 0:
                    await asyncio.sleep(ahead)
                task = asyncio.ensure_future(self.send(next(requests), due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += draw.exponential(1 / rate)
            await asyncio.gather(*tasks)
        else:

            async def one() -> None:
                while time.perf_counter() < begin + seconds:
                    await self.send(next(requests), time.perf_counter())

            await asyncio.gather(*(one() for _ in range(connections)))
        return time.perf_counter() - begin


def sessions_of(options: Namespace) -> list[list[Any]]:
    """Test sessions of the data, in raw ids."""
    dataset, vocabulary = open_dataset(options.data), open_run(options.run).vocabulary()
    if not isinstance(dataset, Dataset):
        raise UserError(f"--data {options.data}: holds rows; name a data set of sessions")
    split = dataset.split("test")
    raw = vocabulary.ids.decode(np.asarray(split.items))
    return [raw[start:end] for start, end in pairwise(np.asarray(split.offsets).tolist()) if end > start]


def request_of(method: str, path: str, body: Any) -> bytes:
    text = json.dumps(body).encode()
    head = (f"{method} {path} HTTP/1.1", "Host: load", "Content-Type: application/json", f"Content-Length: {len(text)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + text


def clicks(sessions: Sequence[Any], k: int, live: int = 500) -> Iterator[bytes]:
    """The next click of one of ``live`` sessions at random, each of which is followed by another at its end."""
    draw, number = np.random.default_rng(1), 0
    under_way: list[tuple[int, list[Any]]] = []
    while True:
        if len(under_way) < live:
            under_way.append((number, list(sessions[number % len(sessions)])))
            number += 1
        at = int(draw.integers(len(under_way)))
        name, items = under_way[at]
        yield request_of("POST", f"/sessions/load-{name}/events", {"item": items.pop(0), "k": k})
        if not items:
            under_way[at] = under_way[-1]
            under_way.pop()


def batches(sessions: Sequence[Any], k: int, size: int) -> Iterator[bytes]:
    """So many whole sessions in a request."""
    at = 0
    while True:
        queries = [{"items": sessions[(at + n) % len(sessions)]} for n in range(size)]
        at += size
        yield request_of("POST", "/recommend", {"queries": queries, "k": k})


def summary(load: Load, seconds: float, options: Namespace) -> dict[str, Any]:
    """What came of it: answers and refusals a second, and ms by quantile of those that were accepted."""
    accepted = np.array([one for status, one in load.times if status == 200])
    found: dict[str, Any] = {
        "rate": options.rate, "seconds": round(seconds, 1), "statuses": dict(sorted(load.statuses.items())),
        "accepted_per_s": round(len(accepted) * (options.batch or 1) / seconds, 1),
    }  # fmt: skip
    if len(accepted):
        found |= {f"p{q:g}_ms": round(1e3 * float(np.percentile(accepted, q)), 2) for q in (50, 90, 99, 99.9)}
    return found


def main(argv: Sequence[str]) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    sessions = sessions_of(options)
    make = batches(sessions, options.k, options.batch) if options.batch else clicks(sessions, options.k)
    load = Load(options.host, options.port)
    seconds = asyncio.run(load.run(make, options.rate, options.seconds, options.connections))
    print(as_json(summary(load, seconds, options)))


def _parser() -> Parser:
    parser = Parser(prog="python scripts/load.py", description=__doc__)
    add = parser.add_argument
    add("--run", type=Path, required=True, help="the run that is served")
    add("--data", type=Path, required=True, help="its data set, whose test sessions are sent")
    add("--host", default="127.0.0.1")
    add("--port", type=ranged(int, 1, 65535), default=8000)
    add("--rate", type=ranged(float, 0), default=100, help="requests a second (default: 100); 0: as fast as it goes")
    add("--seconds", type=ranged(float, 0.1), default=30)
    add("--connections", type=ranged(int, 1), default=64, help="without a rate: requests at once (default: 64)")
    add("--batch", type=ranged(int, 0, 256), default=0, help="queries in a request to /recommend (default: 0: clicks "
        "of sessions)")  # fmt: skip
    add("--k", type=ranged(int, 1), default=20)
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
