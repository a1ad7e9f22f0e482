"""Plans as a table, a column a target, and what is to be said of each below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PARTS = ("parameters", "tables", "optimizer", "averages", "carried", "constants", "blocks", "data", "results",
         "temporaries")  # fmt: skip
Plan = dict[str, Any]
LISTED = 6  # copies of a target


def table(plans: Sequence[Plan]) -> str:
    """The plans of one configuration as text."""
    first = plans[0]
    lines = [f"{first['model']}, {first['loss']}, {first['batch']:,} a step, {first['steps_per_block']:,} steps a "
             f"block, {first['items']:,} items"]  # fmt: skip
    lines += _aligned([("", [plan["target"] for plan in plans]), *_rows(plans)])
    for plan in plans:
        said = _said(plan)
        lines += ["", f"{plan['target']}:", *(f"  {one}" for one in said)] if said else []
    return "\n".join([*lines, "", "Nothing was run, and none of this is speed."
                      if not any("measured_bytes" in plan for plan in plans) else
                      "None of this is speed."])  # fmt: skip


def _rows(plans: Sequence[Plan]) -> list[tuple[str, list[str]]]:
    def row(title: str, value: Any) -> tuple[str, list[str]]:
        return title, [value(plan) for plan in plans]

    parts = [part for part in PARTS if any(plan["memory"].get(part) for plan in plans)]
    found = [
        row("fits", lambda plan: "yes" if plan["fits"] else "no"),
        row("devices", lambda plan: str(plan["devices"])),
        row("memory of one device, GB", lambda plan: _giga(plan["total_bytes"])),
        *(row(f"  {part}", lambda plan, part=part: _giga(plan["memory"].get(part, 0))) for part in parts),
        row("while the state is made, GB", lambda plan: _giga(plan["making_bytes"])),
        row("a program may have, GB", lambda plan: _giga(plan["usable_bytes"])),
        row("to spare, GB", lambda plan: _giga(plan["spare_bytes"])),
        row("measured peak, GB", lambda plan: _giga(plan.get("measured_bytes"))),
        row("kernels a step", lambda plan: _short(plan["kernels_per_step"])),
        row("kernels a block beside", lambda plan: _short(plan["kernels_per_block"])),
        row("loops in a step: turns", lambda plan: _loops(plan)),
        row("copies > 1 MB, MB a step", lambda plan: _copied(plan, "step")),
        row("copies > 1 MB, MB a block", lambda plan: _copied(plan, "block")),
        row("host transfers a block", lambda plan: str(plan["host_transfers"])),
        row("float atomics", lambda plan: str(plan["float_atomics"]) if plan["platform"] == "gpu" else "-"),
        row("MFLOP a step, all devices", lambda plan: _short(plan["flop_per_step"] / 1e6)),
        row("MB a step, read and written", lambda plan: _short(plan["bytes_per_step"] / 1e6)),
        *(row(f"exchanged, MB a step: {kind}", lambda plan, kind=kind: _exchanged(plan, kind))
          for kind in dict.fromkeys(kind for plan in plans for kind in _kinds(plan))),
        row("cycles a step, compiler's estimate", lambda plan: _short(plan["estimated_cycles"] or None)),
        row("bound of a step by peaks, µs", lambda plan: _bound(plan)),
        row("compiled in, s", lambda plan: f"{plan['compile_s']:.1f}"),
    ]  # fmt: skip
    return [(title, values) for title, values in found if set(values) != {"-"}]


def _said(plan: Plan) -> list[str]:
    """Notes, what is large, what is copied, and what would make it fit."""
    lines = [f"assumed: {one}" for one in plan["assumed"]] + [f"note: {one}" for one in plan["notes"]]
    lines += [f"holds: {one['name']} {one['shape'].partition('{')[0]}, {_giga(one['bytes'])} GB"
              for one in plan["largest"] if one["bytes"] > 2**26]  # fmt: skip
    lines += [f"copies: {one['name']}, {one['bytes'] / 1e6:,.1f} MB, {one['times']} a {one['per']} ({one['what']})"
              for one in plan["copies"][:LISTED]]  # fmt: skip
    if not plan["fits"]:
        lines.append(f"does not fit, by {_giga(-plan['spare_bytes'])} GB; tried:")
        lines += [f"  {one}" for one in plan.get("remedies", [])]
    return lines


def _aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    wide = max(len(title) for title, _ in rows)
    widths = [max(len(values[at]) for _, values in rows) for at in range(len(rows[0][1]))]
    return [f"{title:<{wide}}  " + "  ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
            for title, values in rows]  # fmt: skip


def _giga(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e9:,.3f}"


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _loops(plan: Plan) -> str:
    turns = [one["turns"] for one in plan["loops"]]
    return "none" if not turns else " ".join("?" if one is None else str(one) for one in turns[:4]) + (
        f" and {len(turns) - 4} more" if len(turns) > 4 else "")  # fmt: skip


def _copied(plan: Plan, per: str) -> str:
    total = sum(one["bytes"] * one["times"] for one in plan["copies"] if one["per"] == per)
    return f"{total / 1e6:,.1f}" if total else "0"


def _kinds(plan: Plan) -> list[str]:
    return [kind for kinds in plan["collective_bytes_per_step"].values() for kind in kinds]


def _exchanged(plan: Plan, kind: str) -> str:
    total = sum(kinds.get(kind, 0) for kinds in plan["collective_bytes_per_step"].values())
    return f"{total / 1e6:,.3f}" if plan["devices"] > 1 else "-"


def _bound(plan: Plan) -> str:
    bound = plan["bound"]
    return "-" if bound is None else f"{bound['seconds'] * 1e6:,.1f} ({bound['by']}; {bound['products']})"
