"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

``embed`` encodes what the cache lacks in another process (jaxrec/data/text/worker.py, which also describes the files):
the process that calls it never imports torch. As a command it fills the cache, for instance while no training uses the
device:

  python -m jaxrec.text --texts items.parquet --column name --model sentence-transformers/all-MiniLM-L6-v2
  python -m jaxrec.text --data data/merrec

of which the second also puts the vectors of a data set's item names beside it (jaxrec/data/text/vectors.py).

The vectors of a text depend on the text and the model alone: the cache knows a model of the hub by its name and
revision, and one in a folder by what its files hold. A model of the hub that was fetched once is used as it is; nobody
asks the hub again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxrec
from jaxrec.cli.command import Parser, command, progress
from jaxrec.cli.lock import owned
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checksum
from jaxrec.data.text.vectors import NAMES, TEXT, names_key, open_name_vectors, write_name_vectors
from jaxrec.data.text.worker import INSTALL, open_store, text_keys
from jaxrec.errors import UserError, nearest

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIGURATION = (".json", ".txt", ".model", ".py")  # with vocabularies
OTHER_ENGINES = ("onnx", "openvino")  # folders with weights that are not used
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
ORGANISATION = "sentence-transformers"  # of a hub name without one
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


class Encoded(NamedTuple):
    """Texts and where their vectors are.

    Attributes:
        vectors: float16[any, dim], mapped; of length 1.
        rows: int64[n], the vector of each text.
        unique: distinct texts.
        new: those of them that had to be encoded, which took ``seconds`` without loading the model.
        identity: of the model: the name of its folder in the cache.
    """

    vectors: np.ndarray
    rows: np.ndarray
    unique: int
    new: int
    seconds: float
    identity: str


