"""What every surgery test needs: networks whose every number matters, and the one property."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import fx, nn

from prune_tool.surgery.demand import Indices
from prune_tool.surgery.slicing import slice_graph


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def shake(module: nn.Module) -> nn.Module:
    """Eval mode with no constant left: a zero scale or a running mean of zero would hide a wrong index."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point() or value.numel() < 2 or not bool((value == value.flatten()[0]).all()):
                continue
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if name.endswith("var") or value.flatten()[0] > 0 else 0.2 * noise - 0.1)
    return module.eval()


@pytest.fixture(scope="session")
def shaken() -> Callable[[nn.Module], nn.Module]:
    """``shake``, for tests that ask for it by name."""
    return shake


@pytest.fixture(scope="session")
def off_by() -> Callable[..., float]:
    """Largest difference between a sliced network and the full outputs it stands for, relative to their scale."""

    def difference(
        captured: fx.GraphModule, sliced: fx.GraphModule, kept: Mapping[int, Indices | None], *batches: torch.Tensor
    ) -> float:
        worst = 0.0
        for images in batches:
            with torch.no_grad():
                full, got = captured(images), sliced(images)
            parts = [full[i] if indices is None else full[i][..., indices] for i, indices in sorted(kept.items())]
            want = torch.cat(parts, dim=-1)
            assert got.shape == want.shape
            worst = max(worst, float((got - want).abs().max() / want.abs().max().clamp(min=1e-12)))
        return worst

    return difference


@pytest.fixture(scope="session")
def cut(off_by: Callable[..., float]) -> Callable[..., fx.GraphModule]:
    """Slice and check the property at batch 1 and 3: ``sliced(x) == full(x)[..., kept]``."""

    def slice_and_check(
        captured: fx.GraphModule, kept: Mapping[int, Indices | None], shape: tuple[int, ...], round_to: int = 1
    ) -> fx.GraphModule:
        sliced = slice_graph(captured, kept, round_to=round_to)
        batches = (torch.rand(1, *shape), torch.rand(3, *shape))
        assert off_by(captured, sliced, kept, *batches) < 1e-4
        return sliced

    return slice_and_check


@pytest.fixture(scope="session")
def some() -> Callable[..., Indices]:
    """A random ascending subset of ``n`` of ``width`` indices."""

    def draw(width: int, n: int, seed: int = 0) -> Indices:
        return np.sort(np.random.default_rng(seed).choice(width, n, replace=False))

    return draw
