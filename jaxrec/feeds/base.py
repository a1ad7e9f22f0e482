"""What all feeds share: how a split is to be fed, how an epoch is cut, and a thread that prepares blocks ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh


@dataclass(frozen=True)
class Plan:
    """How a split is to be fed, whatever the model.

    Attributes:
        batch: lanes, or targets a step.
        steps_per_block: at most so many steps a block; fewer, so that an epoch has little padding.
        order: ``random`` or ``time``.
        seed: of the order.
        device_bytes: the split lives on the device if events and one epoch's order take no more than this; otherwise a
            thread prepares the next block on the host while the device works.
        training: whether it is fed to train: sessions are then weighted and cut as the configuration says.
        passes: of rows: times that an epoch goes through the split.
        mesh: devices that share each step; None: one device.
    """

    batch: int
    steps_per_block: int
    order: str
    seed: int
    device_bytes: int
    training: bool = False
    passes: int = 1
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Shape:
    """How an epoch is cut: ``blocks`` blocks of ``steps`` steps of ``lanes`` lanes; ``used`` steps hold pairs."""

    lanes: int
    steps: int
    blocks: int
    used: int


def ahead(blocks: Iterator[Any]) -> Iterator[Any]:
    """The same blocks, one of them prepared ahead by a thread."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(value: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(value, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for block in blocks:
                put(block)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again where the blocks are used
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (block := ready.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
    finally:
        stop.set()
        thread.join()
