"""What every value of a rewritten graph looks like: shapes and dtypes, from a run without numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.node import Target

from prune_tool.surgery.capture import image_input


def note_values(module: fx.GraphModule, images: torch.Tensor) -> None:
    """Write ``meta["val"]`` of every node, as capture does.

    Args:
        module: a rewritten network.
        images: ``meta["val"]`` of a captured network's input: a fake tensor whose batch is a symbol.
    """
    _Noting(module, images).run(images)


class _Noting(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, images: Any) -> None:
        super().__init__(module)
        self.mode = images.fake_mode
        image_input(module.graph).meta["val"] = images

    def run_node(self, n: fx.Node) -> Any:
        with self.mode, enable_python_dispatcher():  # without it, shapes must be numbers for some operators
            value = super().run_node(n)
        if n.op != "output":
            n.meta["val"] = value
        return value

    def get_attr(self, target: Target, args: Any, kwargs: Any) -> Any:
        return self.mode.from_tensor(super().get_attr(target, args, kwargs), static_shapes=True)
