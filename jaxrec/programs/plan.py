"""What a target would run of a workload, compiled and read: the memory of one device by part, what a step executes, and
a bound on its time. Nothing of it is measured, and nothing says how fast a device is."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxrec.config import Config
from jaxrec.ops import parallel
from jaxrec.programs import private
from jaxrec.programs.products import flop
from jaxrec.programs.targets import Target
from jaxrec.programs.text import Argument, Program
from jaxrec.programs.text import bytes_of as text_bytes
from jaxrec.programs.workload import Workload, bytes_of
from jaxrec.training.block import Training
from jaxrec.training.state import init_state

PARTS = {
    "state.params": "parameters", "state.tables": "tables", "state.optimizer": "optimizer",
    "state.table_optimizer": "optimizer", "state.average": "averages", "state.carry": "carried", "state": "carried",
    "constants": "constants", "block": "block",
}  # fmt: skip
"""Of what arguments are called to the parts of memory."""
IN_FLIGHT = 3  # blocks: one that the device works on, one that is ready, one in the making (``feeds.base.ahead``)
WASTE, LARGE = 1.25, 2**26  # arrays of so many bytes that are padded to so many times their size are told of
SHOWN = 5  # of the largest arrays
LANES = 128  # numbers of a TPU's row of a tile


@dataclass(frozen=True)
class Place:
    """The devices of a target that a run uses."""

    target: Target
    devices: list[Any]
    mesh: Mesh | None

    @classmethod
    def of(cls, target: Target, devices: list[Any], config: Config) -> Place:
        """Those of the target's devices that share a step."""
        return cls(target, devices, parallel.mesh_over(devices, shape_of(target, config)))

    def placed(self, tree: Any) -> Any:
        """Shapes of arrays that all devices have whole; those that lie somewhere already stay there."""
        whole: Any = SingleDeviceSharding(self.devices[0])
        if self.mesh is not None:
            whole = NamedSharding(self.mesh, PartitionSpec())

        def one(leaf: Any) -> Any:
            there = getattr(leaf, "sharding", None)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole if there is None else there)

        return jax.tree.map(one, tree)


def shape_of(target: Target, config: Config) -> tuple[int, int]:
    """Sides of the mesh of a target's devices that share a step, as the configuration says (null: all)."""
    settings, there = config.mesh, f"{target.name} has {target.devices}"
    return parallel.mesh_shape(target.devices, settings.data, config.training.batch_size, settings.model, there)


@dataclass(frozen=True)
class Compiled:
    """A block's program for a target. Bytes are those of one device."""

    program: Program
    arguments: list[Argument]
    flop: int  # of a step, all devices together
    temporaries: int
    results: int  # beside the state, which takes the place of its arguments
    whole_arguments: int  # as the compiler says; with what it pads
    making: int  # to make the state: its arrays, and what that takes beside them
    seconds: float  # of compiling the block, tracing included
    said: str  # of how it was compiled


def compile_block(work: Workload, place: Place) -> Compiled:
    """Compiled as the training loop compiles it, of shapes; the compiler may refuse what is too large for a device."""
    training = Training(work.config, work.model, work.feed, place.devices[0])
    state = training.state_like()
    begin = time.perf_counter()
    traced = training.block.trace(state, training.constants_like(work.constants), place.placed(work.feed.like()))
    compiled, said = private.compiled(traced.lower(), place.target)
    seconds = time.perf_counter() - begin
    memory, program = compiled.memory_analysis(), Program(compiled.as_text() or "", work.feed.shape.steps)
    arguments = program.arguments()
    named, paths = {one.name for one in arguments}, arguments_of(work, place, state)
    # What the program does not read lies there all the same.
    arguments += [Argument(name, f"{leaf.dtype}{list(leaf.shape)}", bytes_of(leaf)) for name, leaf in paths
                  if name not in named]  # fmt: skip
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(program, arguments, flop(traced, work.feed.shape.steps), memory.temp_size_in_bytes, results,
                    memory.argument_size_in_bytes, _making(training), seconds, said)  # fmt: skip


