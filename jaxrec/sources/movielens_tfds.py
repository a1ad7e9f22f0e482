"""MovieLens 1M through tensorflow-datasets: downloaded, prepared once, then read from its cache. Without TensorFlow.

The builders that tensorflow-datasets ships need TensorFlow to prepare and shuffle the ratings. This one writes
array_record, which needs none, and keeps the order of the lines, by which published splits go. One example is not one
rating but up to ``CHUNK`` rows of a file, a column each: a million examples would take minutes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.errors import UserError
from jaxrec.sources.movielens_files import MovieLensFiles, read_files

URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"  # tensorflow-datasets has its checksum and compares it
NAME = "jaxrec_movielens_1m"  # the folder in the data directory, which may be one that tensorflow-datasets shares
VERSION = "1.0.0"  # of the layout: another one never meets a cache of this one
CHUNK = 10_000  # rows in an example
PATIENCE = 20  # seconds for the server to answer at all

# The columns of MovieLensFiles by split, with the names of their features. All splits of a tensorflow-datasets builder
# share the features: those that a split does not have are empty in it.
COLUMNS = {
    "ratings": {"user": "user_id", "movie": "movie_id", "rating": "rating", "time": "timestamp"},
    "users": {"user": "user_id", "gender": "gender", "age": "age", "occupation": "occupation", "zip": "zip"},
    "movies": {"movie": "movie_id", "title": "title", "genres": "genres"},
}
TEXTS = {"gender", "zip", "title", "genres"}
ROW = "row"  # the feature with the row of an example's first line


def load_tfds(data_dir: Path | None = None, archive: Path | None = None) -> MovieLensFiles:
    """MovieLens 1M from the cache of tensorflow-datasets; the first call downloads and prepares it.

    Args:
        data_dir: the folder of the cache; None: that of tensorflow-datasets, ``$TFDS_DATA_DIR`` or
            ``~/tensorflow_datasets``.
        archive: what to prepare from instead of the download, as ``read_files`` takes it. A cache that is there
            already is used whatever it was prepared from.

    Returns:
        What ``read_files`` gives for the same archive: the same rows, order and types.
    """
    tfds = _import_tfds()
    place = Path(data_dir or tfds.core.constants.DATA_DIR)
    builder_class = _builder_class()
    with _readable(place / NAME / VERSION):  # a builder reads the description of what is there
        builder = builder_class(data_dir=place, file_format="array_record")
    if not builder.data_path.exists():
        builder.archive = archive
        _prepare(tfds, builder, place)
    with _readable(place / NAME / VERSION):
        sources = builder.as_data_source()
        return MovieLensFiles(**{split: _table(sources[split], columns) for split, columns in COLUMNS.items()})


def _import_tfds() -> Any:
    try:
        # What it imports late, or needs without saying so, would otherwise be missed in the middle of preparing.
        for name in ("array_record.python.array_record_module", "importlib_resources"):
            importlib.import_module(name)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(
            f"--tfds: needs tensorflow-datasets (no module '{error.name}'); pip install 'jaxrec[tfds]'"
        ) from None


@contextlib.contextmanager
def _readable(cache: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what damage raises, deep in C++ libraries, is not of any one kind
        raise UserError(f"{cache}: cannot be read ({type(error).__name__}); delete this folder and run again") from None


@functools.cache
def _builder_class() -> Any:
    """The builder, a class of which the base is there only once tensorflow-datasets is imported.

    Left out of the global register of tensorflow-datasets, which takes a name only once: two of this class, as after
    a module is loaded anew, do not collide.
    """
    import tensorflow_datasets as tfds

    numbers = tfds.features.Tensor(shape=(None,), dtype=np.int64)
    texts = tfds.features.Tensor(shape=(None,), dtype=np.str_)
    names = dict.fromkeys(name for columns in COLUMNS.values() for name in columns.values())

    class MovieLens1M(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = NAME
        VERSION = tfds.core.Version(VERSION)
        archive: Path | None = None

        def _info(self) -> Any:
            features = {ROW: np.int64} | {name: texts if name in TEXTS else numbers for name in names}
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"MovieLens 1M as published, up to {CHUNK} rows of a file in an example, in their order.",
                features=tfds.features.FeaturesDict(features),
                homepage="https://grouplens.org/datasets/movielens/1m/",
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            # Its extraction needs TensorFlow, its download does not; we read a zip as it is.
            files = read_files(self.archive or _download(tfds, dl_manager))
            return {name: self._generate_examples(name, table) for name, table in files._asdict().items()}

        def _generate_examples(self, split: str, table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
            for row in range(0, table.num_rows, CHUNK):
                yield row, _example(split, row, table.slice(row, CHUNK), names)

    return MovieLens1M


def _prepare(tfds: Any, builder: Any, place: Path) -> None:
    """Download and write; what an interruption leaves behind is not taken for a cache."""
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says at length what it does
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{place}: cannot be written ({reason}); choose another folder for the cache") from None


def _download(tfds: Any, manager: Any) -> Path:
    """The archive, from the network."""
    import requests  # as tensorflow-datasets does

    try:
        # It tries ten times, for minutes; without a network that is known at once.
        requests.head(URL, timeout=PATIENCE, allow_redirects=True).raise_for_status()
        return Path(manager.download(URL))
    except tfds.core.download.download_manager.NonMatchingChecksumError:
        problem = "what came is not the published file (its checksum differs)"
    except (requests.RequestException, tfds.download.DownloadError) as error:
        problem = f"cannot be downloaded ({type(error).__name__})"
    raise UserError(f"--tfds: {URL}: {problem}; download it by hand and give the file to --raw instead of --tfds")


def _example(split: str, row: int, rows: pa.Table, names: Iterable[str]) -> dict[str, Any]:
    example: dict[str, Any] = dict.fromkeys(names, ()) | {ROW: row}
    for column, name in COLUMNS[split].items():
        example[name] = rows[column].to_pylist() if name in TEXTS else rows[column].to_numpy()
    return example


def _table(source: Any, columns: dict[str, str]) -> pa.Table:
    """The examples of a split, joined in the order of their rows: not that in which they happen to be stored."""
    chunks = sorted(source, key=lambda example: int(example[ROW]))
    arrays = {}
    for column, name in columns.items():
        if name in TEXTS:
            arrays[column] = pa.array([text.decode() for chunk in chunks for text in chunk[name]], pa.string())
        else:
            arrays[column] = pa.array(np.concatenate([chunk[name] for chunk in chunks]), pa.int64())
    return pa.table(arrays)
