"""What a compiled block executes, read from its optimised HLO: kernels, copies, collectives, scatters. A block is a
loop over steps; what stands in the loop's body runs once a step, all else once a block."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from jaxrec.ops.shards import RARELY

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
               "ragged-all-to-all")  # fmt: skip
KERNELS = {"fusion", "custom-call", "copy", "copy-start", "sort", "scatter"}
HOST = {"infeed", "outfeed", "send", "recv"}
NO_KERNEL = re.compile(r'custom_call_target="(AllocateBuffer|Sharding|SPMD\w*|annotate_device_placement)"')
LARGE = 2**20  # bytes; smaller copies are not listed
MOVES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape", "copy", "transpose"}

IDLE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "after-all", "partition-id",
        "replica-id", "opt-barrier", "copy-done", "async-done", "async-start", "iota"}  # fmt: skip
PARTLY = {"gather", "dynamic-slice", "scatter", "dynamic-update-slice"}

_OPENING = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|\w+_computations?)=(?:\{([^}]*)\}|([%\w.-]+))")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_TILED = re.compile(r"\[([\d,]*)\]\{([\d,]*):T\(([\d,]+)\)")
_WORKSPACE = re.compile(r", (/\*.*?\*/)?s8\[\d+\]\S*(?=\)$)")
_LAYOUT = re.compile(r"\{([\d,]*)(?::[^{}]*)?\}")


class Instruction(NamedTuple):
    name: str
    shape: str  # of the result, with its layout: f32[8,2]{1,0}
    operation: str
    rest: str  # operands and attributes
    root: bool


class Execution(NamedTuple):
    instruction: Instruction
    times: int  # a block
    in_step: bool  # whether it stands in the loop over steps


class Loop(NamedTuple):
    name: str
    turns: int | None  # None where it depends on the data
    times: float  # a step comes to it


class Argument(NamedTuple):
    """What a program takes, on one device."""

    name: str  # as of ``state.tables['item']``
    shape: str  # with its layout
    bytes: int


class Copy(NamedTuple):
    """A copy or transpose of more than ``LARGE`` bytes."""

    array: str  # dtype and shape
    bytes: int
    times: int
    per: str  # "step" or "block"
    what: str  # "layout": written anew in another order; "copy": as it is; "staged": to or from another memory


class Program:
    """The text of a block's program; ``steps``: how often its loop turns."""

    def __init__(self, hlo: str, steps: int) -> None:
        self.steps, self.computations, self._entry = steps, dict[str, list[Instruction]](), ""
        current = list[Instruction]()
        for line in hlo.splitlines():
            if opening := _OPENING.match(line):
                current = self.computations[opening[2]] = []
                self._entry = opening[2] if opening[1] else self._entry
            elif match := _INSTRUCTION.match(line):
                current.append(Instruction(match[2], match[3], match[4], match[5], bool(match[1])))
        if not self._entry:
            raise ValueError("no HLO module: it has no ENTRY computation")

    @cached_property
    def executions(self) -> list[Execution]:
        """Every instruction that runs, those within fusions left out; of a condition the branch with most of them, or
        where branches have as many the one that exchanges most."""
        loops = [one for one in self.computations[self._entry] if one.operation == "while"]
        steps = max(loops, key=lambda one: sum(self._size(name) for name in _called(one)), default=None)
        return list(self._walk(self._entry, 1, steps is None or self.steps == 1, steps))

    def _walk(self, computation: str, times: int, in_step: bool, steps: Instruction | None) -> Iterator[Execution]:
        for one in self.computations.get(computation, ()):
            if one.operation == "while":
                yield Execution(one, times, in_step)
                turns, inside = 1 if (known := self.turns(one)) is None else known, in_step or one is steps
                for name in _called(one):
                    yield from self._walk(name, times * turns, inside, None)
            elif one.operation == "conditional":
                branches = [list(self._walk(name, times, in_step, None)) for name in _called(one)]
                yield from max(branches, key=lambda ones: (len(ones), _exchanged(ones)), default=[])
            elif one.operation in ("call", "async-start"):
                for name in _called(one):
                    yield from self._walk(name, times, in_step, None)
            else:
                yield Execution(one, times, in_step)

    def _size(self, computation: str) -> int:
        """Instructions, those of loops and calls within it too."""
        inner = [self._size(name) for one in self.computations.get(computation, ()) for name in _called(one)
                 if one.operation != "fusion"]  # fmt: skip
        return len(self.computations.get(computation, ())) + sum(inner)

    def turns(self, loop: Instruction) -> int | None:
        """How often a loop turns; None where it depends on the data, and 0 where its scope says hardly ever."""
        if RARELY in loop.rest:
            return 0
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        condition = _CONDITION.search(loop.rest)
        inside = self.computations.get(condition[1], []) if condition else []
        ends = [int(one.rest.partition(")")[0]) for one in inside
                if one.operation == "constant" and one.shape.startswith("s32[]")]  # fmt: skip
        plain = any(one.root and one.operation == "compare" and "direction=LT" in one.rest for one in inside)
        return ends[0] if plain and len(ends) == 1 else None

    def loops(self) -> list[Loop]:
        """The loops within a step."""
        return [Loop(one.name, self.turns(one), times / self.steps) for one, times, in_step in self.executions
                if in_step and one.operation == "while"]  # fmt: skip

    def endless(self) -> list[str]:
        """Loops of a step that do not say how often they turn; each is counted as one turn."""
        return [one.name for one, _, in_step in self.executions
                if in_step and one.operation == "while" and self.turns(one) is None]  # fmt: skip

    def kernels(self) -> float:
        """Kernels of a step: fusions, custom calls, copies, sorts and scatters, those of inner loops times their
        turns."""
        return sum(times for one, times, in_step in self.executions if in_step and _is_kernel(one)) / self.steps

    def kernels_of_block(self) -> int:
        """Those that run once a block, before and after the steps."""
        return sum(times for one, times, in_step in self.executions if not in_step and _is_kernel(one))

    def estimated_cycles(self) -> float:
        """Of a step, by the TPU compiler; it says nothing of gathers, scatters and loops. 0 on other targets."""
        return sum(
            times * int(cycles[1]) for one, times, in_step in self.executions
            if in_step and (cycles := _CYCLES.search(one.rest))
        ) / self.steps  # fmt: skip

    def copies(self) -> list[Copy]:
        """Copies and transposes of more than ``LARGE`` bytes, the largest first."""
        copies = Counter[Copy]()
        for one, times, in_step in self.executions:
            if (what := self._moved(one)) and (size := bytes_of(_result(one))) > LARGE:
                array = found[0] if (found := _ARRAY.search(one.shape)) else one.shape
                per = "step" if in_step else "block"
                copies[Copy(array, size, 0, per, what)] += times // self.steps if in_step else times
        return sorted((one._replace(times=n) for one, n in copies.items()), key=lambda one: -one.bytes * one.times)

    def _moved(self, one: Instruction) -> str:
        """How an instruction copies an array; empty where it computes."""
        if one.operation in ("copy", "transpose"):
            other = one.operation == "transpose" or _layout(one.shape) != self._operand_layout(one)
            return "layout" if other else "copy"
        if one.operation == "copy-start":
            return "staged"
        if one.operation == "fusion":
            inside = [inner for name in _called(one) for inner in self.computations.get(name, ())]
            moves = {inner.operation for inner in inside}
            if moves <= MOVES and moves & {"copy", "transpose"}:
                return "layout"
        return ""

    def _operand_layout(self, one: Instruction) -> str:
        return _layout(self._shapes.get(one.rest.partition(")")[0].strip(" %"), ""))

    def collectives(self) -> dict[str, float]:
        """Bytes of a step by kind of collective: results on one device."""
        total = Counter[str]()
        for one, times, _ in self.executions:
            if one.operation == "while" and self.turns(one) is None and self._exchanges(one):
                raise ValueError("a loop with collectives does not say how often it turns")
            if (kind := one.operation.removesuffix("-start")) in COLLECTIVES:
                total[kind] += times * bytes_of(_result(one))
        return {kind: number / self.steps for kind, number in sorted(total.items())}

    def _exchanges(self, one: Instruction) -> bool:
        inside = [inner for name in _called(one) for inner in self.computations.get(name, ())]
        return any(inner.operation.removesuffix("-start") in COLLECTIVES or self._exchanges(inner) for inner in inside)

    def arguments(self) -> list[Argument]:
        """What the program takes, with the padding of the tiles that arrays lie in."""
        found = []
        for one in self.computations[self._entry]:
            if one.operation == "parameter":
                name = _NAME.search(one.rest)
                found.append(Argument(name[1].replace("\\'", "'") if name else one.name, one.shape, padded(one.shape)))
        return found

    def traffic(self) -> float:
        """Bytes that the operations of a step read and write in the device's memory. Of an array that is gathered or
        written in part the part counts, and nothing that a TPU keeps in its vector memory; caches are not known."""
        return sum(times * self._touched(one) for one, times, in_step in self.executions if in_step) / self.steps

    def _touched(self, one: Instruction) -> int:
        if one.operation in IDLE:
            return 0
        inside = self.computations.get(_called(one)[0], []) if one.operation == "fusion" else []
        roots = [inner for inner in inside if inner.root] or [one]
        if roots[0].operation == "tuple":
            names = _operands(roots[0])
            roots = [inner for inner in inside if inner.name in names]
        written = sum(self._part(root, inside) for root in roots) if any(
            root.operation in PARTLY for root in roots) else _in_memory(_result(one))  # fmt: skip
        parameters = {inner.rest.partition(")")[0]: inner for inner in inside if inner.operation == "parameter"}
        total = written
        for place, name in enumerate(_operands(one)):
            whole = self._shapes.get(name, "")
            same = {parameters[str(place)].name if str(place) in parameters else name}
            users = [] if inside else [one]
            for inner in inside:  # an array in another shape is the same array
                if same & {*_operands(inner)}:
                    same |= {inner.name} if inner.operation in ("bitcast", "reshape") else set()
                    users += [] if inner.name in same else [inner]
            if users and all(user.operation in PARTLY and _operands(user)[0] in same for user in users):
                total += min(_in_memory(whole), sum(self._part(user, inside) for user in users))
            else:
                total += _in_memory(whole)
        return total

    def _part(self, one: Instruction, inside: list[Instruction]) -> int:
        """Of an array that is read or written in part: what is."""
        if one.operation in ("scatter", "dynamic-update-slice"):
            update = _operands(one)[2 if one.operation == "scatter" else 1]
            return _in_memory(self._shapes.get(update, ""))
        return _in_memory(_result(one))

    @cached_property
    def _shapes(self) -> dict[str, str]:
        return {one.name: one.shape for inside in self.computations.values() for one in inside}

    def host_transfers(self) -> int:
        """Transfers between host and device in the loop over steps; a copy of a scalar that a loop asks for is one."""
        return sum(times for one, times, in_step in self.executions
                   if in_step and (one.operation in HOST or "S(5)" in one.shape))  # fmt: skip

    def float_atomics(self) -> int:
        """Scatters that add floats at places that may repeat: GPUs do so by atomics, in no fixed order."""
        scatters = [one for inside in self.computations.values() for one in inside if one.operation == "scatter"]
        return sum(
            one.shape.startswith(("f", "bf")) and "unique_indices=true" not in one.rest
            and any(inner.root and inner.operation != "parameter"
                    for name in _called(one) for inner in self.computations.get(name, ()))
            for one in scatters
        )  # fmt: skip


