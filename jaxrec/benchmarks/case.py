"""One row of the benchmark: the training loop's own compiled block on blocks of its own feed, cut beforehand."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxrec.config import Config
from jaxrec.models import Feed, Model
from jaxrec.optimizers import make_optimizer, make_schedule
from jaxrec.training import make_train_block, new_state


@dataclass(frozen=True)
class Prepared:
    """A model with its feed, as a kind of model prepares it.

    Attributes:
        items: of the catalogue, or rows of the table.
        targets: that a step trains on, on average.
        flop, size: floating-point operations and bytes of a step, counted from the shapes: what the algorithm needs,
            not what happens to be executed.
        shown: further columns of the result.
    """

    config: Config
    model: Model
    feed: Feed
    constants: Any
    items: int
    targets: float
    flop: int
    size: int
    shown: dict[str, Any]


class Case:
    """The compiled block with its state and an endless feed."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, config = prepared, prepared.config
        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 1))
        self._state = new_state(config, prepared.model, optimizer)
        self._blocks = self._endless()
        begin = time.perf_counter()
        train_block = make_train_block(prepared.model, optimizer, None)
        self._compiled = train_block.lower(self._state, prepared.constants, prepared.feed.like()).compile()
        self.compile_seconds = time.perf_counter() - begin
        memory = self._compiled.memory_analysis()
        self.step_memory = int(memory.temp_size_in_bytes) if memory is not None else 0

    def steps_per_second(self, steps: int) -> float:
        """Time whole blocks, at least ``steps`` steps; an epoch's last block, which has some padding, is left out."""
        shape = self.prepared.feed.shape
        blocks = -(-steps // shape.steps)
        ready = list(itertools.islice(self._blocks, blocks))
        jax.block_until_ready((ready, self._state))
        begin = time.perf_counter()
        for block in ready:
            self._state, stats = self._compiled(self._state, self.prepared.constants, block)
        jax.block_until_ready((self._state, stats))
        return blocks * shape.steps / (time.perf_counter() - begin)

    def _endless(self) -> Iterator[Any]:
        full = max(1, self.prepared.feed.shape.blocks - 1)
        for epoch in itertools.count():
            yield from itertools.islice(self.prepared.feed.epoch(epoch), full)


def positions(feed: Feed) -> int:
    """How many positions a step of a feed holds, padding and all."""
    return int(np.prod(jax.tree.leaves(feed.like())[0].shape[1:]))
