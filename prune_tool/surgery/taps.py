"""Taps: the places in a backbone whose neurons are read, and the module that returns them all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prune_tool.errors import ModelError
from prune_tool.surgery.blocks import find_blocks

HEAD = "head"
"""Name of the penultimate representation: what the backbone itself returns."""

Pool = Callable[[Tensor], Tensor]
"""From a block's output, (b, c, h, w) or (b, tokens, c), to its neurons, (b, c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One place whose pooled output is read.

    Attributes:
        name: module path (``blocks.5.2``), or ``head`` for the penultimate representation.
        width: number of neurons.
    """

    name: str
    width: int


class TappedBackbone(nn.Module):
    """Images in, the pooled neurons of every tap out, in the order the network computes them; the head comes last.

    Args:
        backbone: (b, 3, h, w) normalised -> (b, width of the head).
        taps: module paths, without the head.
        pool: how a block's output becomes neurons.
        mean, std: per channel, of images in [0, 1]; normalisation becomes part of the graph.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, taps: Sequence[str], pool: Pool, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = tuple(taps)
        self.pool = pool
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (b, 3, h, w) float32 in [0, 1] -> one (b, width) tensor per tap, then the head."""
        found: dict[str, Tensor] = {}
        handles = [
            self.backbone.get_submodule(tap).register_forward_hook(_collector(found, tap, self.pool))
            for tap in self.taps
        ]
        try:
            head = self.backbone((images - self.mean) / self.std)
        finally:
            for handle in handles:
                handle.remove()
        return *(found[tap] for tap in self.taps), head


def _collector(found: dict[str, Tensor], tap: str, pool: Pool) -> Callable[[nn.Module, object, object], None]:
    """A hook that notes the neurons of ``tap`` in ``found``."""

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        found[tap] = _neurons(output, pool)

    return hook


def _neurons(output: object, pool: Pool) -> Tensor:
    """Pooled neurons (b, width) of what a block returned; several tensors stand side by side.

    They are copied: what a block returns may be overwritten in place by the next one, and pooling may be a view.
    """
    pooled = [pool(tensor) if tensor.ndim > 2 else tensor for tensor in _tensors(output)]
    return pooled[0].clone() if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _tensors(output: object) -> list[Tensor]:
    """The tensors among what a block returned; sizes and flags that travel with them are no neurons."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, list | tuple) else []


def _can_be_tapped(output: object, n_images: int) -> bool:
    """Whether a block returned tensors (b, ...) of numbers, of two to four axes each."""
    tensors = _tensors(output)
    return bool(tensors) and all(
        tensor.ndim in (2, 3, 4) and tensor.shape[0] == n_images and tensor.is_floating_point() for tensor in tensors
    )


def find_taps(backbone: nn.Module, pool: Pool, example: Tensor, only: Sequence[str] | None = None) -> tuple[Tap, ...]:
    """Every block's output that can be tapped, in the order they are computed, and the head.

    What a block is says ``blocks.py``, by the structure of the network alone. It can be tapped when it runs once and
    returns tensors with the batch first; several of them (dual paths, branches of several resolutions) are pooled one
    by one and stand side by side. A last block whose pooled output *is* the head is left out.

    Args:
        backbone: in eval mode.
        pool: see ``TappedBackbone``.
        example: (b, 3, h, w) float32 images with b >= 2 (values matter only for recognising the head).
        only: module paths to tap instead of the blocks (``head`` allowed).

    Raises:
        ModelError: a path in ``only`` does not exist or cannot be tapped.
    """
    names = find_blocks(backbone, example) if only is None else [name for name in only if name != HEAD]
    known = dict(backbone.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        raise ModelError(
            asked=f"tap {missing[0]}",
            found="the backbone has no module of that path",
            remedy=f"Its blocks are {', '.join([*find_blocks(backbone, example), HEAD])}",
        )
    taps, head = _run(backbone, names, example, pool)
    lost = [name for name in names if name not in taps]
    if only is not None and lost:
        raise ModelError(
            asked=f"tap {lost[0]}",
            found="it does not run exactly once, or does not return tensors with the batch first",
            remedy=f"Its blocks are {', '.join([*find_blocks(backbone, example), HEAD])}",
        )
    last = next(reversed(taps), None)
    if last is not None and taps[last].shape == head.shape and torch.allclose(taps[last], head, rtol=1e-4, atol=1e-6):
        del taps[last]
    return *(Tap(name=n, width=int(t.shape[1])) for n, t in taps.items()), Tap(name=HEAD, width=int(head.shape[1]))


def _run(backbone: nn.Module, names: Sequence[str], example: Tensor, pool: Pool) -> tuple[dict[str, Tensor], Tensor]:
    """Neurons of the named modules that ran exactly once, in the order they finished, and the backbone's output."""
    neurons: dict[str, Tensor] = {}
    runs: list[str] = []

    def watching(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            runs.append(name)
            if _can_be_tapped(output, len(example)):
                neurons[name] = _neurons(output, pool)

        return hook

    handles = [backbone.get_submodule(name).register_forward_hook(watching(name)) for name in names]
    try:
        with torch.no_grad():
            head = backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: value for name, value in neurons.items() if runs.count(name) == 1}, head
