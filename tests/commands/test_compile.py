"""``python -m jaxrec.compile``: plans of every kind of data and of sizes, for a CPU and virtual devices."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import ROOT
from worlds import Worlds

from jaxrec import compile as compiling
from jaxrec import config as configuration
from jaxrec.benchmarks.sizes import SIZES
from jaxrec.cli.command import command
from jaxrec.programs import targets, worker, workload
from jaxrec.programs.workload import of_data, of_sizes, shapes
from jaxrec.training.block import Training

CONFIGS = sorted(file for file in (ROOT / "configs").glob("*.yaml") if not file.name.startswith("tune_"))
OF_A_MODEL = {"gru4rec": "gru4rec_diginetica", "narm": "narm_diginetica", "sasrec": "sasrec_diginetica",
              "esasrec": "esasrec_diginetica", "hstu": "hstu_diginetica",
              "bert4rec": "bert4rec_diginetica", "autoint": "autoint_plus_ml1m", "two_tower": "two_tower_ml1m",
              "merrec": "merrec"}  # fmt: skip


@pytest.fixture
def plans(tmp_path: Path) -> Any:
    """Compiles with these words; gives the JSON."""

    def run(*words: Any) -> list[dict[str, Any]]:
        out = tmp_path / "plans.json"
        assert command(compiling.main, [*map(str, words), "--json", str(out)]) == 0
        found: list[dict[str, Any]] = json.loads(out.read_text())
        return found

    return run


def test_a_data_set_is_planned_for_a_cpu_and_for_virtual_devices(
    plans: Any, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, eight = plans("--config", config_file, "--target", "cpu", "cpu:8", "--training.batch_size", "32")
    assert [plan["target"] for plan in (one, eight)] == ["cpu", "cpu:8"] and one["items"] == 100
    assert one["memory"]["tables"] == eight["memory"]["tables"] > 0 and one["fits"]
    # Devices share a block, and exchange rows; each has the tables whole.
    assert 8 * eight["memory"]["blocks"] == one["memory"]["blocks"] and one["collective_bytes_per_step"] == {}
    assert sum(eight["collective_bytes_per_step"]["data"].values()) > 0
    assert one["flop_per_step"] == eight["flop_per_step"] > 0 and one["memory"]["data"] > 0
    for plan in (one, eight):
        assert sum(plan["memory"].values()) == plan["total_bytes"] and plan["kernels_per_step"] > 0
    shown = capsys.readouterr().out
    assert "fits" in shown and "cpu:8" in shown and shown.endswith("Nothing was run, and none of this is speed.\n")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gru4rec", "merrec"])
def test_dealt_tables_take_an_eighth_and_exchange_what_does_not_grow(model: str, plans: Any, worlds: Worlds) -> None:
    file, words = worlds.config(model), ["--training.batch_size", "64", "--loss.n_sample", "256", "--items"]
    found = [plans("--config", file, "--target", "cpu:8", *words, items, "--mesh.model", shards)[0]
             for items, shards in ((200_000, 1), (200_000, 8), (800_000, 8), (800_000, 4))]  # fmt: skip
    whole, eighth, larger, quarter = found
    for part in ("tables", "optimizer"):
        row = (larger["memory"][part] - eighth["memory"][part]) / 600_000
        assert row == pytest.approx((whole["memory"][part] - eighth["memory"][part]) / 200_000 / 7, rel=0.01)
        # What is not dealt is the state of the parameters: two moments of each.
        beside = whole["memory"][part] - 8 * 200_000 * row
        assert 0 <= beside <= (2.1 * whole["memory"]["parameters"] if part == "optimizer" else 0.01 * row * 1_600_000)
    assert larger["total_bytes"] < 1.1 * sum(larger["memory"][part] for part in ("tables", "optimizer", "constants"))
    assert eighth["collective_bytes_per_step"] == larger["collective_bytes_per_step"]
    assert quarter["collective_bytes_per_step"].keys() == {"data x model"}


@pytest.mark.parametrize("model", ["gru4rec", "narm", "bert4rec"])
def test_sizes_plan_what_data_of_these_sizes_would(model: str, worlds: Worlds) -> None:
    """The same shapes of state, constants and blocks, where as many events are given."""
    config = configuration.load(worlds.config(model, mesh={"data": 1}))
    real = of_data(config, None)
    events = len(getattr(real.feed.split[0], "items", real.feed.split[0]))
    made = of_sizes(config, {"items": real.items, "events": events}, None)
    states = (Training(config, work.model, work.feed).state_like() for work in (real, made))
    assert len({str(shapes(state)) for state in states}) == 1
    assert str(real.constants) == str(made.constants)
    assert str(jax.tree.structure(real.feed.like())) == str(jax.tree.structure(made.feed.like()))
    assert real.resident and made.resident and not real.feed.resident


def test_dimensions_are_lines_in_the_sizes() -> None:
    def build(sizes: dict[str, int]) -> Any:
        return np.zeros((sizes["users"] + 1, -(-(sizes["items"] + 1) // 32))), np.zeros(3)

    found = workload.lines(build, {"users": 7_000_000, "items": 100_000_000})
    assert [leaf.shape for leaf in found] == [(7_000_001, 100_000_000 // 32 + 1), (3,)]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_has_shapes_of_sizes(file: Path) -> None:
    """Without memory: a hundred million items take none."""
    config = configuration.load(file)
    users = {"users": 1000} if workload.find_task(config.model).READS == "rows" else {}
    work = of_sizes(config, {"items": 2_000_000} | users, None)
    table = max(spec.rows for spec in work.model.tables.values()) if work.model.tables else 2_000_000
    assert table >= 2_000_000 or not any(name in workload.ITEMS for name in config.data.fields or ())
    assert work.feed.shape.blocks >= 2 and work.assumed and not work.feed.resident


@pytest.mark.parametrize(("words", "message"), [
    (["--target", "cpu"], "no data set is there; prepare it, or give its size: --items N"),
    (["--target", "cpu", "--events", "9"], "--events: needs --items"),
    (["--target", "cpu", "--items", "9", "--users", "9"], "--users: gru4rec reads none"),
    (["--target", "cpu", "--items", "9", "--names", "9"], "--names: gru4rec reads none"),
    (["--target", "cpu", "--items", "2147483648"], "expected a whole number from 1 to 2147483647"),
    (["--target", "cpu", "--items", "2147483647"], "reads of a step do not fit int32 ids"),
    (["--target", "cpu:2", "--items", "99", "--mesh.data", "3"], "cpu:2 has 2; give at most that"),
    (["--target", "cpu:8", "--items", "99", "--training.batch_size", "12"], "the next that can is 16"),
    (["--target", "cpu:8", "--items", "99", "--mesh.model", "3"], "mesh.model: found 3; cpu:8 has 8; give a divisor"),
    (["--target", "cpu", "--items", "99", "--events", "9999999999"], "expected a whole number"),
    (["--target", "cpx"], "no such target"), ([], "--target: missing"),
])  # fmt: skip
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "configs" / "gru4rec_diginetica.yaml"
    assert command(compiling.main, ["--config", str(file), "--data.path", "/nowhere", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("jaxrec: error: ")


@pytest.mark.slow
def test_a_measured_peak_is_the_planned_one(plans: Any) -> None:
    """Of 40 MB: what Python itself allots counts more than it would of 1 GB."""
    (plan,) = plans("--config", ROOT / "configs" / "gru4rec_diginetica.yaml", "--items", "20000", "--target", "cpu",
                    "--measure", "--training.steps_per_block", "2", "--events", "20000")  # fmt: skip
    parts = ("parameters", "tables", "optimizer", "averages", "carried")
    assert plan["measured_state_bytes"] == sum(plan["memory"][part] for part in parts)
    assert abs(plan["measured_bytes"] - plan["peak_bytes"]) < 0.5 * plan["peak_bytes"]
    assert (plan["run_argument_bytes"], plan["run_temp_bytes"]) == (plan["argument_bytes"], plan["temp_bytes"])


@pytest.mark.slow
def test_virtual_devices_take_what_was_planned(plans: Any) -> None:
    (plan,) = plans("--config", ROOT / "configs" / "gru4rec_diginetica.yaml", "--items", "20000", "--target", "cpu:8",
                    "--measure", "--training.steps_per_block", "2")  # fmt: skip
    assert (plan["run_argument_bytes"], plan["run_temp_bytes"]) == (plan["argument_bytes"], plan["temp_bytes"])


def test_a_mask_of_positives_that_training_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "configs" / "towers.yaml")
    words = ["--config", file, "--data.path", "/nowhere", "--target", "cpu", "--items", "2000000", "--users", "9000000"]
    assert command(compiling.main, words) == 2 and "MiB, and data.device_memory allows" in capsys.readouterr().err


# ---- accelerators ----------------------------------------------------------------------------------------------------


def compiled_for(name: str, files: list[Path], overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    target = targets.parse(name)
    try:
        worker.check(target)
    except Exception as error:
        pytest.skip(str(error))
    sizes = {"items": 20_000, "users": 5_000}
    jobs = []
    for file in files:
        of_rows = workload.find_task(configuration.load(file).model).READS == "rows"
        jobs.append({"does": "plan", "file": str(file), "overrides": list(overrides),
                     "sizes": sizes if of_rows else {"items": sizes["items"]}})  # fmt: skip
    return list(worker.run(target, jobs))


def check_plan(plan: dict[str, Any]) -> None:
    """What holds of any accelerator's plan."""
    assert plan["fits"] and plan["host_transfers"] == 0 and plan["kernels_per_step"] > 5
    held = {part: plan["memory"][part] for part in plan["memory"] if part not in ("temporaries", "results", "data")}
    # The compiler counts a block once, and leaves out what it does not read.
    once = sum(held.values()) - held["blocks"] * 2 // 3
    assert once >= plan["argument_bytes"] > 0.5 * once
    assert plan["bound"]["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SIZES))
def test_a_configuration_of_each_model_compiles_for_a_tpu(model: str) -> None:
    (plan,) = compiled_for("tpu-v5e", [ROOT / "configs" / f"{OF_A_MODEL[model]}.yaml"])
    check_plan(plan)
    assert plan["model"] == model and plan["estimated_cycles"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SIZES))
def test_a_deterministic_program_of_each_model_has_no_float_atomics(model: str) -> None:
    file = ROOT / "configs" / f"{OF_A_MODEL[model]}.yaml"
    (plan,) = compiled_for("h100", [file], ["--training.deterministic", "true"])
    assert plan["float_atomics"] == 0


@pytest.mark.slow
@pytest.mark.skipif("JAXREC_MATRIX" not in os.environ, reason="JAXREC_MATRIX=1 asks for all of them")
@pytest.mark.parametrize("name", ["tpu-v5e", "tpu-v6e", "h100"])
def test_every_configuration_compiles(name: str) -> None:
    for plan in compiled_for(name, CONFIGS):
        check_plan(plan)
