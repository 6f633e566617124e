"""What happens to an image before the network sees it, as part of the file or taken out of it.

``with_preprocessing`` puts timm's evaluation transform in front, in standard ONNX operators: bytes of any image size go
in. It follows Pillow step by step, so that the file decides as the program does that the probe was trained with: rows
are resized first, then columns, each with an antialiased filter that ignores what lies beyond the edge, and each
result is rounded to a byte.

``without_normalisation`` takes out what is there: the file then has the backbone's own input.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import compose, numpy_helper, parser

from prune_tool.defaults import OPSET
from prune_tool.deploy.rewrite import copy_metadata, read_model, write_model
from prune_tool.errors import UsageError, VerificationError
from prune_tool.task.preprocessing import Preprocessing

STAGE = "preprocess"

INPUT = "images"
"""The one input of every file that this tool writes."""

RESIZE = {
    "bilinear": 'mode = "linear", antialias = 1, exclude_outside = 1',
    "bicubic": 'mode = "cubic", antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5',
}
"""Pillow's filters in the terms of ONNX's Resize. Its cubic is Keys' with a = -0.5, not the -0.75 of other
programs."""

SIZES = {
    # the shorter side becomes `scale`, the other keeps proportion and is rounded down (torchvision)
    "center": """
    shorter = ReduceMin <keepdims = 1> (size)
    enlarged = Mul (size, scale)
    resized = Div (enlarged, shorter)""",
    # both sides become `scale`
    "squash": """
    resized = Concat <axis = 0> (scale, scale)""",
    # the longer side becomes `scale`, the other is rounded to the nearest, halves to even (timm, Python)
    "border": """
    size_exact = Cast <to = 11> (size)
    scale_exact = Cast <to = 11> (scale)
    ratios = Div (size_exact, scale_exact)
    ratio = ReduceMax <keepdims = 1> (ratios)
    resized_exact = Div (size_exact, ratio)
    resized_whole = Round (resized_exact)
    resized = Cast <to = 7> (resized_whole)""",
}
"""From an image's (height, width) and ``scale`` to the (height, width) that it is resized to, by crop mode."""

PAD = """
    lacking = Sub (crop, resized)
    missing = Max (lacking, zeros)
    before = Div (missing, two)
    after = Sub (missing, before)
    pads = Concat <axis = 0> (zeros, before, zeros, after)
    above_fill = Sub (column_bytes, fill)
    padded_above_fill = Pad (above_fill, pads)
    padded = Add (padded_above_fill, fill)
    available = Add (resized, missing)"""
"""Where the crop is larger than the image, the rest is filled, the odd pixel after it."""

NO_PAD = """
    padded = Identity (column_bytes)
    available = Identity (resized)"""

LISTING = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocess (uint8[batch, height, width, 3] images) => (float[batch, 3, {side}, {side}] pixels)
<
    int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] zeros = {{0, 0}},
    int64[1] channels = {{3}}, int64[1] scale = {{{scale}}}, int64[2] crop = {{{side}, {side}}},
    int64[2] axes = {{2, 3}}, int64[4] planes_shape = {{-1, 3, {side}, {side}}},
    float[1, 3, 1, 1] fill = {{{fill}}}, float half = {{0.5}}, float black = {{0.0}}, float white = {{255.0}}
>
{{
    batch = Shape <start = 0, end = 1> (images)
    size = Shape <start = 1, end = 3> (images)
    height_now = Shape <start = 1, end = 2> (images)
{sizes}
    height_new = Slice (resized, zero, one)
    width_new = Slice (resized, one, two)
    rows_shape = Concat <axis = 0> (batch, channels, height_now, width_new)
    columns_shape = Concat <axis = 0> (batch, channels, height_new, width_new)

    planes = Transpose <perm = [0, 3, 1, 2]> (images)
    planes_float = Cast <to = 1> (planes)
    row = Resize <{resize}> (planes_float, , , rows_shape)
    row_half = Add (row, half)
    row_floor = Floor (row_half)
    row_bytes = Clip (row_floor, black, white)
    column = Resize <{resize}> (row_bytes, , , columns_shape)
    column_half = Add (column, half)
    column_floor = Floor (column_half)
    column_bytes = Clip (column_floor, black, white)
{pad}
    surplus = Sub (available, crop)
    surplus_float = Cast <to = 1> (surplus)
    middle = Mul (surplus_float, half)
    middle_even = Round (middle)
    start = Cast <to = 7> (middle_even)
    stop = Add (start, crop)
    cut = Slice (padded, start, stop, axes)
    square = Reshape (cut, planes_shape)
    pixels = Div (square, white)
}}
"""
"""The transform. Pillow rounds halves up and clips what a cubic filter throws beyond black and white; the middle of an
odd difference is rounded to the even pixel, as Python rounds."""


def require_expressible(preprocessing: Preprocessing) -> None:
    """Raise ``UsageError`` where ONNX has no operator for the backbone's resizing."""
    if preprocessing.interpolation not in RESIZE:
        raise UsageError(
            asked="--preprocess graph",
            found=f"the backbone resizes images by {preprocessing.interpolation} interpolation, which ONNX's Resize "
            f"does not have (it has {', '.join(RESIZE)})",
            remedy="Use --preprocess normalize, and resize images in your program",
        )


