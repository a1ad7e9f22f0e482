"""The plan of what a compiler refuses because no device could hold it: compiled at two smaller catalogues, through
which bytes are lines."""

from __future__ import annotations

from typing import Any

from jaxrec.config import Config
from jaxrec.programs.plan import Place, compile_block, making_of, memory_of, told
from jaxrec.programs.workload import Sizes, Workload, bytes_of, of_sizes
from jaxrec.training.block import Training

SHARE = 0.12  # of a device that the arguments of the larger one take


def too_large(work: Workload, place: Place) -> bool:
    """Whether state and constants alone are too large for a device: the TPU's compiler need not be asked."""
    return _whole(work, place) > place.target.usable


def _whole(work: Workload, place: Place) -> int:
    training = Training(work.config, work.model, work.feed, place.devices[0])
    return bytes_of((training.state_like(), work.constants))


def from_smaller(config: Config, place: Place, sizes: Sizes, work: Workload) -> dict[str, Any]:
    """As ``plan.told``; ``assumed`` says at which sizes it was compiled."""
    share = min(0.5, SHARE * place.target.usable / _whole(work, place))
    scaled = [{name: max(1, int(size * part)) if name != "events" else size for name, size in sizes.items()}
              for part in (share / 2, share)]  # fmt: skip
    works = [of_sizes(config, one, place.mesh) for one in scaled]
    found = [compile_block(one, place) for one in works]
    low, high = (memory_of(one, other) for one, other in zip(found, works, strict=True))
    (less, more), n = (one["items"] for one in scaled), sizes["items"]

    def at(first: int, second: int) -> int:
        return max(0, round(first + (second - first) * (n - less) / (more - less)))

    parts = {name: at(low[name], high[name]) for name in high}
    making = at(*(making_of(one, of) for one, of in zip(found, (low, high), strict=True)))
    result = told(works[1], place, found[1], parts, making)
    said = (f"its compiler refuses {n:,} items: bytes are lines through {less:,} and {more:,}; the program is that of "
            "the latter")  # fmt: skip
    return result | {"items": n, "assumed": [*work.assumed, said], "refused": True}
