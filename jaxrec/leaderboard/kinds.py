"""The one protocol of each kind of data: which models and baselines enter, what is held out, and what of each query of
the test is kept: its rank, or of click models its logit. Settings are chosen on validation, the test is read last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxrec import config as configuration
from jaxrec.baselines.base import Queries, parse
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES
from jaxrec.baselines.sessions import BASELINES
from jaxrec.config import Config, models
from jaxrec.data.dataset import Dataset, RowsDataset, Sessions
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.splits import open_split
from jaxrec.errors import UserError, listed
from jaxrec.leaderboard import settings
from jaxrec.metrics.bootstrap import auc_samples, mean_samples
from jaxrec.metrics.clicks import auc, log_loss
from jaxrec.metrics.ranking import random_ranking, ranking_gains
from jaxrec.sources.synthetic import optimum_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.blend import task as blends
from jaxrec.tasks.clicks import task as clicks
from jaxrec.tasks.retrieval import task as retrieval
from jaxrec.tasks.sessions import task as sessions
from jaxrec.tasks.sessions.masks import chance, is_masked

MOST = 5000  # validation queries on which settings of a session's baseline are compared
AUC_CELLS = 5 * 10**7  # rows times repetitions, at most, of the bootstrap of an AUC
Measured = tuple[np.ndarray, float, float]
"""float32[n], what is kept of each query, and the seconds that fitting and answering took."""


def kind_of(dataset: Dataset | RowsDataset, task: str | None, words: Sequence[str]) -> Kind:
    """The kind of a data set; of rows ``task`` says which, otherwise whether there are labels of both classes does.
    ``words`` override fields of the data section."""
    if isinstance(dataset, Dataset):
        fits = ["sessions"]
    else:
        labels, schema = dataset.rows().labels, dataset.schema
        both = len(labels) > 0 and labels.min() < labels.max()
        pairs = schema.user is not None and schema.item is not None
        fits = [*(["clicks"] if both else []), *(["retrieval"] if pairs else [])]
        if not fits:
            raise UserError(f"{dataset.path}: rows of one class, without user and item: nothing to rank")
    if task is not None and task not in fits:
        raise UserError(f"--task: found {task}, but {dataset.path} fits {listed(fits, 'or')}; leave it out")
    kinds = {"sessions": SessionKind, "clicks": ClickKind, "retrieval": RetrievalKind}
    made: Kind = kinds[task or fits[0]](dataset, words)
    return made


class Kind:
    """What all kinds have in common."""

    task: ClassVar[str]
    columns: tuple[str, ...]  # metrics of the table
    metric: str  # that settings are chosen by
    validation: str  # in words

    def __init__(self, dataset: Any, words: Sequence[str]) -> None:
        self.dataset, self._words = dataset, list(words)

    def models(self) -> list[str]:
        """The models that fit, in the order in which they begin."""
        fits = [name for name, model in models().items() if model.task == self.task]
        return sorted(fits, key=lambda name: (*settings.ORDER, name).index(name))

    @property
    def refits(self) -> bool:
        """Whether what is chosen can be trained once more on all of training, validation included."""
        return True

    def config(self, name: str, changes: dict[str, Any], everything: bool = False) -> Config:
        """The configuration of a model: that of ``settings`` with changes by ``section.field``; ``everything``: trained
        on validation data too."""
        values = settings.start(name, self.task, self.size())
        for section, fields in self.sections().items():
            values[section] = values.get(section, {}) | fields
        for field, value in changes.items():
            section, _, entry = field.partition(".")
            values[section] = values.get(section, {}) | {entry: value}
        config = configuration.override(settings.fitting(values), self._words, "leaderboard")
        if not everything:
            return config
        parts = {"data": {"validation_fraction": 0.0}, "training": {"early_stopping": 0}}
        return config.model_copy(update={
            section: getattr(config, section).model_copy(update=fields) for section, fields in parts.items()
        })  # fmt: skip

    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections that all models share."""
        raise NotImplementedError

    def size(self) -> settings.Size:
        raise NotImplementedError

    def baselines(self) -> dict[str, list[str]]:
        """The settings of each baseline, the first of which is its default."""
        raise NotImplementedError

    def baseline(self, text: str, split: str) -> Measured:
        """A baseline on ``validation``, or fitted on all of training on ``test``."""
        raise NotImplementedError

    def run(self, path: Path) -> tuple[np.ndarray, float]:
        """What is kept of each test query by a run, and the seconds that it took."""
        raise NotImplementedError

    def queries(self, split: str) -> int:
        """How many a split has."""
        raise NotImplementedError

    def groups(self) -> np.ndarray:
        """int[n], the session or the user of each test query, which the bootstrap draws as wholes."""
        raise NotImplementedError

    def metrics(self, kept: np.ndarray, split: str = "test") -> dict[str, float]:
        """The metrics of float[seeds, n], means over the seeds."""
        raise NotImplementedError

    def samples(self, kept: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """By ranker and metric float64[R] samples of the paired bootstrap, from float[seeds, n] of each ranker."""
        raise NotImplementedError

    def chance(self) -> dict[str, float]:
        raise NotImplementedError

    def optimum(self) -> dict[str, float]:
        """The best that any model can reach, where the data are generated."""
        return {}


class RankingKind(Kind):
    """Kinds in which the right item of each query has a rank."""

    cutoffs: tuple[int, ...]

    def __init__(self, dataset: Any, words: Sequence[str], n_items: int) -> None:
        super().__init__(dataset, words)
        self.k = next((k for k in self.cutoffs if k < n_items), 1)

    def metrics(self, kept: np.ndarray, split: str = "test") -> dict[str, float]:
        gains = ranking_gains(kept, [self.k])
        return {name: float(gains[name].mean()) for name in self.columns}

    def samples(self, kept: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        gains = {name: ranking_gains(ranks, [self.k]) for name, ranks in kept.items()}
        columns = [(name, metric) for name in kept for metric in self.columns]
        values = np.stack([gains[name][metric].mean(axis=0) for name, metric in columns], axis=1)
        found = mean_samples(values, np.unique(self.groups(), return_inverse=True)[1])
        result: dict[str, dict[str, np.ndarray]] = {name: {} for name in kept}
        for (name, metric), column in zip(columns, found.T, strict=True):
            result[name][metric] = column
        return result


class SessionKind(RankingKind):
    """Sessions, and users' sequences of which the last items are held out."""

    task = "sessions"
    cutoffs: tuple[int, ...] = (20, 10, 5, 3)

    def __init__(self, dataset: Dataset, words: Sequence[str]) -> None:
        held = dataset.split("test")
        if held.last_only:
            self.cutoffs = self.cutoffs[1:]
        super().__init__(dataset, words, dataset.n_items)
        self.columns = tuple(f"{name}@{self.k}" for name in ("recall", "mrr", "ndcg"))
        self.metric = f"ndcg@{self.k}" if held.last_only else f"mrr@{self.k}"
        self._brought = len(dataset.split("validation")) > 0
        config = self.config("gru4rec", {})
        self._fraction, self._evaluation = config.data.validation_fraction, config.evaluation
        self.validation = ("the validation split of the data" if self._brought else
                           f"the last {self._fraction:.0%} of the training targets")  # fmt: skip
        if not held.counts["targets"]:
            raise UserError(f"{dataset.path}: the test split is empty; prepare the data with one")
        if not self._brought and not self._fraction:
            raise UserError("data.validation_fraction: found 0, which leaves nothing to choose settings on; set it to "
                            "0.05, or leave it out")  # fmt: skip

    @property
    def refits(self) -> bool:
        return not self._brought

    def sections(self) -> dict[str, dict[str, Any]]:
        fraction = 0.0 if len(self.dataset.split("validation")) else 0.05
        return {"data": {"path": str(self.dataset.path), "validation_fraction": fraction},
                "training": {"metric": self.metric}, "evaluation": {"k": [self.k]}}  # fmt: skip

    def size(self) -> settings.Size:
        return settings.Size(self.dataset.split("train").counts["targets"], self.dataset.n_items)

    def baselines(self) -> dict[str, list[str]]:
        return settings.SESSION_BASELINES

    def baseline(self, text: str, split: str) -> Measured:
        choice, parts = parse([text], BASELINES)[0], self._splits[split]
        begin = time.perf_counter()
        scores = choice.fit(parts.train, self.dataset.n_items)
        fitted, queries = time.perf_counter(), Queries(parts.validation)
        judged = sessions.judge_baseline(scores, queries, self.dataset.n_items, [self.k], self._evaluation)
        return judged.arrays["rank"], fitted - begin, time.perf_counter() - fitted

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """Validation is a sample of sessions, and the training without it; the test that of all of training."""
        validation = open_split(self.dataset, "validation", self._fraction)
        held: Sessions = validation.validation
        chosen = np.random.default_rng(0).permutation(len(held))
        targets = np.clip(np.diff(held.offsets) - 1, 0, 1 if held.last_only else None)[chosen]
        chosen = chosen[: int(np.searchsorted(np.cumsum(targets), MOST)) + 1]
        return {"validation": validation._replace(validation=held.pick(np.sort(chosen))),
                "test": open_split(self.dataset, "test", 0.0)}  # fmt: skip

    def run(self, path: Path) -> tuple[np.ndarray, float]:
        begin, loaded = time.perf_counter(), load(path)
        held = self._splits["test"].validation
        n_items, config = self.dataset.n_items, loaded.run.config
        if config.model.task == "blend":
            blended = blends.Judge(loaded.model, blends.methods_of(loaded.run), held, n_items, config.evaluation)
            return blended(loaded.weights, [self.k]).arrays["rank"], time.perf_counter() - begin
        judge = sessions.session_judge(loaded.model, held, n_items, config.evaluation)
        ranks = judge(loaded.weights, [self.k]).arrays["rank"]
        return sessions.in_order(ranks, judge, held), time.perf_counter() - begin

    def queries(self, split: str) -> int:
        if split == "test":
            return int(self._splits["test"].validation.counts["targets"])
        return int(open_split(self.dataset, "validation", self._fraction).validation.counts["targets"])

    def groups(self) -> np.ndarray:
        held = self._splits["test"].validation
        return np.searchsorted(np.asarray(held.offsets), held.target_positions, side="right") - 1

    def chance(self) -> dict[str, float]:
        return chance(self._splits["test"].validation, self.dataset.n_items, [self.k], self._evaluation)

    def optimum(self) -> dict[str, float]:
        return {} if is_masked(self._evaluation) else optimum_metrics(self.dataset.manifest, [self.k])


class ClickKind(Kind):
    """Rows with labels of both classes."""

    task, columns, metric = "clicks", ("auc", "log_loss"), "auc"

    def __init__(self, dataset: RowsDataset, words: Sequence[str]) -> None:
        super().__init__(dataset, words)
        self._config = self.config("autoint", {})
        self._rows, splits = clicks.selected_rows(self._config, dataset)
        every = np.sort(np.concatenate([splits.train, splits.validation]))
        known = every if self.refits else splits.train
        self._splits = {"validation": (splits.train, splits.validation), "test": (known, splits.test)}
        self.validation = f"{len(splits.validation):,} rows by protocol {self._config.data.protocol}"
        _check_held(dataset, splits, self._config)

    @property
    def refits(self) -> bool:
        return "published" not in self._words  # whose splits are three, to be compared with what others report of them

    def sections(self) -> dict[str, dict[str, Any]]:
        return {"data": {"path": str(self.dataset.path), "validation_fraction": 0.1 if self.refits else 0.0},
                "training": {"metric": self.metric}}  # fmt: skip

    def size(self) -> settings.Size:
        return settings.Size(self.dataset.manifest["counts"]["rows"], 0)

    def baselines(self) -> dict[str, list[str]]:
        pairs = self.dataset.schema.user is not None and self.dataset.schema.item is not None
        known = settings.CLICK_BASELINES
        return known if pairs else {clicks.LOGISTIC: known[clicks.LOGISTIC]}

    def baseline(self, text: str, split: str) -> Measured:
        choice, (train, held) = parse([text], clicks.BASELINES)[0], self._splits[split]
        schema, begin = self.dataset.schema.select(self._config.data.fields), time.perf_counter()
        answer = clicks.fit_baseline(choice, self.dataset, schema, self._rows, train)
        fitted, logits = time.perf_counter(), answer(held)
        return np.asarray(logits, np.float32), fitted - begin, time.perf_counter() - fitted

    def run(self, path: Path) -> tuple[np.ndarray, float]:
        begin, loaded = time.perf_counter(), load(path)
        schema, held = self.dataset.schema.select(self._config.data.fields), self._rows.take(self._splits["test"][1])
        known = clicks.known_rows(schema, held, loaded.run.kept("value_counts"))
        judged = clicks.Judge(loaded.model, known)(loaded.weights, [])
        return judged.arrays["logit"], time.perf_counter() - begin

    def queries(self, split: str) -> int:
        return len(self._splits[split][1])

    def groups(self) -> np.ndarray:
        users = np.asarray(self._rows.users[self._splits["test"][1]], np.int64)
        return np.where(users > 0, users, -1 - np.arange(len(users)))

    def metrics(self, kept: np.ndarray, split: str = "test") -> dict[str, float]:
        labels = self._rows.labels[self._splits[split][1]]
        pairs = [(auc(one, labels), log_loss(one, labels)) for one in np.atleast_2d(kept)]
        return dict(zip(self.columns, np.mean(pairs, axis=0).tolist(), strict=True))

    def samples(self, kept: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        labels, groups = self._rows.labels[self._splits["test"][1]], np.unique(self.groups(), return_inverse=True)[1]
        repetitions = int(np.clip(AUC_CELLS // max(1, len(labels)), 200, 2000))
        signed = np.where(labels > 0, -1.0, 1.0)
        result = {}
        for name, logits in kept.items():
            areas = np.mean([auc_samples(one, labels, groups, repetitions) for one in logits], axis=0)
            losses = np.logaddexp(0, signed * logits.astype(np.float64)).mean(axis=0)
            result[name] = {"auc": areas, "log_loss": mean_samples(losses[:, None], groups, repetitions)[:, 0]}
        return result

    def chance(self) -> dict[str, float]:
        share = float(self._rows.labels[self._splits["test"][1]].mean())
        return {"auc": 0.5, "log_loss": -(share * np.log(share) + (1 - share) * np.log1p(-share))}


class RetrievalKind(RankingKind):
    """Rows of users and items: positives, each against what its user does not have."""

    task, cutoffs = "retrieval", (10, 5, 3)

    def __init__(self, dataset: RowsDataset, words: Sequence[str]) -> None:
        super().__init__(dataset, words, dataset.schema.size(dataset.schema.item) - 1)
        self.columns = tuple(f"{name}@{self.k}" for name in ("recall", "mrr", "ndcg"))
        self.metric = f"ndcg@{self.k}"
        self._config = self.config("two_tower", {})
        self._parts = {"validation": Retrieval.open(self._config, dataset),
                       "test": Retrieval.open(self.config("two_tower", {}, everything=True), dataset)}  # fmt: skip
        splits = self._parts["validation"].splits
        self.validation = f"{len(splits.validation):,} rows by protocol {self._config.data.protocol}"
        _check_held(dataset, splits, self._config)

    def sections(self) -> dict[str, dict[str, Any]]:
        return {"data": {"path": str(self.dataset.path), "validation_fraction": 0.1, "protocol": "leave_one_random"},
                "training": {"metric": self.metric}, "evaluation": {"k": [self.k]}}  # fmt: skip

    def size(self) -> settings.Size:
        return settings.Size(int(self.dataset.rows().labels.sum()), self.dataset.schema.size(self.dataset.schema.item))

    def baselines(self) -> dict[str, list[str]]:
        return settings.RETRIEVAL_BASELINES

    def baseline(self, text: str, split: str) -> Measured:
        choice, judge = parse([text], RETRIEVAL_BASELINES)[0], self._judge(split)
        begin = time.perf_counter()
        score = choice.fit(retrieval.owned_items(judge.data))
        fitted = time.perf_counter()
        ranks = retrieval.judge_baseline(score, judge, [self.k]).arrays["rank"]
        return ranks, fitted - begin, time.perf_counter() - fitted

    def _judge(self, split: str, model: Any = None, data: Retrieval | None = None) -> retrieval.Judge:
        """Of a model, or of none; what users have is that of all of training, also for a model that was trained without
        validation (``data``: what it knows)."""
        own = self._parts[split]
        model = model or configuration.find_model("two_tower").Model(self._config, self.dataset.schema)
        judge = retrieval.Judge(model, data or own, getattr(own.splits, split), self._config.evaluation)
        judge.had = own.positives(own.splits.train, judge.part)
        return judge

    def run(self, path: Path) -> tuple[np.ndarray, float]:
        begin, loaded = time.perf_counter(), load(path)
        whole = not loaded.run.config.data.validation_fraction
        judge = self._judge("test", loaded.model, self._parts["test" if whole else "validation"])
        return judge(loaded.weights, [self.k]).arrays["rank"], time.perf_counter() - begin

    def queries(self, split: str) -> int:
        return len(self._parts[split].queries(getattr(self._parts[split].splits, split)).users)

    def groups(self) -> np.ndarray:
        return self._parts["test"].queries(self._parts["test"].splits.test).users

    def chance(self) -> dict[str, float]:
        had = np.bitwise_count(self._judge("test").had[self.groups()]).sum(axis=1)
        candidates = self.dataset.schema.size(self.dataset.schema.item) - had  # without the unknown item, with its own
        return random_ranking(candidates, [self.k])

    def optimum(self) -> dict[str, float]:
        best = self.dataset.manifest.get("optimum") or {}
        alone = np.bitwise_count(self._judge("test").had[self.groups()]).sum(axis=1).max() <= 1
        name = f"hit_rate@{self.k}"  # of rankings of all products
        return {f"recall@{self.k}": float(best[name])} if alone and name in best else {}


def _check_held(dataset: RowsDataset, splits: Any, config: Config) -> None:
    for name in ("validation", "test"):
        if not len(getattr(splits, name)):
            raise UserError(f"{dataset.path}: no rows to choose settings on or to test (data.protocol "
                            f"{config.data.protocol}, {name}: none); choose another --data.protocol")  # fmt: skip
