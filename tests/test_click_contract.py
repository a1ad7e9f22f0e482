"""What every click model must do, whatever it is. A new one joins with a line in ``MODELS``."""

from __future__ import annotations

import datetime
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers import assert_same_arrays, call, same_metrics, steps_of

from jaxrec import run as runs
from jaxrec.data.codes import UnknownValues
from jaxrec.data.dataset import open_dataset
from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.rows import Rows, RowsDataset
from jaxrec.data.splits import split_rows
from jaxrec.data.store import staging, write_manifest
from jaxrec.errors import UserError
from jaxrec.models.base import make_click_model
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks.judge import Judge, known_rows, selected_rows
from jaxrec.tasks.clicks.recommend import ClickRecommender
from jaxrec.training.block import new_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule

Sections = dict[str, dict[str, Any]]

MODELS: dict[str, dict[str, Any]] = {
    "autoint": {"blocks": 2, "heads": 2},
    "deep-first-order": {"blocks": 0, "deep": [32, 16], "first_order": "logistic"},
    "autoint-plus": {"blocks": 1, "heads": 2, "deep": [16], "norm": "layer"},
    "rows": {"blocks": 1, "heads": 1, "deep": [16], "table": "rows"},
}

N, USERS, ITEMS = 2400, 28, 24
DAY, START = 86_400, 1_700_000_000  # November 2023
TEST, VALIDATION = 0.2, 0.25  # of N, and of the rest: as many rows, so that one program evaluates both
RARE_USER, RARE_DEVICE = 999, "watch"  # of one test row each, unseen in training


def group(user: Any) -> Any:
    return user // 7 % 2


def kind(item: Any) -> Any:
    return item // 6 % 2


def sku(item: int) -> str:
    return f"sku-{item:03}"


