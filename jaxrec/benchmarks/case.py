"""One row of the benchmark: the training loop's own compiled block on blocks of its own feed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.config import Config
from jaxrec.feeds.base import Feed
from jaxrec.models.base import Model, Work
from jaxrec.ops import parallel
from jaxrec.training.block import BlockStats, Training, TrainState
from jaxrec.training.telemetry import Waited


@dataclass(frozen=True)
class Prepared:
    """A model with its feed.

    Attributes:
        items: of the catalogue, or rows of the table.
        targets: that a step trains on, on average.
        work: of a step, on average.
        shown: further columns of the result.
        data: arrays by name that the feed was made from, for a peer; none where no peer has such a model.
    """

    config: Config
    model: Model
    feed: Feed
    constants: Any
    items: int
    targets: float
    work: Work
    shown: dict[str, Any]
    data: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Lanes, targets or rows of a step."""
        return self.config.training.batch_size

    def compiled(self, state: TrainState, constants: Any) -> jax.stages.Compiled:
        """The block that training runs on the feed's devices; of state and constants only shapes and places count."""
        return self.training.block.lower(state, constants, self.feed.like()).compile()

    @cached_property
    def training(self) -> Training:
        return Training(self.config, self.model, self.feed)


class Round(NamedTuple):
    """What one repetition found.

    Attributes:
        rate: steps a second.
        seconds: that it took, beside preparing what it does not time.
        waited: share of them in which the loop waited for its feed; None where blocks were cut beforehand.
    """

    rate: float
    seconds: float
    waited: float | None


class Case:
    """The compiled block with its state and an endless feed.

    Attributes:
        devices: that share a step.
        compile_seconds: of tracing and compiling, or of reading the compilation cache.
        step_memory: bytes that the block takes beside its arguments and results.
        peak_memory: bytes of one device: arguments (state, constants, block) and results, what is reused counted once,
            and ``step_memory``. XLA's own ``peak_memory_in_bytes`` leaves the last out on CPUs.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self._mesh = prepared, prepared.feed.mesh
        self.devices = 1 if self._mesh is None else self._mesh.size
        self._state = prepared.training.begin()
        self._constants = parallel.replicate(prepared.constants, self._mesh)
        self._blocks, self._epochs = self._endless(), itertools.count()
        begin = time.perf_counter()
        self._compiled = prepared.compiled(self._state, self._constants)
        self.compile_seconds = time.perf_counter() - begin
        memory = self._compiled.memory_analysis()
        self.step_memory = int(memory.temp_size_in_bytes) if memory is not None else 0
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes if memory else 0
        self.peak_memory = int(held) + self.step_memory

    def cut(self, steps: int) -> Round:
        """Time whole blocks, cut beforehand: at least ``steps`` steps; an epoch's last block, which has some padding,
        is left out."""
        shape = self.prepared.feed.shape
        blocks = -(-steps // shape.steps)
        ready = list(itertools.islice(self._blocks, blocks))
        jax.block_until_ready((ready, self._state))
        begin = time.perf_counter()
        for block in ready:
            stats = self._run(block)
        jax.block_until_ready((self._state, stats))
        seconds = time.perf_counter() - begin
        return Round(blocks * shape.steps / seconds, seconds, None)

    def streamed(self, steps: int) -> Round:
        """Time whole epochs with their feeding, at least ``steps`` steps, as training works: while the device is at a
        block, the host reads the statistics of the one before and asks the feed for the next."""
        feed = self.prepared.feed
        epochs, waited, before = -(-steps // feed.shape.used), 0.0, None
        jax.block_until_ready(self._state)
        begin = time.perf_counter()
        for epoch in itertools.islice(self._epochs, epochs):
            blocks = Waited(feed.epoch(epoch))
            for block in blocks:
                stats = self._run(block)
                jax.block_until_ready(before)
                before = stats
            waited += blocks.seconds
        jax.block_until_ready((self._state, before))
        seconds = time.perf_counter() - begin
        return Round(epochs * feed.shape.used / seconds, seconds, waited / seconds)

    def _run(self, block: Any) -> BlockStats:
        self._state, stats = self._compiled(self._state, self._constants, block)
        parallel.take_turns(stats, self._mesh)
        return stats

    def _endless(self) -> Iterator[Any]:
        full = max(1, self.prepared.feed.shape.blocks - 1)
        for epoch in itertools.count():
            yield from itertools.islice(self.prepared.feed.epoch(epoch), full)
