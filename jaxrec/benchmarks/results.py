"""The benchmark's JSON files, read back and checked, and put together by machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError

MACHINE = {"device": str, "platform": str, "devices": int, "cpu_cores": int, "python": str, "jax": str}
NAMED = {"model": str, "loss": str, "batch": int, "items": int}
ROW = NAMED | dict.fromkeys(
    ("steps_per_s", "steps_per_s_min", "steps_per_s_max", "events_per_s", "matmul_share", "copy_share", "compile_s",
     "peak_memory_mb", "ceiling_matmul_gflop_per_s", "ceiling_copy_gb_per_s"), float,
)  # fmt: skip
PEER = {"peer": str, **NAMED, "steps_per_s": float, "events_per_s": float}
WORDS = {str: "text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Results:
    """A file that ``scripts/benchmark.py --json`` wrote.

    Attributes:
        machine: as ``runtime.machine`` gives it.
        rows: as ``sweep.measure`` gives them.
        peers: other people's code, measured in the same sitting; ``ratios`` are jaxrec's rate over theirs, by round.
        device_peak_mb: most memory in use on the accelerator, over all rows; None where it does not say.
    """

    file: str
    machine: dict[str, Any]
    date: str
    command: str
    rows: list[dict[str, Any]]
    peers: list[dict[str, Any]]
    device_peak_mb: float | None


def read(file: Path) -> Results:
    """Read a file back.

    Raises:
        UserError: it cannot be read, is no JSON, not the benchmark's (naming the key that is missing or wrong), or has
            no rows.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name what a benchmark's --json wrote") from None
    except (ValueError, RecursionError) as error:
        reason = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8 text"
        raise UserError(f"{file}: not JSON ({reason}); name what a benchmark's --json wrote") from None
    _check(file, "", found, {"machine": dict, "date": str, "command": str})
    _check(file, "machine", found["machine"], MACHINE)
    rows, peers = found.get("rows", []), found.get("peers", [])
    for name, listed in (("rows", rows), ("peers", peers)):
        if not isinstance(listed, list):
            raise UserError(f"{file}: {_not_ours(name, listed)}")
    if not rows:
        raise UserError(f"{file}: nothing to report: it has no rows; benchmark a model, or all "
                        "(softmax is not part of the report)")  # fmt: skip
    for i, row in enumerate(rows):
        _check(file, f"rows[{i}]", row, ROW)
        _check_exchanged(file, f"rows[{i}].exchanged_per_step", row.get("exchanged_per_step"))
    for i, peer in enumerate(peers):
        _check(file, f"peers[{i}]", peer, PEER | {"ratios": list})
        _check(
            file,
            f"peers[{i}].ratios",
            dict(enumerate(peer["ratios"])),
            dict.fromkeys(range(len(peer["ratios"])), float),
        )
    if (peak := found.get("device_peak_memory_mb")) is not None:
        _check(file, "", found, {"device_peak_memory_mb": float})
    return Results(str(file), found["machine"], found["date"], found["command"], rows, peers, peak)


def by_machine(results: Sequence[Results]) -> list[list[Results]]:
    """The files of each machine, in their order: those with the same device, number of devices, cores and versions."""
    machines: dict[str, list[Results]] = {}
    for one in results:
        machines.setdefault(json.dumps(one.machine, sort_keys=True), []).append(one)
    return list(machines.values())


def differences(machines: Sequence[list[Results]]) -> list[str]:
    """What machines differ in, as ``devices (1, 8)``."""
    names = dict.fromkeys(name for files in machines for name in files[0].machine)
    values = {name: list(dict.fromkeys(str(files[0].machine.get(name, "-")) for files in machines)) for name in names}
    return [f"{name} ({', '.join(found)})" for name, found in values.items() if len(found) > 1]


def _check(file: Path, place: str, found: Any, expected: dict[Any, type]) -> None:
    """Refuse what lacks a key, or has something else there."""
    if not isinstance(found, dict):
        raise UserError(f"{file}: {_not_ours(place or 'the whole', found)}")
    for name, kind in expected.items():
        key = f"{place}.{name}" if place else str(name)
        if name not in found:
            raise UserError(f"{file}: not a benchmark's JSON, or an older version's: {key} is missing; measure again "
                            "with --json")  # fmt: skip
        value = found[name]
        right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not right or (kind in (int, float) and not 0 <= value < math.inf):
            raise UserError(f"{file}: {_not_ours(key, value, WORDS.get(kind, ''))}")


def _check_exchanged(file: Path, place: str, found: Any) -> None:
    if found is not None:
        _check(file, place, found, dict.fromkeys(found if isinstance(found, dict) else (), float))


def _not_ours(key: str, value: Any, expected: str = "") -> str:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"not a benchmark's JSON: {key} is {shown}" + (f", not {expected}" if expected else "")