def raw_rows(learnable: bool) -> RawRows:
    """A label is whether the user's group is the item's kind: neither says anything alone. Or the toss of a coin.

    Users are 100 to 127, items sku-000 to sku-023. The last user has no training row, nor has the device ``watch``.
    """
    random = np.random.default_rng(3)
    user, item = random.integers(0, USERS, N), random.integers(0, ITEMS, N)
    block, place = item // 3 * 3, item % 3
    item = np.where(place == user % 3, block + (place + 1) % 3, item)  # a third of the items a user never sees
    device = random.integers(0, 2, N)
    tags = [[["new"], ["new", "red"], [], ["red", "big", "old"]][i % 4] for i in range(ITEMS)]
    labels = group(user) == kind(item) if learnable else random.random(N) < 0.5
    held = np.random.RandomState(42).permutation(N)[:2]  # the first rows of the test split
    user_ids = np.append(100 + np.arange(USERS), RARE_USER)
    by_user, devices = user.copy(), np.array(["phone", "desk", RARE_DEVICE])
    by_user[held[0]], device[held[1]] = USERS, 2
    people = np.append(np.arange(USERS), 0)
    times = START + np.sort(random.integers(0, 60 * DAY, N))
    months = np.array([datetime.datetime.fromtimestamp(int(t), datetime.UTC).month for t in times])
    fields = [
        RawField("user", "categorical", "user", pa.array(user_ids), by_user),
        RawField("item", "categorical", "item", pa.array([sku(i) for i in range(ITEMS)]), item),
        RawField("age", "numerical", "user", pa.array(20.0 + people), by_user),
        RawField("group", "categorical", "user", pa.array([f"g{group(u)}" for u in people]), by_user),
        RawField("kind", "categorical", "item", pa.array([f"k{kind(i)}" for i in range(ITEMS)]), item),
        RawField("tags", "bag", "item", pa.array(tags, pa.list_(pa.string())), item),
        RawField("price", "numerical", "item", pa.array(1.0 + np.arange(ITEMS)), item),
        RawField("device", "categorical", "context", pa.array(devices[device])),
        RawField("month", "categorical", "context", pa.array(months)),
    ]
    titles = pa.table({"item": [sku(i) for i in range(ITEMS)], "title": [f"Thing {i}" for i in range(ITEMS)]})
    return RawRows(
        fields, labels.astype(np.float64), times, 1.0, 0.0, 1.0, "user", "item", {"item": titles}, {"month": "month"}
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    for name in ("xor", "noise"):
        with staging(root / name) as stage:
            result = write_rows(raw_rows(name == "xor"), stage.dataset)
            write_manifest(stage.dataset, result.pop("files"), kind="rows", source="made up", options={}, **result)
    return {name: root / name for name in ("xor", "noise")}


def config_for(file: Path, source: Path, model: dict[str, Any], epochs: int, **more: dict[str, Any]) -> Path:
    """All that is random, in blocks of a third of an epoch; whatever the epochs, one program trains them."""
    values: Sections = {
        "data": {
            "path": str(source), "test_fraction": TEST, "validation_fraction": VALIDATION, "unknown_rate": 0.02,
        },
        "model": {
            "name": "autoint", "embedding_dim": 8, "attention_dim": 8, "dropout_embedding": 0.02,
            "dropout_attention": 0.02, "dropout_hidden": 0.02, **model,
        },
        "loss": {"name": "binary"},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {
            "epochs": epochs, "batch_size": 64, "steps_per_block": 8, "metric": "auc", "log_every": 1,
        },
        "evaluation": {"k": [3]},
    }  # fmt: skip
    for section, fields in more.items():
        values[section] = values.get(section, {}) | fields
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def learned(model: dict[str, Any], sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the predictable source; tests must not change it."""
    place = tmp_path_factory.mktemp("learned")
    config = config_for(place / "c.yaml", sources["xor"], model, epochs=4)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def recommender(learned: Path) -> ClickRecommender:
    return ClickRecommender.load(learned)


@pytest.fixture(scope="module")
def noisy(model: dict[str, Any], sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the random source that saves after every block; tests must not change it."""
    place = tmp_path_factory.mktemp("noisy")
    config = config_for(place / "c.yaml", sources["noise"], model, epochs=2, training={"save_every": 0})
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def one(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one of the models, for what does not depend on which."""
    place = tmp_path_factory.mktemp("one")
    config = config_for(place / "c.yaml", sources["xor"], MODELS["autoint-plus"], epochs=2)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def of_one(one: Path) -> ClickRecommender:
    return ClickRecommender.load(one)


def evaluated(run: Path, *words: object) -> dict[str, Any]:
    assert call("evaluate", "--run", run, *words) == 0
    return json.loads((run / "eval-test.json").read_text())


def load_state(run: Path) -> tuple[Any, dict[str, Any]]:
    """The latest training state of a run and its position."""
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    made = make_click_model(opened.config, opened.schema)
    found = Checkpoints(run).restore(jax.eval_shape(lambda: new_state(opened.config, made, optimizer)))
    assert found is not None
    return found


def opened(source: Path) -> tuple[RowsDataset, Rows, np.ndarray]:
    """A data set, its rows, and those of the test split."""
    dataset = open_dataset(source)
    assert isinstance(dataset, RowsDataset)
    rows = dataset.rows()
    return dataset, rows, split_rows(rows, dataset.schema, "rows", 42, TEST, VALIDATION).test


def evaluator_of(run: Path, split: str) -> tuple[Judge, dict[str, Any], str]:
    """Evaluates a split as its rows are read; with the weights that are loaded, and which they are."""
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    rows, splits = selected_rows(found.config, dataset)
    known = known_rows(found.schema, rows.take(getattr(splits, split)), found.value_counts())
    _, made, parameters, which = load(found)
    return Judge(made, known), parameters, which


def logits_of_test(run: Path) -> tuple[np.ndarray, Rows]:
    """The logits of the test split as evaluation has them, and its rows as they are read."""
    evaluator, parameters, _ = evaluator_of(run, "test")
    return evaluator(parameters, [3]).arrays["logit"], evaluator.rows


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.float64(logits)))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ours, theirs = scores[labels == 1, None], scores[None, labels == 0]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_a_predictable_source_is_learned(learned: Path) -> None:
    assert evaluated(learned)["auc"] > 0.95


def test_the_predictable_source_is_beyond_a_sum_over_fields(sources: dict[str, Path]) -> None:
    """Least squares on all values of all fields stays at chance: what models learn of it is of pairs of fields."""
    dataset, rows, test = opened(sources["xor"])
    sizes = np.repeat([field.size for field in dataset.schema.coded], [f.width for f in dataset.schema.coded])
    onehot = [np.eye(size + 1)[rows.columns[:, column]] for column, size in enumerate(sizes)]  # -1: the last one
    inputs = np.concatenate([*onehot, rows.numbers], axis=1)
    train = np.setdiff1d(np.arange(len(rows)), test)
    ridge = inputs[train].T @ inputs[train] + np.eye(inputs.shape[1])
    weights = np.linalg.solve(ridge, inputs[train].T @ (rows.labels[train] - rows.labels[train].mean()))
    assert abs(auc(inputs[test] @ weights, rows.labels[test]) - 0.5) < 0.1


def test_a_random_source_stays_at_chance(noisy: Path) -> None:
    result = evaluated(noisy)
    positive, negative = result["positive"] * result["rows"], (1 - result["positive"]) * result["rows"]
    error = np.sqrt((positive + negative + 1) / (12 * positive * negative))
    assert abs(result["auc"] - 0.5) < 3 * error
    assert result["log_loss"] > 0.68  # log 2 is the least that can be expected


# ---- saved, loaded, resumed ------------------------------------------------------------------------------------------


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The best checkpoint gives the metrics that validation wrote of it; the latest, those in memory at the end."""
    evaluator, parameters, which = evaluator_of(learned, "validation")
    written = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    best = max(written, key=lambda line: line["auc"])
    assert which == "best" and evaluator(parameters, [3]).metrics.items() <= best.items()
    state, _ = load_state(learned)
    assert evaluator(state.weights(), [3]).metrics.items() <= written[-1].items()


def test_resuming_is_bit_identical(noisy: Path, tmp_path: Path) -> None:
    """From a checkpoint within an epoch, with dropout and unknown values."""
    reference, resumed = noisy, tmp_path / "resumed"
    inner, final = steps_of(reference)
    shutil.copytree(reference, resumed)
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert call("train", "--config", resumed / "config.yaml", "--run", resumed, "--resume") == 0
    (state, position), (expected, expected_position) = load_state(resumed), load_state(reference)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]
    assert position == expected_position
    assert same_metrics(resumed) == same_metrics(reference)
    assert steps_of(resumed, "best") == steps_of(reference, "best")


def test_a_streamed_split_is_trained_like_a_resident_one(one: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    model, run = MODELS["autoint-plus"], tmp_path / "run"
    config = config_for(tmp_path / "c.yaml", sources["xor"], model, epochs=2, data={"device_memory": 0})
    assert call("train", "--config", config, "--run", run) == 0
    assert_same_arrays(load_state(run)[0], load_state(one)[0])
    assert same_metrics(run) == same_metrics(one)


# ---- recommended -----------------------------------------------------------------------------------------------------


def test_what_is_recommended_is_of_the_right_kind(recommender: ClickRecommender) -> None:
    right = 0
    for user in range(0, USERS, 3):
        best = recommender.recommend(100 + user, k=5, exclude_seen=False)
        assert [one.probability for one in best] == sorted((one.probability for one in best), reverse=True)
        right += sum(kind(int(one.item[4:])) == group(user) for one in best)
    assert right >= 0.9 * 5 * len(range(0, USERS, 3))


def test_probabilities_are_those_of_evaluation(
    learned: Path, recommender: ClickRecommender, sources: dict[str, Path]
) -> None:
    """For the rows of the test split, told to the recommender with raw ids; unseen ones are unknown to both."""
    logits, _ = logits_of_test(learned)
    dataset, rows, test = opened(sources["xor"])
    unseen = 0
    for place in range(6):  # the first two hold values that training has not seen
        row = test[place]
        user = recommender.users[rows.users[row] - 1]
        item = sku(rows.columns[row, dataset.schema.columns(("item",))[0]] - 1)
        device, month = rows.columns[row, dataset.schema.columns(("device", "month"))] - 1
        profile = {"device": ["desk", "phone", RARE_DEVICE][device], "month": [1, 11, 12][month]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnknownValues)
            found = recommender.recommend(user, profile, k=ITEMS, exclude_seen=False)
            explained = recommender.explain(item, user, profile)
        assert len(found) == ITEMS
        (probability,) = [one.probability for one in found if one.item == item]
        assert probability == pytest.approx(sigmoid(logits[place]), rel=1e-5, abs=1e-7)
        assert explained.probability == pytest.approx(probability, rel=1e-5, abs=1e-7)
        assert [str(warning.message) for warning in caught] == [
            f"field 'device': training has not seen '{RARE_DEVICE}'; it counts as unknown"
        ] * 2 * (profile["device"] == RARE_DEVICE)
        assert explained.values[0] == ("unknown" if user == RARE_USER else str(user))
        unseen += (user == RARE_USER) + (profile["device"] == RARE_DEVICE)
    assert unseen == 2


def test_an_explanation_says_what_was_read(recommender: ClickRecommender, model: dict[str, Any]) -> None:
    found = recommender.explain(sku(3), 104, {"age": 33.0}, "2023-12-24")
    assert dict(zip(found.fields, found.values, strict=True)) == {
        "user": "104", "item": "sku-003", "age": "33", "group": "g0", "kind": "k0", "tags": "red, big, old",
        "price": "4", "device": recommender.explain(sku(3), 104).values[-2], "month": "12",
    }  # fmt: skip
    assert len(found.weights) == model["blocks"]
    for weights in found.weights:
        assert weights.shape == (model["heads"], 9, 9)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=0, atol=1e-5)


def test_what_is_left_out(of_one: ClickRecommender, sources: dict[str, Path]) -> None:
    recommender = of_one
    dataset, rows, _ = opened(sources["xor"])
    everything = [sku(i) for i in range(ITEMS)]
    user = 105
    rated = recommender.rated(user)
    shown = np.flatnonzero(rows.users == recommender.users.index(user) + 1)
    own = shown[rows.labels[shown] > 0]  # labels are 0 and 1: what was shown and not liked may be recommended
    items = rows.columns[own, 1]
    assert [one.item for one in rated] == [sku(code - 1) for code in items]  # in the order of time, as the rows are
    assert [one.rating for one in rated] == rows.ratings[own].tolist()
    assert all(one.known == {"title": f"Thing {int(one.item[4:])}"} for one in rated)
    fresh = [one.item for one in recommender.recommend(user, k=ITEMS)]
    assert sorted(fresh) == sorted(set(everything) - {one.item for one in rated})
    assert ITEMS / 4 < len(fresh) < ITEMS
    every = recommender.rated(user, seen="rows")
    assert [one.item for one in every] == [sku(code - 1) for code in rows.columns[shown, 1]]
    unseen = [one.item for one in recommender.recommend(user, k=ITEMS, seen="rows")]
    assert sorted(unseen) == sorted(set(everything) - {one.item for one in every}) and len(unseen) < len(fresh)
    assert recommender.recommend(user, k=ITEMS, seen="positives") == recommender.recommend(user, k=ITEMS)
    assert (recommender.seen_word(), recommender.seen_word("rows")) == ("clicked", "seen")
    with pytest.raises(UserError, match="seen: found 'all', expected positives or rows"):
        recommender.recommend(user, seen="all")
    with pytest.raises(UserError, match=r"seen: rows are to be left out, and --include-seen .* choose one of them"):
        recommender.recommend(user, exclude_seen=False, seen="rows")
    with pytest.warns(UnknownValues, match="^exclude: 1 unknown item ignored: nowhere$"):
        both = recommender.recommend(user, k=ITEMS, exclude=[fresh[0], "nowhere"])
    assert [one.item for one in both] == fresh[1:]
    assert [one.item for one in recommender.recommend(user, k=1)] == fresh[:1]
    whole = recommender.recommend(user, k=ITEMS, exclude_seen=False)
    assert sorted(one.item for one in whole) == everything
    assert recommender.recommend(user, exclude=everything) == []


def test_only_items_with_some_values(of_one: ClickRecommender) -> None:
    recommender = of_one

    def found(**where: Any) -> list[str]:
        return sorted(one.item for one in recommender.recommend(101, k=ITEMS, exclude_seen=False, where=where))

    assert found(tags="red") == [sku(i) for i in range(ITEMS) if i % 4 in (1, 3)]
    assert found(tags="new", kind="k1") == [sku(i) for i in range(ITEMS) if i % 4 in (0, 1) and kind(i) == 1]
    assert found(item=sku(7)) == [sku(7)]
    with (
        pytest.warns(
            UnknownValues, match=r"field 'tags': training has not seen 'nww' \(did you mean 'new'\?\); it coun"
        ),
        pytest.raises(
            UserError, match=r"^where: tags=nww \(did you mean 'new'\?\) leaves none of 24 items; ask for les"
        ),
    ):
        found(tags="nww")
    with pytest.raises(UserError, match=r"^where: kind=k1 leaves none of 24 items"):
        found(item=sku(next(i for i in range(ITEMS) if kind(i) == 0)), kind="k1")
    with pytest.raises(UserError, match=r"field 'group': not one of the item's.*those are item, kind, tags"):
        found(group="g1")


def test_ids_and_values_that_are_unknown_count_as_index_0(of_one: ClickRecommender) -> None:
    recommender = of_one
    usual = recommender.recommend(k=ITEMS)
    assert len(usual) == ITEMS, "somebody new has seen nothing"
    with pytest.warns(UnknownValues, match="user 4711 is unknown to this run"):
        assert recommender.recommend(4711, k=ITEMS) == usual
    with pytest.warns(UnknownValues, match="field 'group': training has not seen 'g7'"):
        assert recommender.recommend(profile={"group": "g7"}, k=ITEMS) == usual
    with pytest.warns(UnknownValues, match="field 'user': training has not seen '999'"):
        assert recommender.recommend(profile={"user": RARE_USER}, k=ITEMS) == usual
    assert recommender.rated(4711) == [] and recommender.user(4711) == {}
    with pytest.raises(UserError, match="item sku-999: unknown to this run"):
        recommender.explain("sku-999", 101)
    for same in ("101", " 101 ", 101.0, np.int16(101)):
        assert recommender.recommend(same) == recommender.recommend(101), "text or number: one id"
    for other in ("0101", True):
        with pytest.warns(UnknownValues, match=f"user {other} is unknown to this run and counts as somebody new"):
            assert recommender.recommend(other) == recommender.recommend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for nothing in (None, float("nan")):
            assert recommender.recommend(nothing, {"group": None, "age": float("nan")}, k=ITEMS) == usual
    assert recommender.values("device") == ["desk", "phone"], "what training has seen"


def test_a_profile_wins_over_what_is_known(of_one: ClickRecommender) -> None:
    """A user's id with another group is scored as that; a number is standardised as the data was."""
    recommender = of_one
    columns = recommender._query(103, {"group": "g1", "age": 22.0}, None)
    other = recommender._query(103, {}, None)
    changed = {name for name in columns if not np.array_equal(columns[name], other[name])}
    assert changed == {"group", "age"} == {n for n in ("group", "age") if group(3) == 0}
    field = recommender._codes.field("age")
    assert float(columns["age"]) == pytest.approx((22 - field.mean) / field.deviation, rel=1e-6)
    assert float(other["age"]) == pytest.approx((23 - field.mean) / field.deviation, rel=1e-5)
    with pytest.raises(UserError, match="field 'kind': is of the item; a profile takes"):
        recommender.recommend(103, {"kind": "k1"})
    wrong: list[Any] = [0, -1, 2.5, True, "3"]
    for k in wrong:
        with pytest.raises(UserError, match=f"k = {k}: expected 1 or more"):
            recommender.recommend(103, k=k)


@pytest.mark.parametrize("several", [[103, 104], (103,), np.array([103, 104]), {103}, {103: 1}], ids=str)
def test_several_users_are_refused(of_one: ClickRecommender, several: Any) -> None:
    for ask in (of_one.recommend, of_one.rated, of_one.user, partial(of_one.explain, sku(3))):
        with pytest.raises(UserError, match=r"^user: found .*, expected one id; ask for one user at a time$"):
            ask(several)
    for profiles in ([{"age": 25}, {"age": 30}], "age=25", 5):
        with pytest.raises(UserError, match=r"^profile: found .*, expected fields with their values, such as"):
            of_one.recommend(103, profiles)  # type: ignore[arg-type]


WRONG_PROFILES: list[tuple[Any, str]] = [
    ({"age": "old"}, "field 'age': found 'old', expected a number"),
    ({"age": float("inf")}, "field 'age': found 'inf', expected a number"),
    ({"age": 10**400}, "field 'age': found '1000.*…', expected a number"),
    ({"age": 10**5000}, "field 'age': found 'a number of thousands of digits', expected a number"),
    ({"age": 1e30}, r"field 'age': found 1e\+30, expected a number such as those of the data \(mean"),
    ({"age": [25]}, r"field 'age': found \[25\], expected a single value"),
    ({"age": b"\xff"}, "field 'age': found '.', expected a number"),
    ({"group": ["g1"]}, r"field 'group': found \['g1'\], expected a single value"),
    ({"group": {"g1": 1}}, "field 'group': found {'g1': 1}, expected a single value"),
    ({5: 1}, "field '5': not one that the model reads"),
]


@pytest.mark.parametrize(("profile", "names"), WRONG_PROFILES, ids=[names[:30] for _, names in WRONG_PROFILES])
def test_profiles_that_are_refused(of_one: ClickRecommender, profile: Any, names: str) -> None:
    with pytest.raises(UserError, match=f"^{names}") as error:
        of_one.recommend(103, profile)
    assert len(str(error.value).splitlines()) == 1


# ---- evaluated -------------------------------------------------------------------------------------------------------


def test_what_training_has_not_seen_is_unknown_in_evaluation(one: Path, sources: dict[str, Path]) -> None:
    """Its row in the table is as it was drawn, so that to read it would add noise."""
    _, known = logits_of_test(one)
    dataset, rows, test = opened(sources["xor"])
    user, device = dataset.schema.columns(("user", "device"))
    assert rows.columns[test[0], user] == USERS + 1 and known.columns[0, user] == 0
    assert rows.columns[test[1], device] == 3 and known.columns[1, device] == 0
    changed = known.columns != rows.columns[test]
    assert changed.sum() == 2
    assert known.users[0] == USERS + 1, "whose rows they are does not change"


def test_groups_and_baselines_are_measured_beside_it(one: Path, sources: dict[str, Path]) -> None:
    logits, known = logits_of_test(one)
    result = evaluated(one, "--groups", "group", "activity", "--baselines", "all", "--k", 2, 3)
    assert result["auc"] == pytest.approx(auc(logits, known.labels), abs=1e-6)
    assert result["log_loss"] == pytest.approx(np.logaddexp(0, np.where(known.labels, -logits, logits)).mean())
    assert (one / "eval-test-reliability.png").stat().st_size > 5000
    dataset, rows, test = opened(sources["xor"])
    codes = rows.columns[test, dataset.schema.columns(("group",))[0]]
    assert result["groups"].keys() == {"group", "activity"} and result["groups"]["group"].keys() == {"g0", "g1"}
    for code, name in enumerate(("g0", "g1"), 1):
        part = result["groups"]["group"][name]
        assert part["rows"] == np.sum(codes == code)
        assert part["auc"] == pytest.approx(auc(logits[codes == code], known.labels[codes == code]), abs=1e-6)
    assert sum(part["rows"] for part in result["groups"]["activity"].values()) == len(test)
    assert result["baselines"].keys() == {"popularity", "item_mean", "bias", "als", "logistic"}
    for metrics in result["baselines"].values():
        assert 0.3 < metrics["auc"] <= 1 and metrics["log_loss"] > 0 and "ndcg@2" in metrics
