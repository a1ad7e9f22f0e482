"""Small data sets of every kind, and tiny runs of every model, each made once a session and shared by all workers.

    def test_x(worlds: Worlds) -> None:
        worlds.data("sessions")             a data set that can be foreseen; the kinds are those of ``KINDS``
        worlds.data("events", noise=True)   one of the same size of which nothing can be learned
        worlds.live()                       events that say when listings are live
        worlds.run("gru4rec")               a trained run of any model in ``jaxrec.models``
        worlds.run("merrec", noise=True, model={"head": "text"}, data={"path": path})
        worlds.config("narm", loss={"name": "softmax"})     the file of a configuration that trains in a second
        worlds.old("autoint")               a run of an earlier version, at hand without training

Nobody may change what is there: copy it (``shutil.copytree``). All runs of a model have the same shapes and schedule,
so that its training block is compiled once for blocks cut on the device and once for streamed ones (noise).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from helpers import call, write_dataset

from jaxrec.config import find_model, losses_of
from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.clean.rows import write_rows
from jaxrec.data.store import staging, write_manifest
from jaxrec.data.text.encoding import write_name_vectors
from jaxrec.sources.merrec import EVENT_TYPES

Sections = dict[str, dict[str, Any]]
OLD = Path(__file__).parent / "old"


class Ring:
    """Sessions: items sku-00 to sku-39 in a circle, walked forwards or backwards. What follows is known by the last two
    clicks and, with a chance of a half, by one. In the world of noise clicks are independent, by popularity."""

    n_items = 40
    order = np.random.default_rng(1).permutation(n_items)
    popularity = np.arange(1, n_items + 1) ** -0.7 / np.sum(np.arange(1, n_items + 1) ** -0.7)

    @classmethod
    def sessions(cls, n: int, seed: int = 3, noise: bool = False) -> list[list[str]]:
        random = np.random.default_rng(seed)
        lengths = random.integers(3, 8, n)
        if noise:
            walks = [random.choice(cls.n_items, length, p=cls.popularity) for length in lengths]
        else:
            starts, ways = random.integers(0, cls.n_items, n), random.choice([-1, 1], n)
            walks = [cls.order[(start + way * np.arange(length)) % cls.n_items]
                     for start, way, length in zip(starts, ways, lengths, strict=True)]  # fmt: skip
        return [[f"sku-{item:02}" for item in walk] for walk in walks]

    @classmethod
    def follows(cls, before: str, last: str) -> str:
        """What comes after two clicks."""
        place = {f"sku-{item:02}": i for i, item in enumerate(cls.order)}
        return f"sku-{cls.order[(2 * place[last] - place[before]) % cls.n_items]:02}"


class Market:
    """Events: listings of 12 names, ``kind0`` to ``kind11``, 3 of each in training, 2 more in the test alone. After a
    listing of a kind comes any of the next kind, or in the world of noise any listing at all."""

    kinds, trained, each = 12, 3, 5
    n_items, visits, test_days = kinds * each, 700, 3

    @classmethod
    def write(cls, out: Path, noise: bool) -> None:
        lines = ["user_id,session_id,item_id,name,stime,price,event_id,sequence_id,sequence_length,product_id,c0_name,"
                 "c0_id,c1_name,c1_id,c2_name,c2_id,brand_name,brand_id,item_condition_id,item_condition_name,size_name,"
                 "size_id,color,shipper_id,shipper_name"]  # fmt: skip
        same, random = "1,3,7_9,Home,1,Rooms,2,Beds,3,,0,1,New,,,,1,Buyer", np.random.default_rng(3)
        order, lengths = np.random.default_rng(4).permutation(cls.kinds), random.integers(3, 8, cls.visits)
        after = {int(order[i]): int(order[(i + 1) % cls.kinds]) for i in range(cls.kinds)}
        for visit, length in enumerate(lengths):
            kind, begin = int(random.integers(cls.kinds)), np.datetime64("2023-05-01T00:00:00") + visit * 3600
            listings = cls.each if visit >= cls.visits - 24 * cls.test_days else cls.trained
            for second in range(length):
                item, event = cls.each * kind + int(random.integers(listings)), EVENT_TYPES[random.integers(6)]
                time, price = begin + second, 5.0 + item
                lines.append(f"{visit},{visit},{item},kind{kind},{time},{price},{event},{same}")
                kind = int(random.integers(cls.kinds)) if noise else after[kind]
        raw = out.with_suffix(".csv")
        raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert call("prepare", "merrec", "--raw", raw, "--out", out, "--test-days", cls.test_days) == 0
        write_vectors(out)


def write_vectors(path: Path, dim: int = 16, model: str = "fake") -> Path:
    """Put vectors of its names beside a data set, as if the text model ``model`` (its identity too) had made them."""
    manifest = json.loads((path / "manifest.json").read_text())
    names = pq.read_table(path / "names.parquet")["name"].to_pylist()
    write_name_vectors(path, manifest, model, model, word_vectors(names, dim))
    return path


def word_vectors(names: Sequence[str], dim: int = 16) -> np.ndarray:
    """float16[n, dim] of length 1: names with words in common are alike."""

    def vector(word: str) -> np.ndarray:
        drawn = np.random.default_rng(zlib.crc32(word.encode())).normal(size=dim)
        return drawn / np.linalg.norm(drawn)

    sums = np.array([sum(vector(word) for word in name.lower().split()) for name in names]).reshape(len(names), dim)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float16)


class Clicks:
    """Rows with labels: users 100 to 127 in two groups, items sku-000 to sku-023 of two kinds. A label says whether the
    user's group is the item's kind: neither says anything alone. In the world of noise a coin is tossed. One test row
    is of user 999, one of device ``watch``, which training has not seen; a third of the items a user never sees."""

    n, users, items = 1600, 28, 24
    day, start = 86_400, 1_700_000_000  # November 2023
    rare_user, rare_device = 999, "watch"

    @staticmethod
    def group(user: Any) -> Any:  # of raw ids less 100
        return user // 7 % 2

    @staticmethod
    def kind(item: Any) -> Any:
        return item // 6 % 2

    @staticmethod
    def sku(item: int) -> str:
        return f"sku-{item:03}"

    @classmethod
    def rows(cls, noise: bool) -> RawRows:
        random = np.random.default_rng(3)
        user, item = random.integers(0, cls.users, cls.n), random.integers(0, cls.items, cls.n)
        item = np.where(item % 3 == user % 3, item // 3 * 3 + (item + 1) % 3, item)
        device = random.integers(0, 2, cls.n)
        labels = random.random(cls.n) < 0.5 if noise else cls.group(user) == cls.kind(item)
        held = np.random.RandomState(42).permutation(cls.n)[:2]  # the first rows of the test split
        by_user, people = user.copy(), np.append(np.arange(cls.users), 0)
        by_user[held[0]], device[held[1]] = cls.users, 2
        times = cls.start + np.sort(random.integers(0, 60 * cls.day, cls.n))
        months = times.astype("datetime64[s]").astype("datetime64[M]").astype(int) % 12 + 1
        things, tags = range(cls.items), [["new"], ["new", "red"], [], ["red", "big", "old"]]
        fields = [
            RawField("user", "categorical", "user", pa.array([*(100 + np.arange(cls.users)), cls.rare_user]), by_user),
            RawField("item", "categorical", "item", pa.array([cls.sku(i) for i in things]), item),
            RawField("age", "numerical", "user", pa.array(20.0 + people), by_user),
            RawField("group", "categorical", "user", pa.array([f"g{cls.group(u)}" for u in people]), by_user),
            RawField("kind", "categorical", "item", pa.array([f"k{cls.kind(i)}" for i in things]), item),
            RawField("tags", "bag", "item", pa.array([tags[i % 4] for i in things], pa.list_(pa.string())), item),
            RawField("price", "numerical", "item", pa.array([1.0 + i for i in things]), item),
            RawField("device", "categorical", "context", pa.array(np.array(["phone", "desk", "watch"])[device])),
            RawField("month", "categorical", "context", pa.array(months)),
        ]
        titles = pa.table({"item": [cls.sku(i) for i in things], "title": [f"Thing {i}" for i in things]})
        return RawRows(fields, labels.astype(np.float64), times, 1.0, 0.0, 1.0, "user", "item", {"item": titles},
                       {"month": "month"})  # fmt: skip


class Shop:
    """Retrieval: customers 1000 to 1223 and products p00 to p39 of eight groups. A customer buys three of the five
    products of his group, which skin and age say, or in the world of noise any three; and dislikes one."""

    users, items, bought_each = 224, 40, 3
    skins, brands = ("dry", "oily", "normal", "mature"), ("old brand", "young brand")
    likes: tuple[list[str], ...] = (["spa"], ["spa", "gold"], [], ["sun"])
    tags: tuple[list[str], ...] = (["new"], ["new", "soft"], [], ["big"])
    rule = {"when": {"skin": "dry"}, "boost": {"category": "oily"}, "by": 0.9}  # noqa: RUF012

    @staticmethod
    def customer(user: int) -> int:
        return 1000 + user

    @staticmethod
    def product(item: int) -> str:
        return f"p{item:02}"

    @staticmethod
    def age(user: int) -> int:
        return (50 if user % 2 else 20) + user % 9

    @classmethod
    def skin(cls, user: int) -> str:
        return cls.skins[user // 2 % 4]

    @classmethod
    def group(cls, user: int) -> int:  # of products that the customer buys: the five from five times this on
        return 2 * (user // 2 % 4) + (cls.age(user) < 40)

    @classmethod
    def bought(cls, noise: bool = False) -> np.ndarray:  # int[users, 3]
        random = np.random.default_rng(4)
        chosen = [random.choice(5, cls.bought_each, replace=False) + 5 * cls.group(user) for user in range(cls.users)]
        return np.array([random.choice(cls.items, cls.bought_each, replace=False) for _ in chosen] if noise else chosen)

    @classmethod
    def rows(cls, noise: bool) -> RawRows:
        people, things, text = range(cls.users), range(cls.items), pa.list_(pa.string())
        user, item = np.repeat(np.arange(cls.users), cls.bought_each), cls.bought(noise).reshape(-1)
        user, item = np.append(user, people), np.append(item, (np.arange(cls.users) * 7 + 3) % cls.items)
        stars = np.append(np.full(cls.users * cls.bought_each, 5.0), np.full(cls.users, 2.0))
        order = np.random.default_rng(5).permutation(len(user))
        user, item, stars = user[order], item[order], stars[order]
        shop, skins = pa.array([cls.product(i) for i in things]), [cls.skin(u) for u in people]
        fields = [
            RawField("customer", "categorical", "user", pa.array([cls.customer(u) for u in people]), user),
            RawField("price", "numerical", "item", pa.array([2.0 + 3 * i for i in things]), item, logarithm=True),
            RawField("skin", "categorical", "user", pa.array(skins), user),
            RawField("age", "numerical", "user", pa.array([cls.age(u) for u in people]), user),
            RawField("likes", "bag", "user", pa.array([cls.likes[u % 4] for u in people], text), user),
            RawField("product", "categorical", "item", shop, item),
            RawField("category", "categorical", "item", pa.array([cls.skins[i // 10] for i in things]), item),
            RawField("brand", "categorical", "item", pa.array([cls.brands[i // 5 % 2] for i in things]), item),
            RawField("tags", "bag", "item", pa.array([cls.tags[i % 4] for i in things], text), item),
            RawField("season", "categorical", "context", pa.array([["hot", "cold"][u % 2] for u in user])),
        ]
        names = pa.table({"product": shop, "name": [f"Thing {i}" for i in things]})
        known = pa.table({"customer": [cls.customer(u) for u in people], "persona": [skin.title() for skin in skins]})
        return RawRows(fields, stars, np.zeros(len(user), np.int64), 4.0, 1.0, 5.0, "customer", "product",
                       {"item": names, "user": known})  # fmt: skip


def write_raw_rows(out: Path, rows: RawRows) -> Path:
    """A data set of rows."""
    with staging(out) as stage:
        result = write_rows(rows, stage)
        write_manifest(stage, result.pop("files"), kind="rows", source="made up", options={}, **result)
    return out


# ---- every kind: its data, and the sections of a quick configuration, of which a model takes what it has -------------

DROPOUT = {"dropout_embedding": 0.05, "dropout_attention": 0.05, "dropout_hidden": 0.05}
# Rates are 5 to 20 times those of configs/: some 250 steps have to do what there tens of thousands do.
KINDS: dict[str, tuple[Callable[[Path, bool], object], Sections]] = {
    "sessions": (lambda out, noise: write_dataset(out, Ring.sessions(1400, noise=noise), test_days=8), {
        "data": {"validation_fraction": 0.1},
        "model": {"layers": [32], "embedding_dim": 24, "window": 6, "heads": 2, "blocks": 1, "temperature": 12.0,
                  **DROPOUT},
        "loss": {"n_sample": 32, "sample_alpha": 0.0},
        "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": "linear"},
        "training": {"epochs": 2, "batch_size": 32, "steps_per_block": 80, "metric": "recall@1"},
        "evaluation": {"k": [1, 5]},
    }),
    "events": (Market.write, {
        "data": {"validation_fraction": 0.1},
        "model": {"layers": [24], "embedding_dim": 8, "text_dim": 8, "name_dim": 8, "event_dim": 4, "field_dim": 4,
                  "window": 6, "heads": 2, "item_fields": ["c0", "price"], **DROPOUT},
        # At .02 the text part is still learning when the items' own rows fit, and listings without one are not found.
        "optimizer": {"learning_rate": 0.05, "table_learning_rate": 0.2, "schedule": "linear"},
        "training": {"epochs": 2, "batch_size": 64, "steps_per_block": 30, "metric": "recall@5"},
        "evaluation": {"k": [5]},
    }),
    "clicks": (lambda out, noise: write_raw_rows(out, Clicks.rows(noise)), {
        "data": {"test_fraction": 0.2, "validation_fraction": 0.25, "unknown_rate": 0.02},
        "model": {"embedding_dim": 8, "attention_dim": 8, "heads": 2, "deep": [16], **DROPOUT},
        "optimizer": {"name": "adam", "learning_rate": 0.02, "schedule": "linear"},
        "training": {"epochs": 2, "passes": 3, "batch_size": 64, "steps_per_block": 30, "metric": "auc"},
        "evaluation": {"k": [3]},
    }),
    "retrieval": (lambda out, noise: write_raw_rows(out, Shop.rows(noise)), {
        "data": {"protocol": "cold_users", "test_fraction": 0.25, "validation_fraction": 0.25},
        "model": {"embedding_dim": 4, "hidden": [16], "output_dim": 8, **DROPOUT},
        "loss": {"hard_negatives": 2, "hard_pool": 8, "refresh_steps": 7, "mask": "duplicates"},
        "optimizer": {"name": "adam", "learning_rate": 0.02, "schedule": "linear"},
        "training": {"epochs": 2, "passes": 6, "batch_size": 32, "steps_per_block": 24, "metric": "hit_rate@3"},
        "evaluation": {"k": [3]},
    }),
}  # fmt: skip
SLOW_LEARNERS: dict[str, Sections] = {
    "bert4rec": {"model": {"blocks": 2, "heads": 4, "mask_last": 0.9}, "training": {"epochs": 5}},
}
"""What models need beyond it to learn: BERT4Rec sees a third of the targets in an epoch, and looks to both sides."""
NOISE: Sections = {"training": {"save_every": 0}, "data": {"device_memory": 0}}
"""Of runs on noise: saved after every block, and blocks streamed from the host."""


def kind_of(model: str) -> str:
    """The kind of problem that a model is for."""
    return str(find_model(model).Config.task)


def sections_of(model: str, data: Path, /, noise: bool = False, **more: dict[str, Any]) -> Sections:
    """The sections of a quick configuration; ``more`` add to it and win over it, None takes a field's default."""
    section = find_model(model).Config
    name = more.get("loss", {}).get("name") or next(iter(losses_of(section)))
    has = {"model": section.model_fields, "loss": losses_of(section)[name].model_fields}
    kind = {part: {field: value for field, value in fields.items() if field in has.get(part, fields)}
            for part, fields in KINDS[kind_of(model)][1].items()}  # fmt: skip
    first: Sections = {"data": {"path": str(data)}, "model": {"name": model}, "loss": {"name": name},
                       "training": {"log_every": 1}}  # fmt: skip
    values: Sections = {}
    for sections in (first, kind, NOISE if noise else SLOW_LEARNERS.get(model, {}), more):
        for part, fields in sections.items():
            values[part] = values.get(part, {}) | fields
    return {part: {f: v for f, v in fields.items() if v is not None} for part, fields in values.items()}