def _exchanged(executions: list[Execution]) -> int:
    kinds = ((one.operation.removesuffix("-start"), one, times) for one, times, _ in executions)
    return sum(times * bytes_of(_result(one)) for kind, one, times in kinds if kind in COLLECTIVES)


def _called(one: Instruction) -> list[str]:
    return [name.strip(" %") for names in _CALLED.findall(one.rest) for name in "".join(names).split(",")]


def _operands(one: Instruction) -> list[str]:
    """Names of what an instruction takes."""
    depth = 0
    for place, sign in enumerate(one.rest):
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return [part.split()[-1].lstrip("%") for part in one.rest[:place].split(",") if part.strip(" /*=")]
    return []


def _in_memory(shape: str) -> int:
    """Bytes of an array in the device's memory; 0 of one in a TPU's vector memory. What a library's product of a GPU
    has to work in counts for nothing: how much of it is used nobody knows."""
    return 0 if "T(" in shape and "S(1)" in shape else bytes_of(_WORKSPACE.sub("", shape))


def _is_kernel(one: Instruction) -> bool:
    return one.operation in KERNELS and not NO_KERNEL.search(one.rest)


def _result(one: Instruction) -> str:
    """The shape of what an instruction gives; of one that starts a copy or exchange the tuple's second part."""
    if one.operation.endswith("-start") and one.shape.startswith("("):
        parts = re.split(r",\s*(?=[a-z]+\d*\[)", one.shape.strip("()"))
        return parts[1] if len(parts) > 1 else parts[0]
    return one.shape


def _layout(shape: str) -> str:
    found = _LAYOUT.search(shape)
    return found[1] if found else ""


def bytes_of(shape: str) -> int:
    """Bytes of an array or a tuple: ``f32[8,2]{1,0}``, ``(bf16[4], pred[])``."""
    bits = 0
    for kind, width, sides in _ARRAY.findall(re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape)):
        each = 8 if kind == "pred" else int(width or 0)  # a token has none
        bits += each * math.prod(int(side) for side in sides.replace("<=", "").split(",") if side)
    return -(-bits // 8)


def padded(shape: str) -> int:
    """Bytes of an array with the padding of its tiles: of ``f32[8,101]{1,0:T(8,128)}`` those of 8 by 128 numbers."""
    tiled = _TILED.search(shape)
    if not tiled:
        return bytes_of(shape)
    sides, order, tile = ([int(one) for one in part.split(",") if one] for part in tiled.groups())
    physical = [1] * len(tile) + [sides[axis] for axis in reversed(order)]  # major to minor
    for place, size in enumerate(reversed(tile), 1):
        physical[-place] = -(-physical[-place] // size) * size
    kind = shape.partition("[")[0]
    return bytes_of(f"{kind}[{','.join(map(str, physical))}]")
