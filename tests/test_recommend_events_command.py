"""``python -m jaxrec.recommend`` on a run of merrec: what it prints, and what it refuses."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from event_data import fake_encoded, fake_find_model, make_event_data, train_small
from helpers import call, fails, run_process

from jaxrec.tasks.cutoffs import default_k
from jaxrec.tasks.events import listings
from jaxrec.tasks.events.listings import SHOWN
from jaxrec.tasks.events.recommend import EventRecommender

Capsys = pytest.CaptureFixture[str]
VIEW = "item_view"


@pytest.fixture(scope="module")
def event_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the command; tests must not change it."""
    place = tmp_path_factory.mktemp("events")
    return train_small(make_event_data(place / "data"), place / "run")


@pytest.fixture(scope="module")
def market(event_run: Path) -> EventRecommender:
    return EventRecommender.load(event_run)


def copied(market: EventRecommender) -> EventRecommender:
    """Another one, that can be added to."""
    other = copy.copy(market)
    other.listings = copy.copy(market.listings)
    return other


@pytest.fixture
def quick(market: EventRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands need not load it."""
    monkeypatch.setattr(EventRecommender, "load", lambda run, text_model: copied(market))


@pytest.fixture
def text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text model of the vectors is there."""
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)


def inputs(market: EventRecommender, seed: int) -> list[dict[str, Any]]:
    """A kept sequence without its last event."""
    return [{"item": one.item, "event": one.event} for one in market.example(seed)[:-1]]


def live(market: EventRecommender, time: int) -> int:
    """How many listings are live."""
    table = market.listings.attributes
    return int(np.sum((table["listed"].to_numpy() <= time) & (time < table["sold"].to_numpy())))


def said(capsys: Capsys, *argv: object) -> tuple[str, str]:
    capsys.readouterr()
    assert call("recommend", *argv) == 0
    return capsys.readouterr()


def test_an_example_as_a_process(event_run: Path, market: EventRecommender) -> None:
    status, out, err = run_process("recommend", "--run", event_run, "--example", "--seed", 1, "--k", 4)
    assert (status, err) == (0, "")
    happened = market.example(1)
    lines = out.splitlines()
    assert lines[0] == "what happened:"
    for line, one in zip(lines[1:], happened[:-1], strict=False):
        assert all(
            part in line for part in (one.event, str(one.item), one.known["name"][:40], f"{one.known['price']:.2f}")
        )
        assert re.match(r"  2023-05-\d\d \d\d:\d\d:\d\d  ", line)
    after = lines[len(happened) :]
    assert re.match(r"what came next \((place \d below|not among the 4 below)\):", after[0])
    assert happened[-1].event in after[1] and str(happened[-1].item) in after[1]
    assert re.match("recommended of what is live at 2023-", after[2])
    events = [{"item": one.item, "event": one.event} for one in happened[:-1]]
    expected = market.recommend(events, k=4, at=happened[-2].time)
    assert after[3].split() == ["rank", "item", "score", "price", "name", "more"]
    assert [int(line.split()[1]) for line in after[4:]] == [one.item for one in expected]
    assert after[3].index("name") == after[4].index(expected[0].known["name"][:5])


@pytest.mark.usefixtures("quick")
def test_events_from_files_and_standard_input(
    event_run: Path, market: EventRecommender, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [{"item": -9, "event": VIEW}, *inputs(market, 2)]
    file = tmp_path / "events.json"
    file.write_text(json.dumps(events))
    words = ["--run", event_run, "--k", 3, "--where", "price", ">=", 10, "--exclude", 55, "--json"]
    out, err = said(capsys, *words, "--events", file)
    assert err.splitlines() == ["jaxrec: note: exclude: 1 unknown item ignored: 55",
                                "jaxrec: note: unknown item without a 'name' left out: -9"]  # fmt: skip
    found = json.loads(out)
    expected = market.recommend(events[1:], k=3, where="price >= 10")
    assert [row["item"] for row in found["recommendations"]] == [one.item for one in expected]
    assert found["recommendations"][0].keys() == {"item", "score", *SHOWN}
    assert (found["unknown"], found["popularity"], found["at"]) == ([-9], False, market.listings.time(None))
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text()))
    assert said(capsys, *words, "--events", "-")[0] == out
    file.write_text(json.dumps([events[0]]))
    popular = said(capsys, "--run", event_run, "--events", file)[0].splitlines()
    assert len(popular) == 22 and popular[1].startswith("rank ")


