"""Configurations and data of which no two towers can be trained: one line each, before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import call, fails
from tower_data import RULE, SYNTHETIC, raw_rows, write_source, write_towers

from jaxrec import config as configuration
from jaxrec.data.encode import write_rows
from jaxrec.data.store import staging, write_manifest
from jaxrec.errors import UserError

Capsys = pytest.CaptureFixture[str]

TRAIN: list[tuple[list[object], str]] = [
    (["--data.fields", "age", "categry"], r"data\.fields: no field 'categry' \(did you mean 'category'\?\)"),
    (["--data.fields", "age", "gender"], r"data\.fields: none of the item; add some of product, category, brand"),
    (["--data.fields", "price"], r"data\.fields: none of the user; add some of customer, age"),
    (["--data.validation_fraction", 0.1], r"data\.validation_fraction: in_sample trains on all rows; set it to 0"),
    (["--data.device_memory", 0], r"loss\.mask: positives of 151 users and 25 items take .* MiB, and data\.device_mem"),
    (["--data.half_life", 3], r"data\.half_life: found 3, but it belongs to merrec, narm and sasrec"),
    (["--model.norm", "layer"], r"model\.norm: found 'layer'; input should be 'none' or 'batch'"),
    (["--model.blocks", 3], r"model\.blocks: found 3, but it belongs to autoint and sasrec"),
    (["--loss.name", "softmax"], r"loss\.name: found 'softmax', .*; choose triplet or infonce for two_tower"),
    (["--loss.name", "binary"], r"loss\.name: found \'binary\', but it belongs to autoint; choose"),
    (["--loss.temperature", 0.2], r"loss\.temperature: found 0.2, but it belongs to infonce; leave it out for triplet"),
    (["--loss.logq", 1], r"loss\.logq: found 1, but it belongs to infonce; leave it out for triplet"),
    (["--loss.name", "infonce", "--loss.margin", 0.2], r"loss\.margin: found 0.2, but it belongs to triplet"),
    (["--loss.margin", 3], r"loss\.margin: found 3; .* less than or equal to 2"),
    (["--loss.mask", "positive"], r"loss\.mask: found 'positive'; .*'positives'"),
    (["--loss.hard_negatives", 9, "--loss.hard_pool", 4], r"negatives: 9 cannot be drawn from a loss\.hard_pool of 4"),
    (["--loss.hard_negatives", 2, "--model.table", "rows"], r"hard_negatives: needs model\.table dense, found rows"),
    (["--training.average", 0.9, "--model.table", "rows"], r"training\.average: needs model\.table dense"),
    (["--training.batch_size", 1], r"loss\.n_sample: 0 leaves a single lane without negatives"),
    (["--training.metric", "auc"], r"training\.metric: found \'auc\'; expected recall, mrr, .* as recall@10"),
    (["--training.early_stopping", 2], r"early_stopping: needs validation data"),
    (["--evaluation.ties", "median"], r"evaluation\.ties: found 'median', .*leave it out for two_tower"),
    (["--evaluation.k", 25], r"evaluation\.k: 25 is more than the 24 items of"),
    (["--recommendation.rules", "[{when: {skin_type: dyr}, boost: {category: cream}, by: 0.1}]"],
     r"recommendation\.rules: when: field 'skin_type': no value 'dyr' \(did you mean 'dry'"),
    (["--evaluation.category", "catgory"], r"evaluation\.category: no categorical field 'catgory' of the item \(did"),
]  # fmt: skip


@pytest.fixture(scope="module")
def config_of_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and data beside it."""
    root = tmp_path_factory.mktemp("towers")
    words = ["--customers", 150, "--products", 24, "--purchases", 3, "--out", root / "data"]
    assert call("prepare", "personas-synthetic", *words) == 0
    return write_towers(root / "small.yaml", root / "data", SYNTHETIC)


@pytest.mark.parametrize(("words", "names"), TRAIN, ids=[" ".join(map(str, words)) for words, _ in TRAIN])
def test_configurations_that_do_not_fit(
    capsys: Capsys, config_of_towers: Path, tmp_path: Path, words: list[object], names: str
) -> None:
    fails(capsys, "train", "--config", config_of_towers, "--run", tmp_path / "run", *words, names=names)
    assert not (tmp_path / "run").exists()


OF_OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"model": {"name": "autoint"}, "loss": {"name": "triplet"}}, r"belongs to two_tower; choose binary for autoint"),
    ({"loss": {"name": "infonce"}}, r"loss\.name: found 'infonce', but it belongs to two_tower"),
    ({"model": {"hidden": [3]}}, r"model\.hidden: found \[3\], but it belongs to two_tower; leave it out for gru4rec"),
    ({"loss": {"mask": "duplicates"}}, r"mask: found 'duplicates', but it belongs to two_tower; leave it out for"),
    ({"recommendation": {"rules": [RULE]}}, r"rules: found .*, but it belongs to two_tower; leave it out for gru4rec"),
    ({"evaluation": {"category": "brand"}}, r"category: found .brand., but it belongs to two_tower; leave it out"),
    ({"training": {"passes": 2}}, r"training\.passes: found 2, but it belongs to autoint and two_tower"),
    ({"model": {"name": "two_tower"}, "recommendation": {"rules": [RULE | {"by": 2}]}}, r"rules\.0\.by: found 2"),
    ({"model": {"name": "two_tower"}, "recommendation": {"rules": [{"by": 0.1}]}}, r"rules\.0\.boost: missing"),
    ({"model": {"name": "two_tower"}, "recommendation": {"rules": [RULE | {"then": 2}]}}, r"then: no such field"),
    ({"model": {"name": "two_tower"}, "recommendation": {"rules": RULE}}, r"recommendation\.rules: found "),
]  # fmt: skip


@pytest.mark.parametrize(("values", "names"), OF_OTHERS)
def test_what_belongs_to_another_model(values: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names) as caught:
        configuration.parse({"data": {"path": "x"}, **values})
    assert len(str(caught.value).splitlines()) == 1


def test_data_that_two_towers_cannot_read(capsys: Capsys, tmp_path: Path) -> None:
    """Without users, or items; fields of the occasion."""
    run = ["--run", tmp_path / "run"]
    for side in ("user", "item"):
        raw = raw_rows(True)
        raw = replace(raw, shown={}, user=None) if side == "user" else replace(raw, shown={}, item=None)
        with staging(tmp_path / side) as stage:
            entries = write_rows(raw, stage.dataset)
            write_manifest(stage.dataset, entries.pop("files"), kind="rows", source="made up", options={}, **entries)
        config = write_towers(tmp_path / "c.yaml", tmp_path / side, {"data": {"protocol": "rows"}})
        fails(capsys, "train", "--config", config, *run,
              names=f"{side}: has no {side} field, and two_tower recommends items to users; prepare")  # fmt: skip
    write_source(tmp_path / "whole", True)
    words = ["--data.path", tmp_path / "whole", "--data.fields", "skin", "brand", "season"]
    fails(capsys, "train", "--config", config, *run, *words,
          names=r"data\.fields: season is of the occasion, and a tower reads fields of the user or")  # fmt: skip
    fails(capsys, "evaluate", "--run", tmp_path / "whole", names="whole: no run here")
    assert not (tmp_path / "run").exists()
