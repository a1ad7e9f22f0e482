"""Imports run downwards, as jaxrec/README.md says, wherever in a file they stand; and there is no circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter

from helpers import ROOT

LAYERS = (
    "errors cli config gone", "ops metrics", "data", "feeds sources", "losses baselines", "models", "training",
    "run plots", "tasks", "personas benchmarks programs exporting",
    "train evaluate blend recommend export prepare tune leaderboard text compile serve replay",
    "plots.__main__ __main__ __init__",
)  # fmt: skip
"""Lowest first. A module may import those of its own layer and of the layers below."""

LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
HOUSE = ROOT / "jaxrec"
FILES = {".".join(file.relative_to(HOUSE).with_suffix("").parts): file for file in HOUSE.rglob("*.py")}


def layer(module: str) -> int:
    return LAYER_OF.get(module, LAYER_OF.get(module.partition(".")[0], -1))


def imports(module: str) -> set[str]:
    """The modules of jaxrec that a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found = set()
    for name in (name.removeprefix("jaxrec.") for name in names if name.startswith("jaxrec.")):
        places = [name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__"]
        found |= set([place for place in places if place in FILES][:1])
    return found - {module}


def test_imports_run_downwards_and_not_in_circles() -> None:
    found = {module: imports(module) for module in FILES}
    assert not [module for module in FILES if layer(module) < 0], "every module has a layer"
    assert not {(module, other) for module in FILES for other in found[module] if layer(other) > layer(module)}
    list(TopologicalSorter(found).static_order())  # raises CycleError, which names the circle
