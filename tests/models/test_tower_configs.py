"""Configurations and data of which no two towers can be trained: one line each, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import call
from tower_data import SYNTHETIC, write_towers

from jaxrec import config as configuration
from jaxrec.errors import UserError
from jaxrec.train import train

TRAIN: list[tuple[list[object], str]] = [
    (["--data.fields", "age", "categry"], r"data\.fields: 'categry': no such field \(did you mean 'category'\?\)"),
    (["--data.fields", "age", "gender"], r"data\.fields: none of the item; add some of product, category, brand"),
    (["--data.device_memory", 0], r"loss\.mask: positives of 151 users and 25 items take .* MiB, and data\.device_mem"),
    (["--recommendation.rules", "[{when: {skin_type: dyr}, boost: {category: cream}, by: 0.1}]"],
     r"recommendation\.rules: when: field 'skin_type': no value 'dyr' \(did you mean 'dry'"),
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
    config_of_towers: Path, tmp_path: Path, words: list[object], names: str
) -> None:
    with pytest.raises(UserError, match=names):
        train(configuration.load(config_of_towers, [str(word) for word in words]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