@contextlib.contextmanager
def old_copy() -> Iterator[None]:
    """Inside, the working directory is a copy of ``tests/old``, its runs unpacked."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copytree(OLD, "old")
        with contextlib.chdir("old"):
            for archive in list(Path("runs").iterdir()):
                shutil.unpack_archive(archive, "runs", filter="data")
            yield


class Worlds:
    """Makes each world once in ``root``, which all workers of a session share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def data(self, kind: str, noise: bool = False) -> Path:
        """A data set."""
        return self.once(f"{kind}-noise" if noise else kind, lambda out: KINDS[kind][0](out, noise))

    def live(self) -> Path:
        """Made-up events that say when listings are live."""
        words = ("--events", 2500, "--items", 250, "--names", 120, "--users", 60, "--days", 8, "--test-days", 2)
        made = ("prepare", "merrec-synthetic", *words, "--lifetime", 4)
        return self.once("live", lambda out: call(*made, "--out", out) or write_vectors(out))

    def config(self, model: str, /, noise: Any = False, **more: dict[str, Any]) -> Path:
        """The file of a configuration."""
        data = more.get("data", {}).get("path") or self.data(kind_of(model), noise)
        sections = sections_of(model, Path(data), noise, **more | {"data": more.get("data", {}) | {"path": str(data)}})
        text = yaml.safe_dump(sections, allow_unicode=True)
        name = f"{model}{'-noise' if noise else ''}-{_short(text)}.yaml"
        return self.once(name, lambda out: out.write_text(text, encoding="utf-8"))

    def run(self, model: str, /, noise: Any = False, **more: dict[str, Any]) -> Path:
        """A trained run."""
        config = self.config(model, noise, **more)
        return self.once(config.stem, lambda out: call("train", "--config", config, "--run", out))

    def evaluated(self, run: Path, split: str = "test") -> dict[str, Any]:
        """What evaluating a run of this world says."""
        self.once(f"{run.name}-{split}", lambda out: call("evaluate", "--run", run, "--split", split))
        found: dict[str, Any] = json.loads((run / f"eval-{split}.json").read_text(encoding="utf-8"))
        return found

    def towers(self) -> Path:
        """An evaluated run of two towers with ``Shop.rule``, which needs no training."""

        def make(out: Path) -> int:
            shutil.copytree(self.run("two_tower"), out, ignore=shutil.ignore_patterns("eval-*"))
            config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
            config["evaluation"]["category"], config["recommendation"] = "category", {"rules": [Shop.rule]}
            (out / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            return call("evaluate", "--run", out, "--baselines", "popularity")

        return self.once("towers", make)

    def old(self, name: str) -> Path:
        """A run of ``tests/old``: gru4rec, sasrec, merrec, autoint or two_tower."""
        archive = OLD / "runs" / f"{name}.tar.xz"
        return self.once(f"old-{name}", lambda out: shutil.unpack_archive(archive, out, filter="data")) / name

    def blend(self) -> Path:
        """Of two networks and neighbours, weights fitted on validation."""
        words = ("blend", "--runs", self.run("gru4rec"), self.run("narm"), "--neighbours", "stan:k=50", "spop", "--run")
        return self.once("blend", lambda out: call(*words, out))

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A place under ``root`` that the first worker that asks has made; others wait for it."""
        out, done = self.root / name, self.root / f".{name}.made"
        if not done.exists():
            with open(self.root / f".{name}.making", "w", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if not done.exists():
                    assert make(out) != 2, f"{name}: a command failed"
                    done.touch()
        return out


def _short(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:8]