def embed(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> np.ndarray:
    """The sentence embeddings of texts; those that the cache lacks are encoded, each once.

    Args:
        texts: any number; the same one may come several times.
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        cache: the folder under which vectors are kept. Default: ``text`` in the directory that the environment
            variable ``JAXREC_CACHE`` names, ``~/.cache/jaxrec`` where it is not set; nothing is kept where it is empty.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of texts.

    Returns:
        float16[n, dim], of length 1 up to rounding, in the order of ``texts``. It does not depend on the other texts
        by more than the last bit of a float16, and not at all once it is in the cache.

    Raises:
        UserError: no texts, an empty one, a model that cannot be had or used, or a cache that cannot be written.
    """
    with encoded(texts, model, cache, update) as result:
        return np.asarray(result.vectors[result.rows])


@contextmanager
def encoded(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> Iterator[Encoded]:
    """As ``embed``, for those who want the vectors where they lie: mapped, and gone after the block if none are kept.

    Raises:
        UserError: see ``embed``.
    """
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    keys = _check(texts, place)
    update = update or (lambda advance=1, note="": None)
    with ExitStack() as stack:
        folder, identity = find_model(model, update)
        root = cache or _default_cache() or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrec-")))
        rows = open_store(root / identity).find(keys)
        missing = [text for text, row in zip(place, rows, strict=True) if row < 0]
        update(len(texts) - len(missing), note="")
        worked = {"encoded": 0, "seconds": 0.0}
        if missing:
            worked |= _run(["encode", str(folder), model, str(root / identity)], missing, update)
        store = open_store(root / identity)
        rows = store.find(keys) if missing else rows
        if (rows < 0).any():
            raise AssertionError(f"{root / identity}: vectors are missing after encoding")
        by_text = np.fromiter((place[text] for text in texts), np.int64, len(texts))
        yield Encoded(store.vectors, rows[by_text], len(place), int(worked["encoded"]), worked["seconds"], identity)


def _check(texts: Sequence[str], unique: dict[str, int]) -> np.ndarray:
    """The keys of ``unique``, if all can be encoded."""
    if not len(texts):
        raise UserError("texts: there are none; give at least one")
    if all(isinstance(text, str) and text.strip() for text in unique):
        try:
            return text_keys(unique)
        except UnicodeEncodeError:
            pass
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise UserError(f"texts: number {number} of {len(texts)} is {text!r}; expected text, fill or leave it out")
        if not text.strip():
            raise UserError(f"texts: number {number} of {len(texts)} is empty; fill it or leave it out")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"texts: number {number} of {len(texts)} is no valid Unicode ({text!a}); mend it")
    raise AssertionError("unreachable: some text is wrong")


def _default_cache() -> Path | None:
    place = os.environ.get("JAXREC_CACHE", str(Path.home() / ".cache" / "jaxrec"))
    return Path(place) / "text" if place else None


# --- models -----------------------------------------------------------------------------------------------------------


def find_model(model: str, update: Callable[..., None]) -> tuple[Path, str]:
    """The folder of a model, fetched from the hub where need be, and the name of its vectors' folder in the cache.

    Raises:
        UserError: there is no such model, it is none that can be used, or the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder, f"{model}: ")
        return folder, _hub_identity(folder) or f"folder-{_fingerprint(folder)[:32]}"
    if folder.exists():
        raise UserError(f"{model}: a file; give the folder of a sentence-transformers model, or a hub name")
    if not re.fullmatch(HUB_NAME, model):
        raise UserError(f"{model}: no such folder; give one, or a name on the hub, as '{DEFAULT}'")
    name = model if "/" in model else f"{ORGANISATION}/{model}"
    hub = _hub_cache()
    found = _snapshot(hub, name)
    if found is None:
        update(0, note=f"fetch {name}")
        _run(["fetch", name, str(hub)], [], update)
        found = _snapshot(hub, name)
        if found is None:
            raise UserError(f"{name}: no sentence-transformers model (it has no modules.json); give another")
    return found, f"{name.replace('/', '--')}-{found.name}"


def _hub_identity(folder: Path) -> str | None:
    """That of a model of the hub whose snapshot was copied here with the folders around it, else None."""
    around = folder.absolute().parent
    if around.name != "snapshots" or not around.parent.name.startswith("models--"):
        return None
    return f"{around.parent.name.removeprefix('models--')}-{folder.name}"


def _hub_cache() -> Path:
    """Where the hub's client keeps models."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{caches}/huggingface")).expanduser() / "hub"


def _snapshot(hub: Path, name: str) -> Path | None:
    """The folder of a hub model in the hub's cache, named after its revision; None where it is not there as a whole."""
    place = hub / f"models--{name.replace('/', '--')}"
    try:
        revision = (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = place / "snapshots" / revision
    return folder if (folder / "modules.json").is_file() and _files(folder, WEIGHTS) else None


def _check_folder(folder: Path, prefix: str) -> None:
    missing = "modules.json" if not (folder / "modules.json").is_file() else "weights (*.safetensors or *.bin)"
    if missing == "modules.json" or not _files(folder, WEIGHTS):
        raise UserError(f"{prefix}no sentence-transformers model, it has no {missing}; give a folder that "
                        "SentenceTransformer.save made, or a hub name")  # fmt: skip


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files under a folder that belong to the model, by name."""
    inside = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in suffixes)
    return [file for file in inside if file.parts[0] not in OTHER_ENGINES and (folder / file).is_file()]


def _fingerprint(folder: Path) -> str:
    """The sha256 of names, sizes and checksums of all that decides what a model makes of a text."""
    lines = [
        f"{checksum(folder / file)} {(folder / file).stat().st_size} {file.as_posix()}\n"
        for file in _files(folder, (*CONFIGURATION, *WEIGHTS))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- the other process ------------------------------------------------------------------------------------------------


def _run(words: list[str], texts: Sequence[str], update: Callable[..., None]) -> dict[str, Any]:
    """Run the worker to its end; returns the figures that it gave last."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"sentence-transformers: not installed, and texts are to be encoded; {INSTALL}")
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as complaints:
        names.writelines(json.dumps(text).encode() + b"\n" for text in texts)
        names.seek(0)
        line = [sys.executable, "-W", "ignore", "-m", "jaxrec.data.text.worker", *words]
        with subprocess.Popen(
            line, stdin=names, stdout=subprocess.PIPE, stderr=complaints, env=_environment(words[0])
        ) as process:
            try:
                assert process.stdout is not None
                for answer in process.stdout:
                    message = json.loads(answer)
                    if "error" in message:
                        raise UserError(message["error"])
                    update(message.get("done", 0), note=message["note"])
                    last |= {name: message[name] for name in ("encoded", "seconds") if name in message}
            except BaseException:
                process.kill()  # what it has written stays, and the next call goes on from there
                raise
        if process.returncode:
            raise UserError(_ended(words[0], process.returncode, complaints))
    return last


def _environment(task: str) -> dict[str, str]:
    paths = [str(Path(jaxrec.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1"} if task == "encode" else {}  # the folder is complete, or the model is no good
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def _ended(task: str, status: int, complaints: Any) -> str:
    if status < 0:
        reason = f"was killed by signal {-status}, perhaps for want of memory"
    else:
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
        reason = f"ended with status {status} ({lines[-1][:200] if lines else 'it said nothing'})"
    then = "; run it again: it goes on where it stopped" if task == "encode" else "; run it again"
    return f"texts: the process that should {task} {reason}{then}"


# --- the command ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Run the command.

    Raises:
        UserError: a bad option or file; see also ``embed``.
    """
    parser = Parser(prog="python -m jaxrec.text", description="Encode texts, and keep the vectors.")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--texts", type=Path, metavar="FILE", help=".parquet, .csv, or .txt (a text a line)")
    given.add_argument("--data", type=Path, metavar="DIR", help="a data set whose items have names: encode those, and "
                       "write them to DIR/text")  # fmt: skip
    parser.add_argument("--column", metavar="NAME", help="of .parquet and .csv: the column that holds the texts")
    parser.add_argument("--model", default=DEFAULT, metavar="M", help="a name on the hub, or a folder (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the vectors of --texts there too: "
                        "float16[texts, dim], .npy")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.data is None:
        _encode_texts(arguments.texts, arguments.column, arguments.model, arguments.out)
        return
    for option in ("column", "out"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option}: not with --data, which reads and writes in its directory; leave it out")
    with owned(arguments.data / TEXT, "embeds the names of this data set", "end it"):
        _encode_names(arguments.data, arguments.model)


def _encode_texts(file: Path, column: str | None, model: str, out: Path | None) -> None:
    texts = read_texts(file, column)
    with progress("encode texts", total=len(texts)) as update, encoded(texts, model, update=update) as result:
        print(f"{len(texts):,} texts, {_summary(result)}")
        if out:
            _write(out, result)
            print(f"wrote {out}")


def _summary(result: Encoded) -> str:
    speed = f", {result.new / result.seconds:,.0f} names/s" if result.new and result.seconds else ""
    return f"{result.unique:,} unique, {result.new:,} encoded now{speed}; {result.vectors.shape[1]} dimensions"


def _encode_names(data: Path, model: str) -> None:
    """Put the vectors of a data set's names beside it, unless they are there."""
    manifest = open_dataset(data).manifest
    key, counts = names_key(data, manifest), manifest["counts"]
    if not counts["names"]:
        raise UserError(f"{data}: none of its {counts['items']:,} items has a name; there is nothing to encode")
    with progress("encode names", total=counts["names"]) as update:
        _, identity = find_model(model, update)
        try:
            there = open_name_vectors(data, manifest, identity)
        except UserError:  # missing, damaged or of names that the data set had before: all are mended below
            pass
        else:
            print(f"{there.folder}: there already, of {counts['names']:,} names; nothing to do")
            return
        file = data / NAMES
        if not file.is_file() or checksum(file) != key:
            raise UserError(f"{file}: damaged or missing (checksum differs); prepare the data set again")
        with encoded(read_texts(file, "name"), model, update=update) as result:
            named = counts["items"] - counts["unnamed"]
            print(f"{named:,} items with names, {_summary(result)}")
            if counts["unnamed"]:
                print(f"{counts['unnamed']:,} items without a name: their vectors are all zeros")
            print(f"wrote {write_name_vectors(data, manifest, model, result.identity, result.vectors, result.rows)}")


def _write(out: Path, result: Encoded) -> None:
    try:
        with open(out, "wb") as stream:
            np.save(stream, result.vectors[result.rows], allow_pickle=False)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None


def read_texts(file: Path, column: str | None = None) -> list[str]:
    """The lines of a .txt file, or a column of a .parquet or .csv file, in their order; a missing value is None.

    Raises:
        UserError: missing or damaged, of another kind, not UTF-8, or without such a column of text.
    """
    kind = file.suffix.lower()
    if kind not in (".parquet", ".csv", ".txt"):
        raise UserError(f"{file}: of an unknown kind; --texts takes .parquet, .csv or .txt")
    if not file.is_file():
        raise UserError(f"{file}: no such file; check --texts")
    if kind == ".txt":
        if column is not None:
            raise UserError(f"{file}: a .txt file has no columns; leave out --column")
        try:
            return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n") if file.stat().st_size else []
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 at byte {error.start}; convert it") from None
    return _read_column(file, column, kind)


def _read_column(file: Path, column: str | None, kind: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if kind == ".parquet":
            names = pq.read_schema(file).names
        else:
            with pa.csv.open_csv(file) as reader:
                names = reader.schema.names
        if column is None:
            raise UserError(f"{file}: which column? Give --column, one of: {', '.join(names)}")
        if names.count(column) != 1:
            found = "twice" if column in names else "not there"
            raise UserError(f"{file}: column '{column}' is {found}{nearest(column, names)}; it has: {', '.join(names)}")
        if kind == ".parquet":
            values = pq.read_table(file, columns=[column]).column(0)
        else:
            options = pa.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
            parsing = pa.csv.ParseOptions(newlines_in_values=True)
            values = pa.csv.read_csv(file, parse_options=parsing, convert_options=options).column(0)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: damaged, or not {kind} ({str(error).splitlines()[0]}); write it again") from None
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise UserError(f"{file}: column '{column}' is of type {values.type}; expected text")
    return values.to_pylist()


if __name__ == "__main__":
    sys.exit(command(main))
