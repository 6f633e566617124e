"""A file of fewer bits: int8 as ONNX Runtime's static QDQ format, or fp16.

int8 holds weights as int8, one scale an output channel, and what flows between as uint8, with ranges seen on training
images. The probe stays in float: its weights undo the scales of neurons that differ by orders of magnitude, so eight
bits for all of them cost more accuracy than all other nodes together, and it takes no time.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from prune_tool.deploy.preprocess import INPUT
from prune_tool.deploy.ranges import saturate
from prune_tool.deploy.rewrite import copy_metadata, drop_unused_domains, read_model, write_model

STAGE = "quantise"

Images = NDArray[np.float32]

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that take the time: the reason to quantise."""

OPERATORS = (*PRODUCTS, "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
"""Operators that are quantised: products, and what stands between them and would otherwise go back to float. Relu and
Clip are absent on purpose: where a neighbour stays in float, ONNX Runtime's quantiser takes them out of the graph and
the file computes something else. They cost nothing: see ``ranges``."""


class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Batches of images in the form that ONNX Runtime's calibration asks for."""

    def __init__(self, batches: Iterable[Images]) -> None:
        self._batches: Iterator[Images] = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        """The next batch by the name of the input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


class Quantiser:
    """Looks once at what flows through a file, then writes any number of int8 versions of it.

    Args:
        source: a float32 file whose input is ``images``.
        batches: training images, (b, 3, h, w) each, as the file takes them.
    """

    def __init__(self, source: Path, batches: Iterable[Images]) -> None:
        self.source = read_model(source)
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # the exporter has optimised the graph and knows every shape, so ONNX's own inference is enough
            quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
            self._prepared = read_model(prepared)
            calibrator = create_calibrator(
                prepared,
                list(OPERATORS),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(CalibrationImages(batches))
            self._ranges = calibrator.compute_data()
        saturate(self._ranges, self._prepared)
        probe = probe_nodes(self._prepared)
        nodes = self._prepared.graph.node
        self.nodes: tuple[str, ...] = tuple(n.name for n in nodes if n.op_type in OPERATORS and n.name not in probe)
        """Names of the nodes that can be quantised, in the order of computation."""

    def write(self, target: Path, *, in_float: Collection[str] = (), only: Collection[str] | None = None) -> int:
        """Write an int8 version.

        Args:
            target: the file to write or replace.
            in_float: names of nodes to leave as they are.
            only: quantise these nodes and no others.

        Returns:
            Size of the file in bytes.

        Raises:
            VerificationError: the result is no valid ONNX file.
        """
        chosen = [name for name in self.nodes if name not in in_float] if only is None else list(only)
        quantiser = QDQQuantizer(
            copy.deepcopy(self._prepared),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=chosen or ["none of them"],  # it takes an empty list for all
            nodes_to_exclude=[],
            op_types_to_quantize=list(OPERATORS),
            extra_options={},
        )
        quantiser.quantize_model()
        return _finish(quantiser.model.model, self.source, target)


def probe_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the nodes that make the first output, back to the last product: the linear probe."""
    producers = {name: node for node in model.graph.node for name in node.output}
    names, value = set(), model.graph.output[0].name
    while value in producers:
        node = producers[value]
        names.add(node.name)
        if node.op_type in PRODUCTS:
            break
        value = node.input[0]
    return frozenset(names)


def write_half(source: Path, target: Path) -> int:
    """Write a file that computes in float16; its input and outputs stay float32.

    Returns:
        Size of ``target`` in bytes.

    Raises:
        VerificationError: the result is no valid ONNX file.
    """
    model = read_model(source)
    half = convert_float_to_float16(copy.deepcopy(model), keep_io_types=True)
    return _finish(half, model, target)


def _finish(model: onnx.ModelProto, source: onnx.ModelProto, target: Path) -> int:
    """Put in order what a tool left behind, and write it."""
    ONNXModel(model).topological_sort()
    drop_unused_domains(model)
    copy_metadata(source, model)
    return write_model(model, target, stage=STAGE)
