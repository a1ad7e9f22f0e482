"""Imports run downwards, as jaxrec/README.md says, wherever in a file they stand; and there is no circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter

from helpers import ROOT

LAYERS = (
    "errors cli config gone", "ops metrics", "data", "feeds sources", "losses baselines", "models", "training",
    "run plots", "tasks", "personas benchmarks",
    "train evaluate recommend prepare tune text plots.__main__ __main__ __init__",
)  # fmt: skip
"""Lowest first. A module may import those of its own layer and of the layers below."""

LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
FILES = {
    ".".join(file.relative_to(ROOT / "jaxrec").with_suffix("").parts): file for file in (ROOT / "jaxrec").rglob("*.py")
}


def layer(module: str) -> int:
    return LAYER_OF.get(module, LAYER_OF.get(module.partition(".")[0], -1))


def imports(module: str) -> set[str]:
    """The modules of jaxrec that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = (resolved(name.removeprefix("jaxrec.")) for name in names if name.startswith("jaxrec."))
    return {name for name in found if name != "__init__"} - {module}


def resolved(name: str) -> str:
    """The module that ``a.b.c`` names or stands in."""
    while name:
        for candidate in (name, f"{name}.__init__"):
            if candidate in FILES:
                return candidate
        name = name.rpartition(".")[0]
    return "__init__"


IMPORTS = {module: imports(module) for module in FILES}


def test_every_module_has_a_layer() -> None:
    assert not [module for module in FILES if layer(module) < 0]


def test_imports_run_downwards() -> None:
    upwards = {(module, other) for module in FILES for other in IMPORTS[module] if layer(other) > layer(module)}
    assert upwards == set()


def test_there_is_no_circle() -> None:
    assert set(TopologicalSorter(IMPORTS).static_order()) >= set(FILES)  # raises CycleError, which names the circle


def test_at_the_top_stand_the_commands_and_what_all_share() -> None:
    top = {
        path.stem for path in (ROOT / "jaxrec").iterdir() if path.suffix in ("", ".py") and path.stem != "__pycache__"
    }
    folders = {"ops", "metrics", "data", "feeds", "sources", "losses", "baselines", "models", "training", "tasks",
               "personas", "benchmarks", "plots", "tune"}  # fmt: skip
    commands = {"train", "evaluate", "recommend", "prepare", "tune", "plots", "text"}
    assert top - folders == (commands - folders) | {"errors", "cli", "config", "gone", "run", "__init__", "__main__"}
