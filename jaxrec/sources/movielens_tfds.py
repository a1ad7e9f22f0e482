"""The archive of MovieLens 1M through the downloads of tensorflow-datasets: checked, kept, and without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from jaxrec.errors import UserError

URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"  # tensorflow-datasets has its checksum and compares it
PLACE = "downloads/jaxrec_movielens_1m"  # in the data directory, which may be one that tensorflow-datasets shares
PATIENCE = 20  # seconds for the server to answer at all


def fetch(data_dir: Path | None = None) -> Path:
    """The published archive, as ``read_files`` takes it; the first call downloads it.

    Args:
        data_dir: the folder of tensorflow-datasets; None: its own, ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
    """
    try:
        import requests
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"--tfds: needs tensorflow-datasets (no module '{error.name}'); pip install "
                        "'jaxrec[tfds]'") from None  # fmt: skip
    place = Path(data_dir or tfds.core.constants.DATA_DIR) / PLACE
    if kept := sorted(place.glob("*.zip")):
        return kept[0]
    tfds.disable_progress_bar()
    try:
        manager = tfds.download.DownloadManager(download_dir=place, force_checksums_validation=True)
        # The manager tries ten times, for minutes; without a network that is known at once.
        requests.head(URL, timeout=PATIENCE, allow_redirects=True).raise_for_status()
        return Path(manager.download(URL))
    except tfds.core.download.download_manager.NonMatchingChecksumError:
        problem = "what came is not the published file (its checksum differs)"
    except (requests.RequestException, tfds.download.DownloadError) as error:
        problem = f"cannot be downloaded ({type(error).__name__})"
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); choose another --tfds-dir") from None
    raise UserError(f"--tfds: {URL}: {problem}; download it by hand and give the file to --raw instead of --tfds")
