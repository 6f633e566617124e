"""What a value need not say, because the activation that alone reads it throws it away.

ONNX Runtime's quantiser gives a convolution's output its own range, though nothing of it leaves ReLU6 but [0, 6]: of
eight bits most then tell apart what the activation makes equal. With the range of what is left, saturation *is* the
activation, and ONNX Runtime drops it from the graph (its rules ClipQuantFusion and ReluQuantFusion).
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import TensorData, TensorsData

Bounds = tuple[float, float]


def saturate(ranges: TensorsData, model: onnx.ModelProto) -> None:
    """Cut the ranges of values that only a Relu or a Clip reads to what it lets through, in place.

    Args:
        ranges: lowest and highest, float32, by the value's name.
        model: whose values they are.
    """
    graph = model.graph
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in {"Relu", "Clip"} or readers[node.input[0]] > 1 or node.input[0] not in ranges:
            continue
        bounds = (0.0, math.inf) if node.op_type == "Relu" else _clip_bounds(node, constants)
        found = ranges[node.input[0]]
        if bounds is None:
            continue
        low, high = np.clip((found.lowest, found.highest), *bounds).astype(np.float32)
        if low < high:  # nothing is left of a value that the activation makes constant, and no scale either
            ranges[node.input[0]] = TensorData(lowest=low, highest=high)


def _clip_bounds(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Bounds | None:
    """Lowest and highest value that a Clip lets through; None where they are computed."""
    given = [*node.input[1:], "", ""][:2]
    if any(name and name not in constants for name in given):
        return None
    low, high = given
    return float(constants[low]) if low else -math.inf, float(constants[high]) if high else math.inf
