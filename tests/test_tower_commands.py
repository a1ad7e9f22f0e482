"""The commands on two towers, as a user meets them: one whole way through as processes, and what runs refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import call, fails, run_process
from tower_data import RULE, SYNTHETIC, write_towers

from jaxrec import run as runs
from jaxrec.data.codes import FieldCodes
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.retrieval.judge import Judge
from jaxrec.tasks.retrieval.recommend import TowerRecommender
from jaxrec.tasks.rules import Rule, RuleBook

Capsys = pytest.CaptureFixture[str]
CUSTOMERS, PRODUCTS = 150, 24
SAID = "category=cream +0.3 as skin_type=dry"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``data``, ``small.yaml`` and ``checkpoints/small``, trained by a process; tests must not change them."""
    root = tmp_path_factory.mktemp("towers")
    words = ["--customers", CUSTOMERS, "--products", PRODUCTS, "--purchases", 3, "--out", root / "data"]
    assert call("prepare", "personas-synthetic", *words) == 0
    config = write_towers(root / "small.yaml", root / "data", SYNTHETIC)
    status, out, err = run_process("train", "--config", config, cwd=root)
    assert status == 0 and re.fullmatch(r"jaxrec: note: no validation data, [^\n]*\n", err), err
    assert re.search(r"checkpoints/small: \d{3} positives of 150 users and 24 items, 32 a step.*; no validation", out)
    assert re.search(r"epoch 1: loss 0\.\d+, [\d,]+ events/s\n", out)
    return root


@pytest.fixture(scope="module")
def tower_run(place: Path) -> Path:
    return place / "checkpoints" / "small"


@pytest.fixture(scope="module")
def result(place: Path, tower_run: Path) -> dict[str, Any]:
    """Evaluated by a process."""
    words = ["--baselines", "popularity", "--groups", "persona", "gender", "--folds", 2]
    status, out, err = run_process("evaluate", "--run", tower_run, *words, cwd=place)
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads((tower_run / "eval-test.json").read_text())
    lines = out.splitlines()
    assert re.match(r"test: protocol in_sample, targets \d{3}, items 24, checkpoint latest, \d+\.\d s", lines[0])
    for title, values in (("this run", found), ("with the rules", found["with_rules"]), ("chance", found["chance"]),
                          ("oracle, without age", found["oracle"]["without age"])):  # fmt: skip
        shown = next(line for line in lines if line.startswith(title)).removeprefix(title).split()
        assert [one for one in shown if "." in one][:2] == [f"{values[f'hit_rate@{k}']:.4f}" for k in (3, 5)]
    assert (
        any(line.startswith("by gender") for line in lines) and lines[-1] == f"written to {tower_run / 'results.csv'}"
    )
    return found


@pytest.fixture
def copy(tower_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tower_run, tmp_path / "run"))


