"""MovieLens 1M through tensorflow-datasets: downloaded once, compared with its checksum, kept; and what can fail."""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from films import assert_same, texts, tiny, write_archive

from jaxrec.errors import UserError
from jaxrec.sources import movielens
from jaxrec.sources.movielens import fetch, read_files

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The archive comes from a server on this machine, and its checksum is the registered one."""
    from tensorflow_datasets.core.download import checksums

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    archive = write_archive(tmp_path / "ml-1m.zip", texts(tiny()))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=archive.parent)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        data = archive.read_bytes()
        known = checksums.UrlInfo(len(data), hashlib.sha256(data).hexdigest(), archive.name)
        monkeypatch.setitem(checksums.get_all_url_infos(), url, known)
        monkeypatch.setattr(movielens, "URL", url)
        yield archive
        server.shutdown()


def test_downloads_once(served: Path, tmp_path: Path) -> None:
    assert_same(read_files(fetch(tmp_path / "cache")), tiny())
    served.unlink()
    assert_same(read_files(fetch(tmp_path / "cache")), tiny())
    assert "tensorflow" not in sys.modules


def test_a_download_of_something_else(served: Path, tmp_path: Path) -> None:
    contents = texts(tiny())
    write_archive(served, contents | {"users.dat": contents["users.dat"].replace("F", "M")})
    refuses(tmp_path / "cache", r"--tfds: http://.*/ml-1m\.zip: what came is not the published file")
    served.unlink()
    refuses(tmp_path / "cache", r"--tfds: http://.*/ml-1m\.zip: cannot be downloaded \(HTTPError\)")
    refuses(tmp_path / "file" if (tmp_path / "file").write_text("x") else tmp_path, "file.*: cannot be written")


def test_without_a_network_or_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def head(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route\nto host")

    monkeypatch.setattr(requests, "head", head)
    refuses(tmp_path, r"--tfds: https://files.*ml-1m.zip: cannot be downloaded \(ConnectionError\); download")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    refuses(tmp_path, r"--tfds: needs tensorflow-datasets .*pip install 'jaxrec\[tfds\]'")


def test_the_published_archive_is_known_by_its_checksum() -> None:
    from tensorflow_datasets.core.download import checksums

    assert checksums.get_all_url_infos()[movielens.URL].size == 5_917_549


def refuses(cache: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(cache)
