"""The plan of what a compiler refuses because no device could hold it: compiled at two smaller catalogues, through
which bytes are lines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax

from jaxrec.config import Config
from jaxrec.programs.plan import Place, arguments_of, compile_block, memory_of, on_a_device, told
from jaxrec.programs.text import Argument, padded
from jaxrec.programs.workload import Sizes, Workload, bytes_of, of_sizes
from jaxrec.training.block import Training

SHARE = 0.12  # of a device that the arguments of the larger one take


def too_large(work: Workload, place: Place) -> bool:
    """Whether state and constants alone are too large for a device: the TPU's compiler need not be asked."""
    return _whole(work, place) > place.target.usable


def _whole(work: Workload, place: Place) -> int:
    training = Training(work.config, work.model, work.feed, place.devices[0])
    return bytes_of(jax.tree.map(on_a_device, (training.state_like(), training.constants_like(work.constants))))


def from_smaller(config: Config, place: Place, sizes: Sizes, work: Workload) -> dict[str, Any]:
    """As ``plan.told``; ``assumed`` says at which sizes it was compiled. What arguments take is worked out from their
    layouts there, and what lies beside them is a line."""
    scaled = _scaled(config, place, sizes, work)
    works = [of_sizes(config, one, place.mesh) for one in scaled]
    with ThreadPoolExecutor(2) as threads:  # the compiler uses a core
        low, high = threads.map(compile_block, works, (place, place))
    (less, more), n = (one["items"] for one in scaled), sizes["items"]

    def at(first: int, second: int) -> int:
        return max(0, round(first + (second - first) * (n - less) / (more - less)))

    compiled = replace(
        high, arguments=_grown(high.arguments, work, place), temporaries=at(low.temporaries, high.temporaries),
        results=at(low.results, high.results), making=at(low.making, high.making),
    )  # fmt: skip
    said = (f"its compiler refuses {n:,} items: temporaries are a line through {less:,} and {more:,}; the program is "
            "that of the latter")  # fmt: skip
    told_of = told(replace(works[1], items=n, resident=work.resident), place, compiled, memory_of(compiled, work))
    return told_of | {"assumed": [*work.assumed, said], "refused": True}


def _scaled(config: Config, place: Place, sizes: Sizes, work: Workload) -> list[Sizes]:
    """Two sizes, all in the same proportion, of which the larger takes ``SHARE`` of a device."""
    share, room = 0.5, SHARE * place.target.usable
    whole = _whole(work, place) * share
    while whole > room:
        share *= min(0.9, max(room / whole, 0.25))
        whole = _whole(of_sizes(config, _times(sizes, share), place.mesh), place)
    return [_times(sizes, share / 2), _times(sizes, share)]


def _times(sizes: Sizes, share: float) -> Sizes:
    return {name: size if name == "events" else max(1, int(size * share)) for name, size in sizes.items()}


def _grown(arguments: list[Argument], work: Workload, place: Place) -> list[Argument]:
    """Arguments in the layouts of a smaller program, with the sides that they have."""
    sides = {name: leaf.shape for name, leaf in arguments_of(work, place)}
    grown = []
    for one in arguments:
        mine = sides.get(one.name)
        if mine is None or one.name.startswith(("block", "state.carry")):  # which devices share, and do not grow
            grown.append(one)
            continue
        kind, rest = one.shape.split("[", 1)
        shape = f"{kind}[{','.join(map(str, mine))}]{rest.partition(']')[2]}"
        grown.append(Argument(one.name, shape, padded(shape)))
    return grown
