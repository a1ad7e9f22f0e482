"""Small data sets and runs that the fuzzer tries its inputs on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from event_data import make_event_data, make_run, random_weights
from helpers import SYNTHETIC, call, write_config
from tower_data import SYNTHETIC as TOWERS
from tower_data import write_towers
from towers import random_weights as tower_weights

from jaxrec import config as configuration
from jaxrec.data.dataset import open_dataset
from jaxrec.data.items import open_catalogue
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError
from jaxrec.models.base import make_click_model, make_tower_model
from jaxrec.models.merrec import MERRec
from jaxrec.models.two_tower import TwoTower
from jaxrec.recommend import Recommender
from jaxrec.run import Run, create_run, open_run
from jaxrec.tasks.base import make_task
from jaxrec.tasks.clicks.recommend import ClickRecommender
from jaxrec.tasks.events.recommend import EventRecommender
from jaxrec.tasks.retrieval.recommend import TowerRecommender


@dataclass
class World:
    """Small data sets and runs that inputs are tried on, in a folder of their own."""

    root: Path
    made: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What ``make`` makes, once."""
        if name not in self.made:
            try:
                self.made[name] = make(self.root / name)
            except UserError as error:
                raise AssertionError(f"the world, not the input: {error}") from error
        return self.made[name]

    @property
    def base(self) -> Path:
        """A configuration."""
        return self.get("base", lambda place: write_config(place.with_suffix(".yaml"), self.root / "no-data"))

    @property
    def session_run(self) -> Path:
        return self.get("sessions", _train_sessions)

    @property
    def sessions(self) -> Recommender:
        return self.get("recommender", lambda place: Recommender.load(self.session_run))

    @property
    def clicks(self) -> ClickRecommender:
        return self.get("clicks", _clicks)

    @property
    def shop(self) -> TowerRecommender:
        return self.get("shop", _shop)

    @property
    def market(self) -> EventRecommender:
        return self.get("market", _market)

    @property
    def empty(self) -> Path:
        """A folder in which nothing may be left behind."""
        return self.get("empty", _folder)


def _folder(place: Path) -> Path:
    place.mkdir()
    return place


def _train_sessions(place: Path) -> Path:
    assert call("prepare", "synthetic", "--out", place / "data", *SYNTHETIC) == 0
    config = write_config(place / "small.yaml", place / "data", training={"epochs": 1})
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


def _clicks(place: Path) -> ClickRecommender:
    place.mkdir()
    lines = ["user,item,stars,when,kind,age"]
    for user, item in itertools.product(range(1, 9), range(1, 13)):
        lines.append(f"{user},{item},{(user + item // 2) % 2},{1_700_000_000 + 60 * user},{'ab'[item % 2]},{user + 20}")
    (place / "rows.csv").write_text("\n".join(lines))
    words = "--user user --item item --label stars --time when --categorical kind --numerical age --item-fields kind"
    words += " --user-fields age"
    assert call("prepare", "rows", "--raw", place / "rows.csv", "--out", place / "data", *words.split()) == 0
    config = write_config(
        place / "small.yaml", place / "data", evaluation={"k": [3]}, optimizer={"name": "adam"},
        model={"name": "autoint", "layers": None, "embedding_dim": 4, "blocks": 1}, training={"metric": "auc"},
        loss={"name": "binary", "n_sample": None},
    )  # fmt: skip
    run = _untrained(place, config)
    model = make_click_model(run.config, run.schema)
    return ClickRecommender(run, model, random_weights(model))


def _shop(place: Path) -> TowerRecommender:
    words = ["--customers", 60, "--products", 12, "--purchases", 3, "--out", place / "data"]
    assert call("prepare", "personas-synthetic", *words) == 0
    run = _untrained(place, write_towers(place / "c.yaml", place / "data", TOWERS, {"recommendation": {"rules": []}}))
    model = make_tower_model(run.config, Schema.from_manifest(run.manifest))
    weights = tower_weights(cast(TwoTower, model))
    parts = {"params": weights.params, "tables": weights.tables, "statistics": weights.statistics}
    return TowerRecommender(run, model, parts, "latest")


def _untrained(place: Path, file: Path) -> Run:
    config = configuration.load(file)
    dataset = open_dataset(config.data.path)
    task = make_task(config, dataset)
    return create_run(place / "run", config, dataset, False, task.kept, task.copied)


def _market(place: Path) -> EventRecommender:
    place.mkdir()
    run = open_run(make_run(make_event_data(place / "data"), place / "run"))
    catalogue = open_catalogue(run.path / "dataset", run.manifest, run.config.model.item_fields)
    model = MERRec(run.config, catalogue, len(run.manifest["event_types"]))
    return EventRecommender(run, model, catalogue, random_weights(model))
