"""Configurations of two towers, for the rows of ``worlds.Shop`` and for data of the source personas-synthetic."""

from __future__ import annotations

from pathlib import Path

import yaml
from worlds import Sections


def write_towers(file: Path, source: Path, *sections: Sections) -> Path:
    """A configuration in which a pass of 378 rows is 12 steps, half a block; later sections win over earlier ones."""
    values: Sections = {
        "data": {"path": str(source), "protocol": "cold_users", "test_fraction": 0.25, "validation_fraction": 0.25},
        "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [16], "output_dim": 8, "dropout_hidden": 0.1},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {
            "epochs": 2, "passes": 4, "batch_size": 32, "steps_per_block": 24, "metric": "hit_rate@3", "log_every": 1,
        },
        "evaluation": {"k": [3]},
    }  # fmt: skip
    for more in sections:
        for section, fields in more.items():
            values[section] = values.get(section, {}) | fields
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return file
