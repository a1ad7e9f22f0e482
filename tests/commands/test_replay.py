"""Replay: a catalogue that drifts, so that only who is trained again knows it; what a day's targets are; resuming."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import BEGIN, call, fails, sessions, spawn

from jaxrec import Query, Recommender
from jaxrec.config import Config
from jaxrec.data.clean.protocol import Cleaning
from jaxrec.data.items import Items
from jaxrec.replay import policies
from jaxrec.replay.days import DayLog, date_of
from jaxrec.run import open_run
from jaxrec.training.checkpoint import Checkpoints

Capsys = pytest.CaptureFixture[str]
DAYS, SHIFT, WIDTH = 7, 5, 24
CONFIG = """\
model: {name: gru4rec, layers: [16]}
loss: {n_sample: 16}
optimizer: {name: adagrad, learning_rate: 0.2}
training: {epochs: 4, average_epochs: 2, batch_size: 8, steps_per_block: 20}
"""


def drifting(days: int = DAYS, each: int = 60) -> list[tuple[int, int, int]]:
    """Session, item and second of walks around a ring of ids; each day the ring moves on by a few."""
    draw, rows = np.random.default_rng(1), []
    for session in range(days * each):
        day, start = session // each, int(draw.integers(WIDTH))
        for step in range(int(draw.integers(3, 7))):
            second = BEGIN + day * 86_400 + session % each * 60 + step
            rows.append((session, day * SHIFT + (start + step) % WIDTH, second))
    return rows


def write_log(file: Path, rows: list[tuple[int, int, int]]) -> Path:
    file.write_text("\n".join(["session,item,time", *(",".join(map(str, row)) for row in rows)]) + "\n")
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and a configuration."""
    folder = tmp_path_factory.mktemp("replay")
    write_log(folder / "clicks.csv", drifting())
    (folder / "small.yaml").write_text(CONFIG)
    return folder


def words(place: Path, run: str | Path, *more: object, days: int = 3) -> list[object]:
    return ["--config", place / "small.yaml", "--raw", place / "clicks.csv", "--days", days, "--run", place / run,
            "--k", 5, "--min-item-support", 2, "--continue-days", 2, "--continue-epochs", 3, "--withhold", 0.5,
            *more]  # fmt: skip


@pytest.fixture(scope="module")
def replayed(place: Path) -> Path:
    """A replay that was killed within a training of its second day, and went on."""
    train, (run, interrupted) = policies.train, (place / "replayed", list[Path]())

    def killed(config: Config, path: Path, **more: Any) -> None:
        if path.name.startswith("continue") and not interrupted:
            interrupted.append(path)
            train(config, path, over=lambda: True, **more)
        train(config, path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "train", killed)
        with pytest.raises(SystemExit):
            call("replay", *words(place, "replayed"))
    assert Checkpoints(interrupted[0]).last("latest") > 0 and not (run / "replay.json").exists()
    assert call("replay", *words(place, "replayed")) == 0
    return run


def figures(run: Path) -> dict[str, Any]:
    """``replay.json`` without seconds, which differ from run to run."""
    told = json.loads((run / "replay.json").read_text())
    return {name: {title: {policy: {metric: value for metric, value in one.items() if "@" in metric}
                           for policy, one in row.items()} for title, row in told[name].items()}
            for name in ("by_day", "pooled")}  # fmt: skip


