"""Sources of rows: any table, MovieLens 1M from its files, and made-up clicks whose best predictions are known."""

from __future__ import annotations

import functools
import gzip
import hashlib
import sys
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fails

from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.errors import UserError
from jaxrec.metrics.clicks import auc
from jaxrec.prepare import main
from jaxrec.sources import movielens, rows_synthetic
from jaxrec.sources.movielens import FILES, fetch, read_files

CLICKS = """uid,item,clicked,at,gender,brand,genres,price,stars
7,a,1,2024-01-01T10:00:00Z,M,acme,Drama|War,3.5,5
8,b,0,2024-01-02T10:00:00.900Z,F,,Comedy,,3
7,b,0,2024-01-03T10:00:00Z,M,"ze,ta",,-10,4
9,c,1,2024-01-04T10:00:00Z,,acme,War|Drama||War,100,1
"""
OPTIONS = ["--label=clicked", "--user=uid", "--item=item", "--time=at", "--categorical", "gender", "brand",
           "--bag", "genres", "--numerical", "price", "--log-numerical", "price", "--user-fields", "gender",
           "--item-fields", "brand", "genres", "price"]  # fmt: skip


def prepared(out: Path, *argv: object) -> RowsDataset:
    main([*map(str, argv), "--out", str(out)])
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    return dataset


def write(file: Path, text: str = CLICKS) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def values(dataset: RowsDataset, name: str) -> list[Any]:
    """The raw values of a field by row; of a bag lists."""
    known = [None, *dataset.values(name)]
    columns = dataset.rows().columns[:, dataset.schema.columns((name,))]
    rows = [[known[code] for code in row if code >= 0] for row in columns.tolist()]
    bag = next(field.kind for field in dataset.schema.fields if field.name == name) == "bag"
    return rows if bag else [row[0] for row in rows]


def test_rows_of_a_table(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "out", "rows", "--raw", write(tmp_path / "c.csv"), *OPTIONS)
    assert values(dataset, "uid") == [7, 8, 7, 9] and values(dataset, "item") == ["a", "b", "b", "c"]
    assert values(dataset, "gender") == ["M", "F", "M", None]
    assert values(dataset, "brand") == ["acme", None, "ze,ta", "acme"]
    assert values(dataset, "genres") == [["Drama", "War"], ["Comedy"], [None], ["War", "Drama", "War"]]
    rows = dataset.rows()
    assert rows.labels.tolist() == [1, 0, 0, 1]
    assert rows.times.tolist() == [1704103200000 + 86400000 * day + 900 * (day == 1) for day in range(4)]
    assert dataset.manifest["times"] == {"unit": "ms", "first": "2024-01-01T10:00:00Z", "last": "2024-01-04T10:00:00Z"}
    logs = np.array([np.log1p(3.5), -np.log1p(10), np.log1p(100)])
    np.testing.assert_allclose(rows.numbers[[0, 2, 3], 0], (logs - logs.mean()) / logs.std(), rtol=1e-6)
    assert pq.read_table(dataset.path / "items.parquet")["brand"].to_pylist() == [None, "acme", "ze,ta", "acme"]


