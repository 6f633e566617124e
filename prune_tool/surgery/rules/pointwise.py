"""Element-wise operators: every element of the result reads the elements above it, by broadcasting."""

from __future__ import annotations

from torch import ops

from prune_tool.surgery.demand import Demand
from prune_tool.surgery.site import Plan, Site, inputs_of, shape_of

aten = ops.aten


def pointwise(site: Site) -> Plan:
    """Demand passes through; a broadcast axis of size one is read whole."""
    needs = {slot: _aligned(site.out, site.shape, shape_of(node)) for slot, node in inputs_of(site.args).items()}
    return site.plan_call(site.out, needs, site.args, site.target)


def _aligned(out: Demand, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Demand:
    lead = len(out_shape) - len(in_shape)
    return Demand(tuple(out.axes[lead + i] if n == out_shape[lead + i] else None for i, n in enumerate(in_shape)))


POINTWISE = [
    aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.rsub.Tensor,
    aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.abs.default,
    aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default,
    aten.exp.default, aten.log.default, aten.erf.default, aten.square.default, aten.maximum.default,
    aten.minimum.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default,
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default,
    aten.gelu.default, aten.silu.default, aten.mish.default, aten.hardswish.default, aten.hardsigmoid.default,
    aten.sigmoid.default, aten.tanh.default, aten.softplus.default, aten.sin.default, aten.cos.default,
    aten.where.self, aten.masked_fill.Scalar, aten.masked_fill.Tensor,
    aten.to.dtype, aten._to_copy.default, aten.clone.default, aten.contiguous.default, aten.alias.default,
    aten.detach.default, aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default,
]  # fmt: skip