def test_who_is_trained_again_knows_the_new_items(replayed: Path) -> None:
    told, found = json.loads((replayed / "replay.json").read_text()), figures(replayed)
    first, *later = found["by_day"].values()
    assert first["frozen"] == first["continue"] == first["scratch"] and first["frozen"]["recall@5"] > 0.9
    for number, day in enumerate(later, 1):
        assert day["frozen"]["recall@5"] < 1.0 - 0.15 * number
        assert min(day[policy]["recall@5"] for policy in ("continue", "scratch")) > 0.9
    pooled = found["pooled"]["all days"]
    for policy, metrics in pooled.items():
        sizes = [day["targets"] for day in told["days"].values()]
        values = [day[policy]["recall@5"] for day in found["by_day"].values()]
        assert metrics["recall@5"] == pytest.approx(np.average(values, weights=sizes))
    assert set(told["continue_to_scratch"]) == {"recall@5", "mrr@5", "seconds_train"}
    page = (replayed / "replay.md").read_text()
    assert all(
        text in page
        for text in ("| after the first day |", "trained anew, 4 epochs", "trains 3 epochs on the last 2 days")
    )
    assert (replayed / "replay.png").stat().st_size > 5_000
    kept = ["base", "partial", *(f"{policy}-{[*told['days']][-1]}" for policy in ("continue", "rejoined", "scratch"))]
    assert sorted(run.name for run in (replayed / "runs").iterdir()) == sorted(kept)


