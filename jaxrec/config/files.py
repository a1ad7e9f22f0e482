"""The configurations and tuning spaces that jaxrec brings, by their bare names: ``sessions`` is configs/sessions.yaml.

In a checkout ``jaxrec/configs`` is a link to ``configs``; a wheel holds the files themselves."""

from __future__ import annotations

from pathlib import Path

from jaxrec.errors import UserError, nearest

FOLDER = Path(__file__).parents[1] / "configs"


def names() -> list[str]:
    """What jaxrec brings."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def find(name: str | Path, what: str) -> Path:
    """The file of a path; or of a bare name, with or without .yaml, which no file here has, that of jaxrec."""
    path = Path(name)
    if len(path.parts) != 1 or path.is_file():
        return path
    brought = FOLDER / f"{path.stem}.yaml"
    if brought.is_file() and path.suffix in ("", ".yaml"):
        return brought
    if path.exists() or path.suffix:
        return path
    raise UserError(f"{name}: no such file, and jaxrec brings no {what} of this name{nearest(str(name), names())}; "
                    f"it has {', '.join(names())}")  # fmt: skip