def edit(run: Path, section: str, **fields: Any) -> Path:
    """A run whose configuration says something else."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    values[section] |= fields
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    return run


def opened(run: Path) -> tuple[RowsDataset, Retrieval]:
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    return dataset, Retrieval.open(found.config, dataset)


# ---- as processes ----------------------------------------------------------------------------------------------------


def test_evaluating_as_a_process(result: dict[str, Any], tower_run: Path) -> None:
    n = result["targets"]
    assert result["items"] == PRODUCTS and result["checkpoint"] == "latest" and result["protocol"] == "in_sample"
    for values in (result, result["with_rules"]):
        for name, (low, high) in values["intervals"].items():
            assert 0 <= low <= values[name] <= high <= 1
    assert result["chance"]["hit_rate@3"] < result["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["oracle"]["without age"]["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["baselines"]["popularity"].keys() >= {"recall@3", "ndcg@5"}
    for name in ("persona", "gender"):
        parts = result["groups"][name]
        assert sum(part["targets"] for part in parts.values()) == n
        for metric in ("hit_rate@3", "category_hit@5"):
            mean = sum(part["targets"] * part[metric] for part in parts.values()) / n
            assert mean == pytest.approx(result[metric])
    assert set(result["groups"]["gender"]) == {"F", "M"}


def test_customers_by_the_line(result: dict[str, Any], tower_run: Path) -> None:
    """``results.csv`` says what the metrics are means of."""
    with open(tower_run / "results.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == result["targets"]
    assert list(lines[0]) == ["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit",
                              "top_products", "top_categories"]  # fmt: skip
    assert np.mean([int(line["hit"]) for line in lines]) == pytest.approx(result["hit_rate@3"])
    assert np.mean([int(line["category_hit"]) for line in lines]) == pytest.approx(result["category_hit@3"])
    personas = {line["persona"] for line in lines}
    assert personas == set(result["groups"]["persona"])
    has: dict[str, set[str]] = {}
    for line in lines:
        has.setdefault(line["user_id"], set()).add(line["gt_product"])
    for line in lines:
        top = line["top_products"].split("|")
        assert len(top) == 3 and (int(line["rank"]) <= 3) == bool(int(line["hit"]))
        assert not int(line["hit"]) or line["gt_product"] in top, "ties would stand before it"
        assert not (has[line["user_id"]] - {line["gt_product"]}) & set(top), "nothing that the customer has"


def test_by_review(result: dict[str, Any]) -> None:
    """Customers of whom no row was trained on: what is predictable of them is predicted."""
    found = result["by_review"]
    assert (found["folds"], found["targets"], found["profiles"]) == (2, result["targets"], "profiles as stated")
    low, _ = found["intervals"]["category_hit@3"]
    assert low > found["chance"]["category_hit@3"]
    assert found["intervals"]["hit_rate@5"][0] > found["chance"]["hit_rate@5"]
    assert found["chance"]["hit_rate@3"] == pytest.approx(3 / (PRODUCTS - 2), rel=0.05)


def test_recommending_as_a_process(tower_run: Path) -> None:
    words = ["--profile", "age=32", "gender=F", "skin_type=dry", "--k", 3, "--purchased", 1, 2]
    status, out, err = run_process("recommend", "--run", tower_run, *words)
    assert (status, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split()[:5] == ["rank", "item", "score", "name", "category"]
    rows = [line.split(maxsplit=3) for line in lines]
    assert [row[0] for row in rows] == ["1", "2", "3"] and not {row[1] for row in rows} & {"1", "2"}
    for row in rows:
        assert ("cream" in row[3]) == (f"[{SAID}]" in row[3])
    assert any("cream" in row[3] for row in rows)


def test_tables_have_headers(capsys: Capsys, tower_run: Path) -> None:
    for words, names in (
        (["--similar-to", 3], ["rank", "item", "similarity", "name", "category"]),
        (["--similar-customers", "--user", 3], ["rank", "customer", "similarity", "persona"]),
    ):
        capsys.readouterr()
        assert call("recommend", "--run", tower_run, *words, "--k", 2) == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert header.split()[: len(names)] == names and len(lines) == 2


# ---- rules -----------------------------------------------------------------------------------------------------------


def asked(capsys: Capsys, run: Path, *words: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert call("recommend", "--run", run, *words, "--json") == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["recommendations"]
    return rows


def test_rules_move_what_they_name(capsys: Capsys, tower_run: Path) -> None:
    """For those they name: by their amount, and the answer says so."""
    everything = ["--k", PRODUCTS]
    for skin, moved in (("dry", 0.3), ("oily", 0.0)):
        profile = ["--profile", f"skin_type={skin}", "age=30"]
        found = asked(capsys, tower_run, *profile, *everything)
        plain = {row["item"]: row["score"] for row in asked(capsys, tower_run, *profile, "--no-rules", *everything)}
        assert len(found) == len(plain) == PRODUCTS
        assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
        for row in found:
            by = moved * (row["category"] == "cream")
            assert row["score"] == pytest.approx(plain[row["item"]] + by, abs=1e-5)
            assert row["rules"] == [SAID] * bool(by)
    assert all(not row["rules"] for row in asked(capsys, tower_run, "--profile", "age=30"))


def test_rules_are_measured(result: dict[str, Any], tower_run: Path) -> None:
    """Against ranks by the scores with what the rule adds."""
    dataset, data = opened(tower_run)
    _, model, weights, _ = load(tower_run)
    evaluator = Judge(model, data, data.splits.test, runs.open_run(tower_run).config.evaluation)
    queries, items = (np.asarray(one) for one in evaluator.vectors(weights))
    schema, values = dataset.schema, {}
    for name, value in (("skin_type", "dry"), ("category", "cream")):
        listed = FieldCodes(runs.open_run(tower_run)).values(name)
        values[name] = listed.index(value) + 1
    dry = data.rows.columns[data.splits.test][:, schema.columns(("skin_type",))[0]] == values["skin_type"]
    cream = (
        np.asarray(dataset.array("items.npy"))[:, schema.side("item").columns(("category",))[0]] == values["category"]
    )
    scores = (1 + queries @ items.T) / 2 + 0.3 * np.outer(dry, cream)
    has = {(int(u), int(i)) for u, i in zip(evaluator.queries.users, evaluator.queries.items, strict=True)}
    ranks = []
    for row, (user, item) in enumerate(zip(evaluator.queries.users, evaluator.queries.items, strict=True)):
        others = [i for i in range(1, data.n_items) if i != item and (int(user), i) not in has]
        ranks.append(1 + sum(scores[row, i] >= scores[row, item] - 1e-6 for i in others))
    expected = ranking_metrics(np.array(ranks), [3, 5])
    assert {name: result["with_rules"][name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert result["with_rules"]["category_hit@3"] != result["category_hit@3"]


WRONG_RULES: list[tuple[dict[str, Any], str]] = [
    (
        {"when": {"skin_tpe": "dry"}},
        r"when: no field 'skin_tpe' of the user that has values \(did you mean 'skin_type'",
    ),
    ({"when": {"category": "cream"}}, "when: no field 'category' of the user that has values; there are customer, gen"),
    ({"when": {"age": 30}}, "when: no field 'age' of the user that has values"),
    (
        {"when": {"skin_type": "dyr"}},
        r"when: field 'skin_type': no value 'dyr' \(did you mean 'dry'\?\); there are com",
    ),
    (
        {"boost": {"skin_type": "dry"}},
        "boost: no field 'skin_type' of the item that has values; there are product, cat",
    ),
    ({"boost": {"price": 3}}, "boost: no field 'price' of the item that has values"),
    ({"boost": {"category": "creams"}}, r"boost: field 'category': no value 'creams' \(did you mean 'cream'\?\)"),
    ({"boost": {"product": 9999}}, "boost: field 'product': no value '9999'.*; there are 1, .*, …$"),
]


@pytest.mark.parametrize(("change", "names"), WRONG_RULES)
def test_rules_that_name_what_there_is_not(tower_run: Path, change: dict[str, Any], names: str) -> None:
    run = runs.open_run(tower_run)
    with pytest.raises(UserError, match=rf"^recommendation\.rules: {names}"):
        RuleBook([Rule(**(RULE | change))], Schema.from_manifest(run.manifest), FieldCodes(run).strict)


def test_a_run_with_such_a_rule(capsys: Capsys, copy: Path) -> None:
    edit(copy, "recommendation", rules=[RULE | WRONG_RULES[3][0]])
    for words in (["recommend", "--run", copy, "--profile", "age=3"], ["evaluate", "--run", copy, "--folds", 0]):
        fails(capsys, *words, names=rf"recommendation\.rules: {WRONG_RULES[3][1]}")


# ---- recommend -------------------------------------------------------------------------------------------------------

DRY: list[object] = ["--profile", "skin_type=dry"]
RECOMMEND: list[tuple[list[object], str]] = [
    ([], "--user, --profile: nothing is given to recommend for"),
    (["--profile", "skin=dry"], r"field 'skin': not one of a profile.*; those are age, gender, skin_type, skin_c"),
    (["--profile", "category=cream"], "field 'category': not one of a profile"),
    (["--profile", "customer=3"], "field 'customer': not one of a profile"),
    (["--profile", "age=old"], "field 'age': found 'old', expected a number"),
    (["--profile", "age=1e39"], "field 'age': found 1e39, expected a number such as those of the data"),
    (["--profile", "age=inf"], "field 'age': found 'inf', expected a number"),
    (["--profile", "gender"], "--profile gender: expected FIELD=VALUE, such as gender=F"),
    (["--similar-to", "soap"], "--similar-to soap: no such item"),
    (["--similar-to", 1, *DRY], "--profile: does not go with --similar-to; leave one of them out"),
    ([*DRY, "--similar-customers", "--purchased", 1], r"--items \(--purchased\): does not go with --similar-customers"),
    ([*DRY, "--purchased", *range(1, PRODUCTS + 1)], "--purchased, --exclude: they name all 24 items; nothing is left"),
    ([*DRY, "--k", 0], "k = 0: expected 1 or more"),
    ([*DRY, "--similar-customers", "--k", 0], "k = 0: expected 1 or more"),
    ([*DRY, "--candidates", 3], "--candidates: .* is a run of two_tower"),
    ([*DRY, "--date", "2003-02-28"], r"--at \(--date\): .* is a run of two_tower"),
    ([*DRY, "--where", "category=cream"], "--where: .* is a run of two_tower"),
    ([*DRY, "--explain", 3], "--explain: .* is a run of two_tower"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "names"), RECOMMEND, ids=[" ".join(map(str, words))[:40] for words, _ in RECOMMEND])
def test_what_cannot_be_recommended(capsys: Capsys, tower_run: Path, words: list[object], names: str) -> None:
    fails(capsys, "recommend", "--run", tower_run, *words, names=names)


def test_products_and_customers_like_one(capsys: Capsys, tower_run: Path) -> None:
    near = asked(capsys, tower_run, "--similar-to", 5, "--k", 4)
    assert len(near) == 4 and 5 not in {row["item"] for row in near} and near[0]["score"] <= 1 + 1e-6
    people = asked(capsys, tower_run, *DRY, "--similar-customers", "--k", 3)
    assert len(people) == 3 and all(row.keys() >= {"item", "score", "persona", "skin_type"} for row in people)
    shop = TowerRecommender.load(tower_run)
    assert [row["item"] for row in near] == [one.id for one in shop.similar_items("5", 4)]


def test_notes_about_what_is_unknown(capsys: Capsys, tower_run: Path) -> None:
    """As in all kinds of runs: it counts as unknown, or is left out of account."""
    words = ["--user", "nobody", "--profile", "skin_type=dyr", "--purchased", 1, "soap", "--exclude", "gel", "2", "oil"]
    capsys.readouterr()
    assert call("recommend", "--run", tower_run, *words, "--k", 99, "--json") == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "jaxrec: note: user nobody is none of the 150 customers and counts as somebody new",
        "jaxrec: note: field 'skin_type': training has not seen 'dyr' (did you mean 'dry'?); it counts as unknown",
        "jaxrec: note: purchased: 1 unknown item ignored: soap",
        "jaxrec: note: exclude: 2 unknown items ignored: gel, oil",
    ]
    found = json.loads(out)["recommendations"]
    assert found == asked(capsys, tower_run, "--profile", "skin_type=", "--exclude", 1, 2, "--k", 99)
    assert len(found) == PRODUCTS - 2


NEW: list[tuple[str, str, str]] = [
    ("a.json", '[{"category": "cream"}]', "new item 1: no 'product', which identifies it; give one"),
    ("a.json", '[{"product": 901}, {"product": ""}]', "new item 2: no 'product'"),
    ("a.json", '[{"product": 901}, {"product": "901"}]', "new item 2: '901' is there already; leave it out, or"),
    ("a.json", '[{"product": 3}]', "new item 1: '3' is there already"),
    ("a.json", '[{"product": 901, "price": "dear"}]', "new item 1: field 'price': found 'dear', expected a number"),
    ("a.json", '[{"product": 901, "price": [1]}]', r"new item 1: field 'price': found \[1\], expected a single value"),
    ("a.json", '{"product": 901}', r"a\.json: expected a list of objects, such as"),
    ("a.json", '[901]', r"a\.json: expected a list of objects"),
    ("a.json", '[{"product"', r"a\.json, line 1, column 12: not JSON \(.*\)"),
    ("a.json", "[" * 100_000, r"a\.json: not JSON that can be read \(.*\)"),
    ("a.json", '[{"product": 901, "price": 1, "price": 2}]', "'price' stands twice in one object; leave one out"),
    ("a.json", '[{"product": true}]', "new item 1: product: found True, expected an id, a whole number or text"),
    ("a.json", '[{"product": 901.5}]', "new item 1: product: found 901.5, expected an id"),
    ("a.json", '[{"product": NaN}]', "new item 1: no 'product'"),
    ("a.json", '[{"product": [1]}]', r"new item 1: product: found \[1\], expected an id"),
    ("a.json", '[{"product": 901, "category": ["x"]}]', r"new item 1: field 'category': found \['x'\], expected a"),
    ("a.csv", 'product,price,price\n901,2,3\n', r"a\.csv: column 'price' is there twice; rename or remove one"),
    ("a.csv", 'product\n901\n901.0\n', "new item 2: '901' is there already"),
    ("a.csv", 'product\n3.0\n', "new item 1: '3' is there already"),
    ("a.parquet", "PAR", r"a\.parquet: cannot be read \(.*\)"),
    ("a.csv", 'product,price\n1,2,3\n', r"a\.csv: cannot be read \(.*\)"),
    ("a.txt", "901", r"a\.txt: found '\.txt'; end it in \.parquet, \.csv or \.json"),
    ("a.csv", "", r"a\.csv: cannot be read \(.*\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "names"), NEW, ids=[f"{name} {text[:30]}" for name, text, _ in NEW])
def test_new_products_that_are_none(
    capsys: Capsys, tower_run: Path, tmp_path: Path, name: str, text: str, names: str
) -> None:
    (tmp_path / name).write_text(text)
    fails(capsys, "recommend", "--run", tower_run, *DRY, "--add-items", tmp_path / name, names=names)


def test_new_products(capsys: Capsys, tower_run: Path, tmp_path: Path) -> None:
    fails(capsys, "recommend", "--run", tower_run, *DRY, "--add-items", tmp_path / "no.json",
          names=r"no\.json: no such file")  # fmt: skip
    file = tmp_path / "new.json"
    file.write_text(json.dumps([{"product": 901, "category": "cream", "price": 20, "name": "새 세럼"},
                                {"product": "x-2", "category": "soap"}], ensure_ascii=False))  # fmt: skip
    capsys.readouterr()
    assert call("recommend", "--run", tower_run, *DRY, "--add-items", file, "--k", 99, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "jaxrec: note: field 'category': training has not seen 'soap'; it counts as unknown"
    ]
    rows = {row["item"]: row for row in json.loads(captured.out)["recommendations"]}
    assert len(rows) == PRODUCTS + 2 and rows[901]["name"] == "새 세럼" and rows[901]["rules"] == [SAID]
    assert rows["x-2"]["rules"] == []


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _strange(file: Path) -> None:
    file.write_bytes(b"what is this?")


def _old(file: Path) -> None:
    with np.load(file) as kept:
        values = dict(kept)
    np.savez(file, vectors=-values["vectors"], checkpoint="latest/1")


def _other(file: Path) -> None:
    np.savez(file, vectors=np.zeros(3))


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _empty, _strange, _old, _other])
def test_vectors_of_products_that_are_of_no_use(
    capsys: Capsys, tower_run: Path, copy: Path, damage: Callable[[Path], object]
) -> None:
    """Are worked out anew."""
    damage(copy / "item_vectors.npz")
    expected = asked(capsys, tower_run, *DRY, "--k", 5)
    found = asked(capsys, copy, *DRY, "--k", 5)
    assert [row.pop("score") for row in found] == pytest.approx([row.pop("score") for row in expected], abs=1e-6)
    assert found == expected


# ---- evaluate --------------------------------------------------------------------------------------------------------

EVALUATE: list[tuple[list[object], str]] = [
    (["--groups", "prsona"], r"--groups prsona: not known of the users \(did you mean 'persona'\?\); there are perso"),
    (["--folds", 1], "--folds 1: expected a whole number from 2, or 0 for none"),
    (["--folds", 151], "--folds 151: expected 2 to 150, the number of customers, or 0 for none"),
    (["--k", 25], "--k 25: larger than the catalogue of 24 items; choose a smaller one"),
    (["--split", "validation"], "the validation split has no positive row; choose another --split"),
    (["--protocol", "cold_users"], "--protocol: a run brings its own"),
    (["--no-coverage"], "--no-coverage: .* is a run of two_tower"),
    (["--baselines", "popularty"], r"--baselines popularty: none that ranks items for users \(did you mean 'pop"),
    (["--data", "/nowhere"], "/nowhere: no data set here; if it has moved since training"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "names"), EVALUATE, ids=[" ".join(map(str, words)) for words, _ in EVALUATE])
def test_what_cannot_be_evaluated(capsys: Capsys, copy: Path, words: list[object], names: str) -> None:
    for file in [*copy.glob("eval-*"), *copy.glob("results.csv")]:
        file.unlink()
    fails(capsys, "evaluate", "--run", copy, *words, names=names)
    assert not list(copy.glob("eval-*")) and not list(copy.glob("results.csv"))


def test_folds_are_for_what_is_measured_in_sample(capsys: Capsys, copy: Path) -> None:
    edit(copy, "data", protocol="leave_one_random")
    fails(capsys, "evaluate", "--run", copy, "--folds", 3, names="--folds: cross-validates runs of protocol in_sample")


def test_a_category_that_is_no_field(capsys: Capsys, copy: Path) -> None:
    for name in ("catgory", "price", "skin_type"):
        edit(copy, "evaluation", category=name)
        names = (
            rf"evaluation\.category: no categorical field '{name}' of the item.*; there are product, category, brand"
        )
        fails(capsys, "evaluate", "--run", copy, names=names)
