"""Taps: the places in a backbone whose neurons are read, and the module that returns them all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prune_tool.errors import ModelError

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


def _collector(found: dict[str, Tensor], tap: str, pool: Pool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that pools at once: what a block returns may be overwritten in place by the next one."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[tap] = pool(output)

    return hook


def find_taps(backbone: nn.Module, pool: Pool, example: Tensor, only: Sequence[str] | None = None) -> tuple[Tap, ...]:
    """Every block's output that can be tapped, in the order they are computed, and the head.

    A block is an element of a chain: of a Sequential or ModuleList, or of a module that holds most of its weights in
    one, or all of whose children are of one class. It can be tapped when it runs once and returns one tensor with the
    batch first. A last block whose pooled output *is* the head is left out.

    Args:
        backbone: in eval mode.
        pool: see ``TappedBackbone``.
        example: (b, 3, h, w) float32 images with b >= 2 (values matter only for recognising the head).
        only: module paths to tap instead of the blocks (``head`` allowed).

    Raises:
        ModelError: a path in ``only`` does not exist or cannot be tapped.
    """
    names = list(_blocks(backbone)) if only is None else [name for name in only if name != HEAD]
    missing = [name for name in names if name not in dict(backbone.named_modules())]
    if missing:
        raise ModelError(
            asked=f"tap {missing[0]}",
            found="the backbone has no module of that path",
            remedy=f"Its blocks are {', '.join(_blocks(backbone))}, {HEAD}",
        )
    outputs, head = _run(backbone, names, example)
    taps = [(name, pooled) for name, output in outputs if (pooled := _pooled(output, pool, len(example))) is not None]
    if only is not None and len(taps) < len(names):
        lost = next(name for name in names if name not in dict(taps))
        raise ModelError(
            asked=f"tap {lost}",
            found="it does not run exactly once, or does not return one tensor with the batch first",
            remedy=f"These can be tapped: {', '.join([*dict(taps), HEAD])}",
        )
    if taps and taps[-1][1].shape == head.shape and torch.allclose(taps[-1][1], head, rtol=1e-4, atol=1e-6):
        taps.pop()
    return *(Tap(name=n, width=int(t.shape[1])) for n, t in taps), Tap(name=HEAD, width=int(head.shape[1]))


def _run(backbone: nn.Module, names: Sequence[str], example: Tensor) -> tuple[list[tuple[str, object]], Tensor]:
    """Outputs of the named modules that ran exactly once, in the order they finished, and the backbone's own."""
    seen: list[tuple[str, object]] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        return lambda _module, _inputs, output: seen.append((name, _snapshot(output)))

    handles = [backbone.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            head = backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    runs = [name for name, _ in seen]
    return [(name, output) for name, output in seen if runs.count(name) == 1], head


def _snapshot(output: object) -> object:
    return output.clone() if isinstance(output, Tensor) else output


def _pooled(output: object, pool: Pool, n_images: int) -> Tensor | None:
    """The neurons of a block's output, or ``None`` where it is nothing that can be tapped."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or output.shape[0] != n_images:
        return None
    return pool(output)


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Paths of the elements of the chains in ``module``, in registration order."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if _is_chain(child):
            yield from _blocks(child, f"{path}.")
        elif isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or prefix:
            yield path


def _is_chain(module: nn.Module) -> bool:
    children = list(module.children())
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return bool(children)
    if len(children) > 1 and len({type(child) for child in children}) == 1:
        return True
    size = _n_params(module)
    return any(isinstance(c, nn.Sequential | nn.ModuleList) and 2 * _n_params(c) > size > 0 for c in children)


def _n_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