@pytest.mark.usefixtures("quick", "text_model")
def test_adding_and_comparing_by_command(
    event_run: Path, market: EventRecommender, tmp_path: Path, capsys: Capsys
) -> None:
    (tmp_path / "new.json").write_text(json.dumps([
        {"item": 10**9, "name": "手作り\n\x1b[31m" + "財布 " * 40, "price": 1234.5, "c0_name": "Women", "colour": "a"},
    ]))  # fmt: skip
    words = ["--run", event_run, "--add-items", tmp_path / "new.json", "--example", "--seed", 2]
    out, err = said(capsys, *words, "--where", "price > 1000 and price < 1300 and c0_name = 'Women'")
    assert "jaxrec: note: new items: columns that are not used: colour" in err
    line = next(line for line in out.splitlines() if "1000000000" in line)
    assert re.search(r"1,234\.50  手作り \[31m財布 財布 .*…  Women$", line), "one line without escapes"
    out, _ = said(capsys, *words[:4], "--similar-to", 10**9, "--k", 2)
    assert len(out.splitlines()) == 3 and out.split()[:3] == ["rank", "item", "similarity"]
    name = market.example(0)[0].known["name"]
    similar = said(capsys, "--run", event_run, "--similar-to", name, "--k", 2, "--json")[0]
    assert json.loads(similar)["recommendations"][0]["name"] == name


@pytest.mark.usefixtures("quick")
def test_what_the_command_refuses(event_run: Path, tmp_path: Path, capsys: Capsys) -> None:
    def events(text: str) -> Path:
        (tmp_path / "events.json").write_text(text)
        return tmp_path / "events.json"

    start = ("recommend", "--run", event_run)
    fails(capsys, *start, names=r"--events, --example, --similar-to: none is given; .*--events FILE.json with \[")
    fails(capsys, *start, "--events", "a", "--example", names="--events and --example; give one")
    fails(capsys, *start, "--events", tmp_path / "gone.json", names=r"gone.json: cannot be read \(No such file")
    fails(capsys, *start, "--events", tmp_path, names="cannot be read")
    fails(
        capsys,
        *start,
        "--events",
        events("[{"),
        names=r"events.json, line 1, column 3: not JSON \(.*\); expected a list",
    )
    fails(capsys, *start, "--events", events("[" * 100_000), names="events.json: not JSON")
    fails(
        capsys, *start, "--events", events('[{"item": 1, "item": 2}]'), names="events.json: 'item' stands twice in one"
    )
    fails(capsys, *start, "--events", events("{}"), names="events: found {}, expected a list")
    fails(capsys, *start, "--events", events("[]"), names="events: empty")
    fails(
        capsys, *start, "--events", events('[[{"item": 1, "event": "item_view"}]]'), names="entry 1: found .*an object"
    )
    (tmp_path / "events.json").write_bytes(b'["\xff"]')
    fails(capsys, *start, "--events", tmp_path / "events.json", names="events.json: not JSON")
    fails(capsys, *start, "--example", "--k", 0, names="k = 0: expected 1 to [34]..,")
    fails(capsys, *start, "--example", "--seed", -1, names="--seed -1: expected 0 or more")
    fails(capsys, *start, "--events", "a", "--seed", 1, names="--seed: belongs to")
    fails(
        capsys, *start, "--similar-to", 5, "--at", "2023-05-05", names=r"--at \(--date\): does not go with --similar-to"
    )
    fails(capsys, *start, "--example", "--at", "soon", names="--at soon: no time")
    fails(capsys, *start, "--example", "--where", "c9 = 1", names="where: no attribute 'c9'")
    fails(capsys, *start, "--items", 5, names=r"--items \(--purchased\): .* is a run of merrec, which does not know")
    values = yaml.safe_load((event_run / "config.yaml").read_text())
    (tmp_path / "dataset").mkdir()
    shutil.copyfile(event_run / "dataset" / "manifest.json", tmp_path / "dataset" / "manifest.json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"path": values["data"]["path"]}}))
    fails(
        capsys, "recommend", "--run", tmp_path, "--example", names="--example: .* is a run of gru4rec, which does not"
    )


def test_fewer_items_than_the_default_k(
    market: EventRecommender, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventRecommender, "load", lambda run, text_model: market)
    monkeypatch.setattr(default_k, "__defaults__", (10**6,))
    words = ["--run", market.run.path, "--example", "--seed", 1, "--json"]
    found = json.loads(said(capsys, *words)[0])
    assert len(found["recommendations"]) == live(market, found["at"])
