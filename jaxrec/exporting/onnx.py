"""Programs as ONNX, translated by jax2onnx. Weights stay in the .npy files of the directory, whose bytes behind the
header are what ONNX calls external data."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.errors import UserError, shown
from jaxrec.exporting.written import Written, described, sized, words
from jaxrec.tasks.exported import Exports, Program

NEEDS = ("onnxruntime", "numpy")
ARGUMENTS = "the inputs; weights are external data of a program, in the .npy files behind their headers"
OPSET = 21


def check() -> None:
    """Refuse to begin where what translates programs is not installed."""
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they tell of parts of JAX that they look for in vain
    importlib.import_module("jax2onnx")


def write(program: Program, exports: Exports, batch: int, stage: Path, files: dict[str, str]) -> Written:
    """A program for so many rows, whose weights lie in ``files`` of a directory, by name."""
    sizes = words(program, batch)
    names, inputs = list(exports.weights), [value.name for value in program.inputs]
    model = _translated(program, exports, sizes)
    graph = model.graph
    read = set(_reads(graph))
    used = [name for name in names if name in read]
    kept = [one for one in graph.input if one.name in inputs]
    del graph.input[:], graph.value_info[:]  # of shapes between operations some are wrong, which onnxruntime mends
    graph.input.extend(kept)
    graph.initializer.extend(_external(name, np.asarray(exports.weights[name]), stage, files[name]) for name in used)
    outputs = [described(value, shape.dtype, shape.shape)
               for value, shape in zip(program.outputs, _outputs(program, exports, sizes), strict=True)]  # fmt: skip
    return Written(model.SerializeToString(), used, outputs)


def _function(program: Program, exports: Exports) -> Any:
    names = list(exports.weights)

    def run(*arguments: Any) -> tuple[Any, ...]:
        assert program.plain is not None
        weights = dict(zip(names, arguments, strict=False))
        return tuple(program.plain(weights, *arguments[len(names) :]))

    return run


def _shapes(program: Program, exports: Exports, sizes: dict[Any, Any]) -> list[jax.ShapeDtypeStruct]:
    weights = [jax.ShapeDtypeStruct(np.shape(one), one.dtype) for one in exports.weights.values()]
    return weights + sized(program, sizes)


def _outputs(program: Program, exports: Exports, sizes: dict[Any, Any]) -> Any:
    return jax.eval_shape(_function(program, exports), *_shapes(program, exports, sizes))


def _translated(program: Program, exports: Exports, sizes: dict[Any, Any]) -> Any:
    """The model as jax2onnx makes it, with weights as inputs."""
    import jax2onnx

    names = [*exports.weights, *(value.name for value in program.inputs)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jax2onnx.to_onnx(
                _function(program, exports), _shapes(program, exports, sizes), model_name=program.name, opset=OPSET,
                input_names=names, output_names=[value.name for value in program.outputs],
            )  # fmt: skip
    except Exception as error:  # what it does not know shows in many ways
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"--format onnx: jax2onnx cannot translate the program '{program.name}': {shown(line, 300)}; "
                        "export it as stablehlo") from None  # fmt: skip


def _reads(graph: Any) -> Iterable[str]:
    """The names that the nodes of a graph read, those of loops and branches too."""
    yield from (one.name for one in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _reads(attribute.g)


def _external(name: str, array: np.ndarray, stage: Path, file: str) -> Any:
    """A tensor whose numbers lie in a .npy file."""
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
    if array.size:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        offset = np.load(stage / file, mmap_mode="r").offset
        for key, value in (("location", file), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
    else:
        tensor.raw_data = b""
    return tensor
