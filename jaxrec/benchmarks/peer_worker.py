"""The process of a peer: a training loop that is not ours, run so many steps at a time as a line on stdin says.

Torch and JAX both want all threads and the whole device, so that a peer has a process of its own, started by
jaxrec/benchmarks/peers.py with the peer's interpreter. This file therefore imports nothing of jaxrec but those of the
peers, and they nothing. Nothing of a peer is copied: its own loop runs, on batches that ``Pace`` hands to it.

    stdin    the number of steps of the next round, a line each; its end ends the process
    stdout   one line of JSON for each: {"device", "torch", "version"} when ready, then {"steps", "targets", "seconds"};
             {"error"} where a library is missing. What the peer prints goes to stderr
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

Batch = TypeVar("Batch")


class Pace:
    """Hands batches to a loop, as many as stdin asks for, and answers with how long it took over them.

    The clock runs from the moment at which the loop is given the first batch of a round until it comes for another, so
    that it holds what the loop does between batches, and the making of as many batches as the round has.

    Args:
        say: writes an answer.
        ready: the first answer.
        finish: returns when the device has done all that it was told.
        before: called with the number of steps before the clock of a round starts.
    """

    def __init__(
        self,
        say: Callable[..., None],
        ready: dict[str, Any],
        finish: Callable[[], object],
        before: Callable[[int], object],
    ) -> None:
        self._say, self._ready, self._finish, self._before = say, ready, finish, before
        self._asked = self._left = self._targets = 0
        self._begin = 0.0

    def __call__(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[Batch]:
        """From batches, each with the number of its targets; rounds go on where a call follows another."""
        for batch, targets in batches:
            if not self._left:
                self._next_round()
            self._left -= 1
            self._targets += targets
            yield batch

    def _next_round(self) -> None:
        self._finish()
        seconds = time.perf_counter() - self._begin
        if self._asked:
            self._say(steps=self._asked, targets=self._targets, seconds=seconds)
        else:
            self._say(**self._ready)
        line = sys.stdin.readline()
        if not line:  # the parent has had enough, or is no more
            raise SystemExit(0)
        self._asked = self._left = int(line)
        self._targets = 0
        self._before(self._asked)
        self._finish()
        self._begin = time.perf_counter()


def main(spec_file: str) -> int:
    """Run the peer that a JSON file describes (see ``peers.describe``) until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too: end without a word
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    with open(spec_file, encoding="utf-8") as stream:
        spec = json.load(stream)
    try:
        import torch

        torch.set_num_threads(spec["threads"])
        torch.manual_seed(0)
        if spec["peer"] == "recbole":
            from jaxrec.benchmarks.peer_recbole import run
        else:
            from jaxrec.benchmarks.peer_gru4rec import run
        run(spec, partial(Pace, say))
    except ImportError as error:
        say(error=" ".join(str(error).split()))
        return 1
    except BrokenPipeError:  # whoever started this has gone
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
