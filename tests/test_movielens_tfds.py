"""MovieLens 1M through tensorflow-datasets: what the files hold, in their order, prepared once; and what can fail."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from test_movielens_files import assert_same, texts, tiny, write_archive

from jaxrec.errors import UserError
from jaxrec.sources import movielens_tfds
from jaxrec.sources.movielens_files import read_files
from jaxrec.sources.movielens_tfds import NAME, VERSION, load_tfds

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "ml-1m.zip", texts(tiny()))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("chunk", [7, 100, movielens_tfds.CHUNK])
def test_gives_what_the_files_hold_in_their_order(
    chunk: int, archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens_tfds, "CHUNK", chunk)
    assert_same(load_tfds(cache, archive), tiny())
    assert_same(load_tfds(cache, archive), read_files(archive))
    stored = movielens_tfds._builder_class()(data_dir=cache).as_data_source("ratings")
    assert [int(example["row"]) for example in stored] == list(range(0, 300, chunk))
    assert "tensorflow" not in sys.modules


def test_prepares_once(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    first = load_tfds(cache, archive)
    monkeypatch.setattr(movielens_tfds, "_prepare", lambda *_: pytest.fail("prepared again"))
    movielens_tfds._builder_class.cache_clear()  # as in another process: a second class of the same name
    assert_same(load_tfds(cache), first)
    assert capfd.readouterr() == ("", ""), "the terminal is the command's"


def test_what_fails_in_the_middle_leaves_no_cache(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(movielens_tfds, "_example", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_tfds(cache, archive)
    damaged = archive.with_name("damaged.zip")
    damaged.write_bytes(archive.read_bytes()[:-40])
    refuses(cache, damaged, r"damaged\.zip: truncated or damaged zip; fetch the file again$")
    assert_same(load_tfds(cache, archive), tiny())


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_mistake_in_the_archive_is_named_with_its_line(tmp_path: Path, cache: Path) -> None:
    contents = texts(tiny())
    contents["ratings.dat"] += "1::2::6::4\n"
    raw = write_archive(tmp_path / "a.zip", contents)
    refuses(
        cache, raw, r"a\.zip/ml-1m/ratings\.dat: line 301, field 'rating': found '6', expected a whole number from 1"
    )


@pytest.mark.parametrize("damage", ["data", "description", "file"])
def test_a_damaged_cache_is_named(damage: str, archive: Path, cache: Path) -> None:
    load_tfds(cache, archive)
    place = cache / NAME / VERSION
    file = next(place.glob("*-ratings.*"))
    if damage == "data":
        data = file.read_bytes()
        file.write_bytes(data[:1000])
    elif damage == "description":
        (place / "dataset_info.json").write_text("{")
    else:
        file.unlink()
    refuses(cache, archive, rf"^{re.escape(str(place))}: cannot be read \(\w+\); delete this folder and run again$")


def test_a_cache_that_cannot_be_written(archive: Path) -> None:
    refuses(
        archive, archive, r"ml-1m\.zip: cannot be written \(Not a directory\); choose another folder for the cache$"
    )


@pytest.mark.parametrize(
    "module", ["tensorflow_datasets", "array_record.python.array_record_module", "importlib_resources"]
)
def test_without_the_extra(module: str, archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    refuses(
        cache, archive, rf"^--tfds: needs tensorflow-datasets \(no module '{module}'\); pip install 'jaxrec\[tfds\]'$"
    )


def test_is_imported_only_when_asked_for() -> None:
    code = "import sys, jaxrec.sources.movielens_tfds; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The archive comes from a server on this machine, and its checksum is the registered one."""
    from tensorflow_datasets.core.download import checksums

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=archive.parent)) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{served.server_port}/{archive.name}"
        data = archive.read_bytes()
        known = checksums.UrlInfo(len(data), hashlib.sha256(data).hexdigest(), archive.name)
        monkeypatch.setitem(checksums.get_all_url_infos(), url, known)
        monkeypatch.setattr(movielens_tfds, "URL", url)
        yield archive
        served.shutdown()


def test_downloads(server: Path, cache: Path) -> None:
    assert_same(load_tfds(cache), tiny())


def test_a_download_of_something_else(server: Path, cache: Path) -> None:
    contents = texts(tiny())
    write_archive(server, contents | {"users.dat": contents["users.dat"].replace("F", "M")})
    refuses(cache, None, r"--tfds: http://.*/ml-1m\.zip: what came is not the published file .*; download it by hand")
    server.unlink()
    refuses(
        cache, None, r"--tfds: http://.*/ml-1m\.zip: cannot be downloaded \(HTTPError\); download it by hand and give"
    )


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def head(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route\nto host")

    monkeypatch.setattr(requests, "head", head)
    way_on = "download it by hand and give the file to --raw instead of --tfds"
    url = re.escape("https://files.grouplens.org/datasets/movielens/ml-1m.zip")
    refuses(cache, None, rf"^--tfds: {url}: cannot be downloaded \(ConnectionError\); {way_on}$")


def test_the_published_archive_is_known_by_its_checksum() -> None:
    from tensorflow_datasets.core.download import checksums

    assert checksums.get_all_url_infos()[movielens_tfds.URL].size == 5_917_549


def refuses(cache: Path, archive: Path | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_tfds(cache, archive)
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(message, str(caught.value)), caught.value
