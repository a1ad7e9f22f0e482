"""A blend exports nothing: its neighbours are looked for on the host."""

from __future__ import annotations

from jaxrec.errors import UserError, listed
from jaxrec.models.blend import Config
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.exported import Exports


def exports(loaded: Loaded, k: int | None) -> Exports:
    """Refuses, and says what can be exported."""
    model = Config.of(loaded.run.config.model)
    part = f"its neighbours ({listed(model.neighbours)}) are" if model.neighbours else "the mixture of its networks is"
    raise UserError(f"{loaded.run.path}: a blend cannot be exported: {part} worked out on the host, in no program; "
                    f"export the runs that it was made of: {listed(model.networks)}")  # fmt: skip
