"""The table of demand rules: an ATen operator, what it needs of its inputs.

A new operator is one line here (and one rule where none fits). Operators that are not in the table are barriers:
they read everything, so the sliced network is right and at worst saves less.
"""

from __future__ import annotations

from typing import Any

from torch import ops

from prune_tool.surgery.rules import contraction, layout, normalisation
from prune_tool.surgery.rules.pointwise import POINTWISE, pointwise
from prune_tool.surgery.site import Rule

aten = ops.aten

RULES: dict[Any, Rule] = {
    **dict.fromkeys(POINTWISE, pointwise),
    # contraction with weights or with another value
    aten.conv1d.default: contraction.convolution,
    aten.conv1d.padding: contraction.convolution,
    aten.conv2d.default: contraction.convolution,
    aten.conv2d.padding: contraction.convolution,
    aten.conv3d.default: contraction.convolution,
    aten.linear.default: contraction.linear,
    aten.matmul.default: contraction.matrix_product,
    aten.bmm.default: contraction.matrix_product,
    aten.mm.default: contraction.matrix_product,
    aten.scaled_dot_product_attention.default: contraction.attention,
    # normalisation
    aten.batch_norm.default: normalisation.batch_norm,
    aten.layer_norm.default: normalisation.layer_norm,
    aten.group_norm.default: normalisation.group_norm,
    aten.softmax.int: normalisation.softmax,
    aten._softmax.default: normalisation.softmax,  # noqa: SLF001 - its name
    aten.log_softmax.int: normalisation.softmax,
    # layout
    aten.reshape.default: layout.reshape,
    aten.view.default: layout.reshape,
    aten._unsafe_view.default: layout.reshape,  # noqa: SLF001 - its name
    aten.reshape_as.default: layout.reshape,
    aten.view_as.default: layout.reshape,
    aten.flatten.using_ints: layout.reshape,
    aten.unflatten.int: layout.reshape,
    aten.squeeze.default: layout.reshape,
    aten.squeeze.dim: layout.reshape,
    aten.squeeze.dims: layout.reshape,
    aten.unsqueeze.default: layout.reshape,
    aten.permute.default: layout.permute,
    aten.transpose.int: layout.transpose,
    aten.expand.default: layout.expand,
    aten.expand_as.default: layout.expand,
    aten.index_select.default: layout.index_select,
    aten.index.Tensor: layout.index,
    aten.slice.Tensor: layout.slice_,
    aten.select.int: layout.select,
    aten.cat.default: layout.concatenate,
    aten.concat.default: layout.concatenate,
    aten.stack.default: layout.stack,
    aten.roll.default: layout.shift,
    aten.flip.default: layout.shift,
    aten.cumsum.default: layout.along(1),
    aten.pad.default: layout.pad,
    aten.constant_pad_nd.default: layout.pad,
    # over space
    aten.adaptive_avg_pool2d.default: layout.over_space,
    aten.adaptive_max_pool2d.default: layout.over_space,
    aten.avg_pool2d.default: layout.over_space,
    aten.max_pool2d.default: layout.over_space,
    aten.upsample_nearest2d.default: layout.over_space,
    aten.upsample_nearest2d.vec: layout.over_space,
    aten.upsample_bilinear2d.default: layout.over_space,
    aten.upsample_bilinear2d.vec: layout.over_space,
    aten.upsample_bicubic2d.vec: layout.over_space,
    # reduction
    aten.mean.dim: layout.reduce(1),
    aten.sum.dim_IntList: layout.reduce(1),
    aten.amax.default: layout.reduce(1),
    aten.amin.default: layout.reduce(1),
    aten.linalg_vector_norm.default: layout.reduce(2),
}
