"""MovieLens 1M through tensorflow-datasets: downloaded once, compared with its checksum, kept; and what can fail."""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from films import texts, tiny, write_archive

from jaxrec.errors import UserError
from jaxrec.sources import movielens
from jaxrec.sources.movielens import fetch, read_files

pytestmark = pytest.mark.slow


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