def test_a_day_is_every_target_of_known_items_and_its_data_the_days_before(replayed: Path, place: Path) -> None:
    """Against the log, read a second time in plain Python."""
    told, rows = json.loads((replayed / "replay.json").read_text()), drifting()
    by_session: dict[int, list[int]] = {}
    for session, item, _ in rows:
        by_session.setdefault(session, []).append(item)
    for number, day in enumerate(told["days"].values(), DAYS - 3):
        before = [items for session, items in by_session.items() if session // 60 < number]
        support = np.bincount([item for items in before for item in items], minlength=100)
        known = {int(item) for item in np.flatnonzero(support >= 2)}
        tested = [items for session, items in by_session.items() if session // 60 == number]
        targets = sum(max(0, sum(item in known for item in items) - 1) for items in tested)
        assert (day["targets"], day["items"]) == (targets, len(known))
        assert day["targets"] + day["left_out"] == sum(len(items) - 1 for items in tested)
        assert day["trained_on"]["sessions"] == len(before)
    date = [*told["days"]][-1]
    last = replayed / "data" / date
    assert sorted(sessions(last)) == sorted(before)
    base, latest = (open_run(replayed / "runs" / name) for name in ("base", f"continue-{date}"))
    ids = [run.vocabulary().ids.values() for run in (base, latest)]
    assert ids[1][: len(ids[0])] == ids[0] and len(ids[1]) > len(ids[0])
    training = latest.config.training
    assert (latest.config.data.last_days, training.epochs, training.average_epochs) == (2, 3, 2)


def test_ranks_are_the_places_in_recommendations(replayed: Path) -> None:
    """Of all items, that of the session included; what the frozen run does not know it misses."""
    log = DayLog(replayed / "log.parquet", Cleaning(test_days=0), {"threads": 1})
    day = log.day(log.days()[-1])
    date = date_of(log.days()[-1])
    last = Items.read(replayed / "data" / date / "items.parquet").ids
    targets = day.encode(last).targets
    old = open_run(replayed / "runs" / "partial").vocabulary().ids.values()
    runs = {"frozen": "base", "partial": "partial", "rejoined-old": f"rejoined-{date}"}
    for policy in ("frozen", "scratch", "partial", "rejoined", "rejoined-old"):
        run, only = runs.get(policy, f"{policy}-{date}"), old if policy == "rejoined-old" else None
        ranks = np.load(replayed / "ranks" / f"{policy}-{date}.npy")
        known = {*open_run(replayed / "runs" / run).vocabulary().ids.values()}
        queries, asked = [], []
        for target in targets:
            begin = int(np.searchsorted(day.session, day.session[target]))
            before = [item for item in day.items[begin:target] if item in known]
            if day.items[target] in known and before:
                queries.append(Query(before))
                asked.append(target)
        recommender = Recommender.load(replayed / "runs" / run)
        answers = recommender.recommend(queries, k=len(known), seen=True, only=only)
        places = dict.fromkeys(targets.tolist(), np.inf)
        for target, answer in zip(asked, answers, strict=True):
            if day.items[target] in (only or known):
                places[int(target)] = 1 + [item.id for item in answer.items].index(day.items[target])
        expected = np.array([places[target] for target in targets.tolist()])
        chosen = slice(None) if only is None else np.isin([day.items[target] for target in targets], only)
        np.testing.assert_array_equal(ranks[chosen], expected[chosen])
        assert np.isinf(ranks).any() == (policy in ("frozen", "partial"))


def test_old_items_are_compared_on_what_the_partial_run_can_answer(replayed: Path) -> None:
    told = json.loads((replayed / "replay.json").read_text())
    (_, *later), found = told["days"], told["withheld"]
    rows: dict[str, list[float]] = {title: [] for title in found["rows"]}
    for date in later:
        ranks = {name: np.load(replayed / "ranks" / f"{name}-{date}.npy")
                 for name in ("partial", "rejoined-old", "rejoined", "continue")}  # fmt: skip
        for title, one in zip(rows, ranks.values(), strict=True):
            rows[title] += one[ranks["partial"] < np.inf].tolist()
    assert found["targets"] == len(rows["partial, among old items"])
    recall = {title: float(np.mean(np.array(ranks) <= 5)) for title, ranks in rows.items()}
    assert {title: row["recall@5"] for title, row in found["rows"].items()} == pytest.approx(recall)
    partial, alone, rejoined, continued = recall.values()
    assert (found["fall_among_old"], found["less_than_continue"]) == pytest.approx(
        (partial - alone, continued - rejoined)
    )
    vocabularies = [open_run(replayed / "runs" / name).vocabulary() for name in ("base", "partial")]
    assert len(vocabularies[1]) == len(vocabularies[0]) // 2
    assert rejoined > 0.8 and {*vocabularies[1].ids.values()} < {*vocabularies[0].ids.values()}


@pytest.mark.slow
def test_a_killed_replay_gives_the_table_of_one_that_was_not(replayed: Path, place: Path) -> None:
    process, state = spawn("replay", *words(place, "killed")), place / "killed" / "state.json"
    while process.poll() is None and not (state.exists() and '"continue"' in state.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert call("replay", *words(place, "killed")) == call("replay", *words(place, "whole")) == 0
    assert figures(place / "killed") == figures(place / "whole") == figures(replayed)


def test_what_is_refused(replayed: Path, place: Path, tmp_path: Path, capsys: Capsys) -> None:
    def refused(names: str, *more: object, run: str | Path = "replayed") -> None:
        fails(capsys, "replay", *words(place, run, *more), names=names)

    before = sorted(file.name for file in replayed.rglob("*"))
    refused(r"holds another replay \(options.continue_rate: was None, now 0.1\)", "--continue-rate", 0.1)
    refused(r"holds another replay \(config.training.seed: was 42, now 1\)", "--training.seed", 1)
    refused(
        "--source: found yoochose .did you mean 'yoochoose'.*; choose diginetica", "--source", "yoochose", run="new"
    )
    refused("--data.path: given twice", "--data.path", "x", run="new")
    assert sorted(file.name for file in replayed.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    refused(
        "mine: holds notes.txt, which is not of a replay; choose another --run", "--overwrite", run=tmp_path / "mine"
    )
    fails(capsys, "replay", *words(place, "long", days=7), names="the log has 7 days with a target, and .*; take fewer")
    for names, config, more in (
        ("autoint is no model of sessions, which replay is for; choose another", "model: {name: autoint}", []),
        ("--withhold: needs the policy continue to compare with; add it", CONFIG, ["--policies", "frozen", "scratch"]),
        ("no column 'sku'", CONFIG, ["--item", "sku"]),
        ("--split leave_one_out has no days; replay needs", CONFIG, ["--split", "leave_one_out"]),
        ("its times are counters; replay needs", CONFIG, ["--time-unit", "order"]),
    ):
        (file := tmp_path / "config.yaml").write_text(config)
        some = words(place, "new", *more)
        fails(capsys, "replay", *["--config", file, *some[2:]], names=names)
    assert not any((place / name).exists() for name in ("new", "long"))
