"""Element-wise operators: every element of the result reads the elements above it, by broadcasting."""

from __future__ import annotations

from torch import ops

from prune_tool.surgery.site import Plan, Site, inputs_of, shape_of

aten = ops.aten


def pointwise(site: Site) -> Plan:
    """Demand passes through; a broadcast axis of size one is read whole."""
    needs = {slot: site.out.aligned(site.shape, shape_of(node)) for slot, node in inputs_of(site.args).items()}
    return site.plan_call(site.out, needs, site.args, site.target)


POINTWISE = [
    # arithmetic
    aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar,
    aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode, aten.neg.default,
    aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar, aten.square.default, aten.sqrt.default,
    aten.rsqrt.default, aten.reciprocal.default, aten.exp.default, aten.log.default, aten.log1p.default,
    aten.erf.default, aten.sin.default, aten.cos.default, aten.abs.default, aten.floor.default, aten.maximum.default,
    aten.minimum.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default,
    aten.addcmul.default, aten.addcdiv.default, aten.lerp.Scalar, aten.lerp.Tensor,
    # activation
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default,
    aten.selu.default, aten.celu.default, aten.gelu.default, aten.silu.default, aten.mish.default,
    aten.hardswish.default, aten.hardsigmoid.default, aten.sigmoid.default, aten.log_sigmoid.default,
    aten.tanh.default, aten.softplus.default, aten.hardshrink.default, aten.softshrink.default,
    # choice
    aten.where.self, aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.bitwise_not.default,
    aten.logical_not.default, aten.logical_and.default, aten.logical_or.default,
    aten.eq.Tensor, aten.eq.Scalar, aten.ne.Tensor, aten.ne.Scalar, aten.lt.Tensor, aten.lt.Scalar,
    aten.le.Tensor, aten.le.Scalar, aten.gt.Tensor, aten.gt.Scalar, aten.ge.Tensor, aten.ge.Scalar,
    # the same numbers, elsewhere or otherwise stored
    aten.to.dtype, aten.to.device, aten._to_copy.default,  # noqa: SLF001 - its name
    aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default,
    aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default,
]  # fmt: skip