def test_every_way_of_packing_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = CLICKS.replace(".900Z", "Z")
    tabs = write(tmp_path / "tabs.csv", whole.replace('"ze,ta"', "ze;ta").replace(",", "\t").replace(";", ","))
    table = pa.table({
        "uid": pa.array([7, 8, 7, 9], pa.uint8()), "item": list("abbc"), "clicked": [True, False, False, True],
        "at": pa.array(np.array([f"2024-01-0{day}T10:00" for day in range(1, 5)], "datetime64[us]")),
        "gender": ["M", "F", "M", None], "brand": ["acme", "", "ze,ta", "acme"], "price": [3.5, float("nan"), -10, 100],
        "genres": [["Drama", "War"], ["Comedy"], None, ["War", "Drama", "War"]],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "c.parquet")
    lines = whole.splitlines(keepends=True)
    more = write(tmp_path / "more.csv", "".join([*lines[:3], "7,a,oops,2024-01-01,,,,,\n", *lines[1:]]))
    ways: list[list[Any]] = [[write(tmp_path / "c.csv", whole)], [tmp_path / "c.parquet"], [tabs, "--delimiter", "\\t"],
                             [more, "--drop-invalid", "--drop-duplicates"]]  # fmt: skip
    made = [prepared(tmp_path / str(n), "rows", "--raw", *way, *OPTIONS) for n, way in enumerate(ways)]
    assert len({one.manifest["content_hash"] for one in made}) == 1


def test_ratings_rare_values_and_lists_of_integers(tmp_path: Path) -> None:
    table = pa.table({
        "stars": pa.array([5, 1, 4, 2], pa.int8()), "a": ["01", "01", "2", None], "b": [1.5, 1.5, float("nan"), 2.0],
        "c{": [[1, 2], [2], [], [2, None]], "d": ["1{2", "2", "", "2"],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "r.parquet")
    words = ["--label=stars", "--positive=4", "--min-count=2", "--categorical", "a", "b", "--bag", "c{", "d"]
    dataset = prepared(tmp_path / "out", "rows", "--raw", tmp_path / "r.parquet", *words, "--bag-separator={")
    assert values(dataset, "a") == ["01", "01", None, None] and values(dataset, "b") == ["1.5", "1.5", None, None]
    assert values(dataset, "c{") == values(dataset, "d") == [[None, 2], [2], [None], [2]]
    assert dataset.manifest["label"] == {"threshold": 4.0, "low": 1.0, "high": 5.0}
    assert dataset.rows().labels.tolist() == [1, 0, 1, 0] and not dataset.rows().times.any()


LABEL, FIELD = ["--label", "clicked"], ["--categorical", "brand"]


@pytest.mark.parametrize(("argv", "message"), [
    (FIELD, "--label: not given, .*needs --user and --item"),
    ([*LABEL, "--user", "uid", "--item", "item", "--item-fields", "uid"], "--item-fields uid: "),
    ([*LABEL, "--bag", "genres"], "row 2, column 'genres': a bag of 300 values"),
    ([*LABEL, "--bag", "gender"], "column 'gender': all bags are lists as text, in . and .; write their values with"),
])  # fmt: skip
def test_what_rows_refuses(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = CLICKS.replace(",M,", ",[M],").replace(",F,", ",[F],")
    raw = write(tmp_path / "c.csv", lists.replace("Comedy", "x|" * 300))
    fails(capsys, "prepare", "rows", "--raw", raw, "--out", tmp_path / "deep" / "out", *argv, names=message)
    assert list(tmp_path.iterdir()) == [raw]  # nothing half-written


# --- MovieLens --------------------------------------------------------------------------------------------------------


USERS, MOVIES, RATINGS = 30, 40, 300
# By movie; the last one has what Python and CSV readers may take for the end of a line, or a quote.
TITLES = {1: "Misérables, Les (1995)", 2: "Mission: Impossible: (1996)", 3: "\x1c\u00a0\t'\" (1999)"}


def tiny() -> list[pa.Table]:
    """Made-up data of that kind, in no order; the last user and the last movie have no ratings."""
    random = np.random.default_rng(0)
    users = random.choice(np.arange(1, 100), USERS, replace=False)
    movies = np.concatenate([list(TITLES), random.choice(np.arange(10, 4000), MOVIES - len(TITLES), replace=False)])
    ratings = {
        "user": random.choice(users[:-1], RATINGS),
        "movie": random.choice(movies[:-1], RATINGS),
        "rating": random.integers(1, 6, RATINGS),
        "time": random.integers(956_703_932, 1_046_454_590, RATINGS),
    }
    people = {
        "user": users,
        "gender": random.choice(["F", "M"], USERS).tolist(),
        "age": random.choice([1, 18, 25, 35, 45, 50, 56], USERS),
        "occupation": random.integers(0, 21, USERS),
        "zip": ["98107-2117", "00231", *(f"{code:05}" for code in random.integers(0, 99_999, USERS - 2))],
    }
    films = {
        "movie": movies,
        "title": [TITLES.get(int(movie), f"Film {movie} (1990)") for movie in movies],
        "genres": random.choice(["Drama", "Comedy|Romance", "Animation|Children's|Comedy"], MOVIES).tolist(),
    }
    return [pa.table(ratings), pa.table(people), pa.table(films)]


def texts(files: list[pa.Table]) -> dict[str, str]:
    """The three files as they are published, by name."""

    def lines(table: pa.Table) -> str:
        return "".join("::".join(map(str, row.values())) + "\n" for row in table.to_pylist())

    return {name: lines(table) for name, table in zip(FILES, files, strict=True)}


def write_folder(folder: Path, contents: dict[str, str], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        data = text.encode("latin-1")
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data, 1) if packed else data)
    return folder


def write_archive(path: Path, contents: dict[str, str], folder: str = "ml-1m/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ({"README": "Read me."} | contents).items():
            archive.writestr(folder + name, text.encode("latin-1"))
    return path


def films(duck: Any, raw: Path) -> list[pa.Table]:
    duck.execute("DROP TABLE IF EXISTS raw")
    return read_files(duck, raw)


def test_all_places_and_packings_give_the_same(duck: Any, tmp_path: Path) -> None:
    contents = texts(tiny())
    contents["users.dat"] = contents["users.dat"].replace("\n", "\r\n") + "\r\n"  # as editors leave it
    for raw in (write_folder(tmp_path / "a" / "ml-1m", contents).parent, write_folder(tmp_path / "b", contents, True),
                write_archive(tmp_path / "c.zip", contents), write_archive(tmp_path / "d", contents, "")):  # fmt: skip
        assert films(duck, raw) == tiny()


@pytest.mark.parametrize(("name", "line", "to", "message"), [
    ("movies.dat", 5, "{0},{1},{2}", r"movies\.dat: .*Line: 5 .*Columns: 3 Found: 1"),
    ("ratings.dat", 42, "{0}::{1}::6::{3}", r"ratings\.dat: row 42, column 'rating': found '6', expected 1 to 5"),
    ("ratings.dat", 5, "777::{1}::{2}::{3}", r"users\.dat: user 777 "),
])  # fmt: skip
def test_what_is_wrong_is_named(name: str, line: int, to: str, message: str, duck: Any, tmp_path: Path) -> None:
    lines = (contents := texts(tiny()))[name].split("\n")
    lines[line - 1] = to.format(*lines[line - 1].split("::"))
    for raw in (write_folder(tmp_path / "a", contents | {name: "\n".join(lines)}), tmp_path / "none",
                write_archive(tmp_path / "b.zip", {})):  # fmt: skip
        with pytest.raises(UserError, match=f"^{raw}.*({message}|no ratings.dat in it)"):
            films(duck, raw)


@pytest.mark.slow
def test_a_download_is_checked_and_kept(duck: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server on this machine, with the checksum registered as that of the archive."""
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.core.download import checksums

    def fetched(place: str) -> Path:
        monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / place))
        return fetch()

    assert checksums.get_all_url_infos()[movielens.URL].size == 5_917_549
    archive = write_archive(tmp_path / "ml-1m.zip", texts(tiny()))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=archive.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url, data = f"http://127.0.0.1:{server.server_port}/{archive.name}", archive.read_bytes()
        known = checksums.UrlInfo(len(data), hashlib.sha256(data).hexdigest(), archive.name)
        monkeypatch.setitem(checksums.get_all_url_infos(), url, known)
        monkeypatch.setattr(movielens, "URL", url)
        assert read_files(duck, fetched("kept")) == tiny()
        write_archive(archive, texts(tiny()) | {"users.dat": ""})
        with pytest.raises(UserError, match=r"ml-1m\.zip does not come .*NonMatchingChecksumError"):
            fetched("other")
        archive.unlink()
        assert read_files(duck, fetched("kept")) == tiny()
        with pytest.raises(UserError, match=r"ml-1m\.zip does not come .*HTTPError.*; download it by hand"):
            fetched("none")
        server.shutdown()
    assert "tensorflow" not in sys.modules


# --- made-up clicks ---------------------------------------------------------------------------------------------------

MADE = ["rows-synthetic", "--rows=20000", "--users=50", "--items=30", "--seed=3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    return prepared(tmp_path_factory.mktemp("made") / "out", *MADE)


def test_the_optimum_is_that_of_the_labels_probabilities() -> None:
    random = np.random.default_rng(0)
    probability = np.round(random.uniform(0.01, 0.99, 3000), 2)  # with ties
    labels = (random.random(3000) < probability).astype(np.float32)
    found = rows_synthetic.optimum(probability, labels)
    assert found["auc"] == pytest.approx(auc(probability.astype(np.float32), labels), abs=1e-9)
    expected = -np.mean(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    assert found["log_loss"] == pytest.approx(expected, abs=1e-8)


def test_noise_lowers_the_optimum_and_independent_labels_leave_none(made: RowsDataset, tmp_path: Path) -> None:
    noisy = prepared(tmp_path / "noisy", *MADE, "--noise=0.5").manifest["optimum"]
    assert 0.6 < noisy["auc"] < made.manifest["optimum"]["auc"] - 0.1
    assert noisy["log_loss"] > made.manifest["optimum"]["log_loss"]
    control = prepared(tmp_path / "control", *MADE, "--independent")
    share, best = float(control.rows().labels.mean()), control.manifest["optimum"]
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert best["auc"] == 0.5 and best["log_loss"] == pytest.approx(entropy, abs=1e-3)