def arguments_of(work: Workload, place: Place, state: Any = None) -> list[tuple[str, Any]]:
    """What of each is on a device, by the names that a program's arguments have."""
    training = Training(work.config, work.model, work.feed, place.devices[0])
    trees = {"state": training.state_like() if state is None else state,
             "constants": training.constants_like(work.constants), "block": work.feed.like()}  # fmt: skip
    return [(f"{name}{jax.tree_util.keystr(path)}", on_a_device(leaf)) for name, tree in trees.items()
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]  # fmt: skip


def on_a_device(leaf: Any) -> Any:
    """The shape of what of an array is on each device."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _making(training: Training) -> int:
    """Bytes of a device while the state is made there."""

    def place(leaf: Any) -> Any:
        return leaf.sharding if leaf.format.layout is None else leaf.format

    def make() -> Any:
        return init_state(training.model, training.optimizer, training.config.training, on=training.on)

    out = jax.tree.map(place, training.state_like())
    memory: Any = jax.jit(make, out_shardings=out).lower().compile().memory_analysis()
    return int(memory.output_size_in_bytes + memory.temp_size_in_bytes)


def part_of(name: str) -> str:
    """The part of memory of an argument."""
    return next((part for start, part in PARTS.items() if name.startswith(start)), "other")


def memory_of(compiled: Compiled, work: Workload) -> dict[str, int]:
    """Bytes of one device by part, in the loop over blocks."""
    parts = Counter[str]()
    for one in compiled.arguments:
        parts[part_of(one.name)] += one.bytes
    block = parts.pop("block", 0)
    found = {part: parts[part] for part in dict.fromkeys(PARTS.values()) if parts[part]}
    return {**found, "blocks": IN_FLIGHT * block, "data": work.resident or 0, "results": max(0, compiled.results),
            "temporaries": compiled.temporaries}  # fmt: skip


def notes_of(compiled: Compiled, work: Workload, place: Place) -> list[str]:
    """What a user should know of the program."""
    target, notes = place.target, [compiled.said] if compiled.said else []
    if target.platform == "tpu":
        notes.append("float32 products: a TPU multiplies bfloat16 by default, also at training.precision float32; full "
                     "softmax and rankings ask for all bits")  # fmt: skip
    if target.hosts > 1:
        notes.append(f"{target.hosts} hosts: start jaxrec.train on each of them with --distributed")
    if target.platform == "tpu":
        notes += padding(compiled.arguments)
    if (n := compiled.program.host_transfers()) and target.platform != "cpu":
        notes.append(f"{n} transfers between host and device in a block's loop")
    if compiled.program.endless():
        n = len(compiled.program.endless())
        notes.append(f"{n} loops of a step do not say how often they turn, and count as one turn")
    if work.resident is None:
        most = work.config.data.device_memory * 2**20
        notes.append(f"training data are not counted: they take up to {most / 1e9:.2f} GB of each device "
                     "(data.device_memory), or are streamed; --events says how many there are")  # fmt: skip
    elif not work.resident:
        notes.append("training data are streamed: they take more than data.device_memory")
    return notes


def padding(arguments: list[Argument]) -> list[str]:
    """Of large arrays by rows that a TPU's tiles pad to far more than their size, and which widths would suit."""
    wide: dict[str, list[Argument]] = {}
    for one in arguments:
        if one.bytes > max(WASTE * text_bytes(one.shape), LARGE):
            wide.setdefault(one.shape, []).append(one)
    notes = []
    for shape, ones in wide.items():
        width, plain, bytes_ = int(shape.partition("]")[0].rpartition(",")[2]), text_bytes(shape), ones[0].bytes
        most, less = -(-width // LANES) * LANES, width // LANES * LANES
        narrower = f"; {width - less} fewer, in all {less}, take {less / most:.0%} of that" if less else ""
        names = f"{' and '.join(one.name for one in ones[:2])}{' and others' if len(ones) > 2 else ''}"
        notes.append(f"{names}: padded from {plain / 1e9:.2f} to {bytes_ / 1e9:.2f} GB, as rows of {width} (bias "
                     f"included) lie in tiles of {LANES}; a width of {most} takes no more{narrower}")  # fmt: skip
    return notes


def bound_of(work: Workload, place: Place, flop: int, traffic: float) -> dict[str, Any] | None:
    """The least seconds of a step by the vendor's peaks: a bound, which says nothing of how long a step takes."""
    peaks = place.target.chip.peaks
    if peaks is None:
        return None
    low = place.target.platform == "tpu" or work.config.training.precision == "bfloat16"
    kind, peak = ("bfloat16", peaks.bfloat16) if low or not peaks.tf32 else ("TF32", peaks.tf32)
    n = 1 if place.mesh is None else place.mesh.size
    of_flop, of_bytes = flop / n / peak, traffic / peaks.bytes
    return {"seconds": max(of_flop, of_bytes), "by": "bytes" if of_bytes > of_flop else "FLOP", "products": kind,
            "flop_seconds": of_flop, "bytes_seconds": of_bytes}  # fmt: skip


def largest(compiled: Compiled) -> list[dict[str, Any]]:
    """The largest arrays that lie on a device for as long as a run takes."""
    found = sorted(compiled.arguments, key=lambda one: -one.bytes)[:SHOWN]
    return [{"name": one.name, "shape": one.shape, "bytes": one.bytes} for one in found]


def named(array: str, arguments: list[Argument]) -> str:
    """What an array of a copy may be: the arguments of the same numbers in any order of its axes."""

    def key(shape: str) -> tuple[str, tuple[int, ...]]:
        kind, _, sides = shape.partition("[")
        return kind, tuple(sorted(int(one) for one in sides.partition("]")[0].split(",") if one not in ("", "1")))

    names = [one.name for one in arguments if key(one.shape) == key(array)]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{array} ({' or '.join(names[:2])}{more})" if names else array


def told(work: Workload, place: Place, compiled: Compiled, parts: dict[str, int]) -> dict[str, Any]:
    """All that the report shows of a target, as JSON has it; ``parts``: of memory."""
    config, program, target = work.config, compiled.program, place.target
    n = 1 if place.mesh is None else place.mesh.size
    collectives, traffic, total = program.collectives(), program.traffic(), sum(parts.values())
    # While the state is made, constants and data are there.
    making = compiled.making + parts.get("constants", 0) + parts["data"]
    peak = max(total, making)
    notes = notes_of(compiled, work, place)
    if peak > target.usable and target.platform == "gpu":
        notes.append("kernels and bytes of a step are those of a program that does not fit, in which XLA may work out "
                     "anew what it has no room to keep")  # fmt: skip
    copies = [one._asdict() for one in program.copies()]
    return {
        "target": target.name, "platform": target.platform, "devices": n, "hosts": target.hosts,
        "model": config.model.name, "loss": config.loss.name, "batch": config.training.batch_size, "items": work.items,
        "steps_per_block": work.feed.shape.steps,
        "memory": parts, "largest": largest(compiled), "total_bytes": total, "making_bytes": making, "peak_bytes": peak,
        "device_bytes": target.memory, "usable_bytes": target.usable,
        "fits": peak <= target.usable, "spare_bytes": target.usable - peak,
        "kernels_per_step": program.kernels(), "kernels_per_block": program.kernels_of_block(),
        "loops": [one._asdict() for one in program.loops()],
        "copies": [{"name": named(one.pop("array"), compiled.arguments), **one} for one in copies],
        "host_transfers": program.host_transfers(), "float_atomics": program.float_atomics(),
        "flop_per_step": compiled.flop, "bytes_per_step": traffic, "estimated_cycles": program.estimated_cycles(),
        "collective_bytes_per_step": {} if place.mesh is None else {" x ".join(place.mesh.axis_names): collectives},
        "temp_bytes": compiled.temporaries, "argument_bytes": compiled.whole_arguments,
        "compile_s": round(compiled.seconds, 2), "bound": bound_of(work, place, compiled.flop, traffic),
        "assumed": work.assumed, "notes": notes,
    }  # fmt: skip
