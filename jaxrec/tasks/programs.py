"""Runs the programs of an exported directory with jax, numpy and flatbuffers alone; of --format onnx with onnxruntime
and numpy. ``manifest.json`` beside this file says what goes in and what comes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Programs:
    """The programs of a directory, loaded when they are first called. Items are called by their position in ``ids``."""

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.ids = self.array("ids")
        self._positions = {str(raw): position for position, raw in enumerate(self.ids.tolist())}
        self._weights, self._loaded = dict[str, Any](), dict[str, Any]()

    def array(self, name: str) -> np.ndarray:
        """An array of the directory."""
        array: np.ndarray = np.load(self.folder / f"{name}.npy")
        return array

    def position(self, raw: Any) -> int:
        """The position of a raw id; -1 of one that the run does not know."""
        return self._positions.get(str(raw), -1)

    def positions(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[m]: the positions of those of some raw ids that the run knows."""
        return np.array([one for one in map(self.position, raw) if one >= 0], np.int32)

    def row(self, user: Any, profile: Mapping[str, Any]) -> tuple[int, np.ndarray, np.ndarray]:
        """Of a run with users: the number of somebody's row, 0 for somebody new, int32[C] columns and float32[M]
        numbers, in which the raw values of a profile stand."""
        known = self.array("user_ids").astype(str) == str(user)
        row = int(np.argmax(known)) + 1 if user is not None and known.any() else 0
        columns, numbers = (self.array(f"user_{part}")[row] for part in ("columns", "numbers"))
        ranks = len(self.ids) > 0  # then the fields of items are theirs
        fields = {field["name"]: field for field in self.manifest["fields"] if not (ranks and field["side"] == "item")}
        for name, value in profile.items():
            if name not in fields:
                raise ValueError(f"no field '{name}'; there are {', '.join(fields)}")
            field = fields[name]
            if field["kind"] == "numerical":
                number = float(value)
                number = np.sign(number) * np.log1p(abs(number)) if field["logarithm"] else number
                numbers[field["number"]] = (number - field["mean"]) / field["deviation"]
            else:
                codes = dict(zip(self.array(field["values"]).astype(str), self.array(field["codes"]), strict=True))
                values = value.split(self.manifest["separator"]) if field["kind"] == "bag" else [value]
                first, stop = field["columns"]
                found = [codes.get(str(one).strip(), 0) for one in values][: stop - first]
                columns[first:stop] = found + [-1] * (stop - first - len(found))
        return row, columns, numbers

    def seen(self, row: int) -> np.ndarray:
        """int32[n]: the positions of what the user of a row has."""
        part: np.ndarray = self.array("seen_items")[slice(*self.array("seen_offsets")[row : row + 2])]
        return part

    def __call__(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of a program for any number of rows, in batches of the least size that holds them."""
        sizes = sorted((one for one in self.manifest["programs"] if one["name"] == name), key=lambda one: one["batch"])
        program = next((one for one in sizes if one["batch"] >= len(inputs[0])), sizes[-1])
        batch, parts = program["batch"], []
        for start in range(0, len(inputs[0]), batch):
            rows = [array[start : start + batch] for array in inputs]
            full = [np.pad(one, [(0, batch - len(one))] + [(0, 0)] * (one.ndim - 1)) for one in rows]
            parts.append([np.asarray(one)[: len(rows[0])] for one in self._load(program)(*full)])
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    def _load(self, program: dict[str, Any]) -> Any:
        """A program as a function of its inputs."""
        if program["file"] in self._loaded:
            return self._loaded[program["file"]]
        file = self.folder / program["file"]
        if file.suffix == ".onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors
            session = onnxruntime.InferenceSession(str(file), options)
            names = [one["name"] for one in program["inputs"]]
            self._loaded[program["file"]] = lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
        else:
            import jax
            import jax.export

            run = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
            weights = [self._weight(name) for name in program["weights"]]
            self._loaded[program["file"]] = lambda *inputs: run(*weights, *inputs)
        return self._loaded[program["file"]]

    def _weight(self, name: str) -> Any:
        """A weight on the device, with the rows of zeros that programs want."""
        import jax

        if name not in self._weights:
            entry = self.manifest["weights"][name]
            array = np.load(self.folder / entry["file"])
            padded = np.pad(array, [tuple(entry["padding"])] + [(0, 0)] * (array.ndim - 1)) if array.ndim else array
            self._weights[name] = jax.device_put(padded)
        return self._weights[name]


def best(ids: np.ndarray, items: np.ndarray, scores: np.ndarray) -> list[tuple[Any, float]]:
    """Raw ids with their scores, of the positions and scores of one row."""
    pairs = zip(items.tolist(), scores.tolist(), strict=True)
    return [(ids[item].item(), score) for item, score in pairs if score > float("-inf")]


def show(recommend: Callable[[], list[tuple[Any, float]]]) -> None:
    """Print what is recommended, or in one line why nothing is."""
    try:
        pairs = recommend()
    except ValueError as error:
        sys.exit(str(error))
    if not pairs:
        sys.exit("no item of these is known to the run, or none is left to recommend")
    print("\n".join(f"{item} {score:.4f}" for item, score in pairs))


def filled(lists: list[np.ndarray], width: int, fill: int = 0) -> np.ndarray:
    """int32[n, width]: a row for each list, and ``fill`` behind its end."""
    return np.stack([np.pad(one, (0, width - len(one)), constant_values=fill) for one in lists]).astype(np.int32)