def preprocessing_model(preprocessing: Preprocessing) -> onnx.ModelProto:
    """The evaluation transform as a model of its own.

    Returns:
        ``images``, uint8 (batch, height, width, 3), of any one size -> ``pixels``, float32 (batch, 3, side, side) in
        [0, 1], where side is the preprocessing's input size.

    Raises:
        UsageError: see ``require_expressible``.
    """
    require_expressible(preprocessing)
    side, border = preprocessing.input_size, preprocessing.crop_mode == "border"
    scale = math.floor(side / preprocessing.crop_pct)
    fill = [round(255 * level) if border else 0 for level in preprocessing.mean]
    model = parser.parse_model(
        LISTING.format(
            ir_version=onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", OPSET)]),
            opset=OPSET,
            side=side,
            scale=scale,
            fill=", ".join(f"{level:.1f}" for level in fill),
            sizes=SIZES.get(preprocessing.crop_mode, SIZES["center"]),
            resize=RESIZE[preprocessing.interpolation],
            pad=PAD if border or scale < side else NO_PAD,
        )
    )
    _drop_unread(model, {tensor.name for tensor in model.graph.initializer})
    return model


def with_preprocessing(source: Path, target: Path, preprocessing: Preprocessing) -> int:
    """Write a file with the evaluation transform in front of its network.

    Args:
        source: a file whose input is float32 (batch, 3, side, side) in [0, 1].
        target: to write: its input is uint8 (batch, height, width, 3), its metadata are the source's.
        preprocessing: of the backbone at that input size.

    Returns:
        Size of ``target`` in bytes.

    Raises:
        UsageError: see ``require_expressible``.
        VerificationError: the result is no valid ONNX file.
    """
    network, front = read_model(source), preprocessing_model(preprocessing)
    front.ir_version = network.ir_version
    front = compose.add_prefix(front, "preprocess/", rename_inputs=False)
    network = compose.add_prefix(network, "network/", rename_nodes=False, rename_outputs=False)
    joined = compose.merge_models(front, network, io_map=[("preprocess/pixels", f"network/{INPUT}")])
    copy_metadata(network, joined)
    return write_model(joined, target, stage=STAGE)


def without_normalisation(source: Path, target: Path, preprocessing: Preprocessing) -> int:
    """Write a file without the normalisation that its network begins with.

    Args:
        source: a file whose first two operations take ``mean`` from its input and divide by ``std``.
        target: to write: its input is float32 (batch, 3, side, side), already normalised.
        preprocessing: has mean and std.

    Returns:
        Size of ``target`` in bytes.

    Raises:
        VerificationError: the source does not begin like that, or the result is no valid ONNX file.
    """
    model = read_model(source)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    minus = _only_reader(model, INPUT, "Sub", constants, preprocessing.mean)
    over = _only_reader(model, minus.output[0], "Div", constants, preprocessing.std)
    normalised = over.output[0]
    for node in (minus, over):
        model.graph.node.remove(node)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == normalised:
                node.input[i] = INPUT
    _drop_unread(model, {minus.input[1], over.input[1]})
    return write_model(model, target, stage=STAGE)


def _only_reader(
    model: onnx.ModelProto, name: str, operator: str, constants: dict[str, np.ndarray], levels: tuple[float, ...]
) -> onnx.NodeProto:
    """The one node that reads ``name``: ``operator`` with the per-channel constant ``levels``."""
    readers: list[onnx.NodeProto] = [node for node in model.graph.node if name in node.input]
    wanted = np.array(levels, dtype=np.float32)
    match readers:
        case [node] if node.op_type == operator and node.input[0] == name and node.input[1] in constants:
            if np.array_equal(constants[node.input[1]].ravel(), wanted):
                return node
    raise VerificationError(
        asked=f"{STAGE}: a file without normalisation",
        found=f"what reads {name} is {[node.op_type for node in readers]}, not the {operator} of the normalisation",
        remedy="Use --preprocess normalize",
    )


def _drop_unread(model: onnx.ModelProto, names: set[str]) -> None:
    """Remove constants, and what is said of shapes, that no node reads any more."""
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name in names - read]:
        model.graph.initializer.remove(tensor)
    known = read | {name for node in model.graph.node for name in node.output}
    for info in [v for v in model.graph.value_info if v.name not in known]:
        model.graph.value_info.remove(info)
