"""``from_module``: any PyTorch module as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from operator import attrgetter

import torch
from torch import fx, nn

from prune_tool.errors import ModelError
from prune_tool.records import PreprocessingChange
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.capture import capture
from prune_tool.task.backbone import Backbone, Pooling, Preprocessing, preprocessing_of, require_features
from prune_tool.task.pooling import pooling_of


def from_module(
    module: nn.Module,
    *,
    input_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    pooling: Pooling | None = None,
    taps: Sequence[str] | None = None,
) -> Backbone:
    """Make a backbone of any module, for ``Workspace(request, backbone=...)``.

    The module is copied: what becomes of the original afterwards, or of its training mode, changes nothing. Other input
    sizes are tried with the same module; those at which it does not run are passed over.

    Args:
        module: maps (batch, 3, height, width) float32, normalised, to (batch, width) features: the head, whose neurons
            the full backbone's probe reads. Take a classifier off first (``model.fc = torch.nn.Identity()``).
        input_size: side of its square input in pixels; by default that of ``preprocessing``.
        preprocessing: how its input is made. A timm model carries its own; for any other it must be given.
        name: what to call it; by default its class.
        pooling: how its blocks' outputs become neurons; by default as timm notes it in its models, or the mean over
            places. A transformer with a class token needs ``Pooling(tokens="token", n_prefix_tokens=1)``.
        taps: module paths to tap; by default every block.

    Returns:
        The backbone. Its fingerprint is of the captured graph with all its numbers, so that a change of ``forward``
        counts as much as one of a weight, and of ``pooling`` and ``taps``.

    Raises:
        ModelError: the module does not run at its input size, returns something else, cannot be copied or captured, or
            has no preprocessing.
        UsageError: a value in ``preprocessing`` makes no sense.
    """
    name = name or type(module).__name__
    source = f"module:{name}"
    preprocessing = _checked(module, source, preprocessing, input_size)
    own = _copied(module, source)
    require_features(own, preprocessing.input_size, source, "Give the input_size that the module is made for")
    pooling = pooling or pooling_of(own)
    taps = None if taps is None else tuple(taps)
    graph = _captured(own, source, preprocessing.input_size)
    numbers = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    return Backbone(
        name=name,
        source=source,
        module=own,
        preprocessing=preprocessing,
        pooling=pooling,
        fingerprint=fingerprint(
            "module", graph.code, {key: attrgetter(key)(graph).numpy() for key in numbers}, repr(pooling), taps
        ),
        taps=taps,
    )


def _checked(
    module: nn.Module, source: str, preprocessing: Preprocessing | None, input_size: int | None
) -> Preprocessing:
    if preprocessing is None:
        if not isinstance(getattr(module, "pretrained_cfg", None), dict):
            raise ModelError(
                asked=f"make a backbone of {source}",
                found="it does not say how its input is made",
                remedy="Give preprocessing=prune_tool.Preprocessing(input_size=224, mean=..., std=..., ...)",
            )
        preprocessing = preprocessing_of(module)
    said = asdict(preprocessing)
    said.pop("input_size")
    PreprocessingChange(**said)  # which checks the values
    return preprocessing if input_size is None else preprocessing.at(input_size)


def _copied(module: nn.Module, source: str) -> nn.Module:
    try:
        return deepcopy(module).cpu().float().eval().requires_grad_(False)
    except Exception as error:  # modules may hold anything
        raise ModelError(
            asked=f"copy {source}",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            remedy="Detach and remove what cannot be copied (hooks, handles, graphs of gradients) first",
        ) from error


def _captured(module: nn.Module, source: str, input_size: int) -> fx.GraphModule:
    try:
        return capture(module, torch.zeros(2, 3, input_size, input_size))
    except Exception as error:  # torch.export raises whatever the module's code met
        raise ModelError(
            asked=f"capture {source} at {input_size} px as a graph",
            found=f"torch.export could not: {str(error).strip().splitlines()[0]}",
            remedy="Its forward must not choose by the values of tensors; torch.export.export(module, ...) says more",
        ) from error
