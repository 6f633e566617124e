"""Healing: a short distillation of a narrowed trunk to the original's neurons, on training images without labels.

Folding answers each layer's loss in closed form, one layer after the other. A few passes of gradient descent over all
weights together answer what is left, with the original's tapped neurons as the target (as in Romero et al., "FitNets",
ICLR 2015). Steps are relative to the size of what they change (as in Shazeer and Stern, "Adafactor", ICML 2018,
section 8): a network's weights are of any size, above all where norms follow them. Images held out of the training
judge it: weights that do no better than the folded ones are not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from prune_tool import defaults
from prune_tool.errors import DataError
from prune_tool.pipeline.progress import Progress
from prune_tool.redundancy.checks import Int64

ImagesOf = Callable[[Int64], Iterable[NDArray[np.float32]]]
"""Batches (b, 3, h, w) in [0, 1] of the images at some rows."""

HELD_OUT = 8  # one image in so many judges and does not train
N_MOST_HELD_OUT = 256
LEAST_SIZE = 1e-3  # of a parameter, for its steps: biases may start at zero
MOST_NORM = 1.0  # of a step's gradient: narrowed layers start out with some that are far too steep


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What came of it.

    Attributes:
        weights: of the healed network, by parameter; of the network as it was where nothing was better.
        before, after: mean squared error of the original's standardised neurons on the held-out images.
    """

    weights: dict[str, Tensor]
    before: float
    after: float


def heal(
    captured: fx.GraphModule,
    narrowed: fx.GraphModule,
    images_of: ImagesOf,
    rows: Int64,
    *,
    n_epochs: int,
    seed: int,
    progress: Progress,
) -> Healed:
    """Train a narrowed network to give the neurons that the original gives.

    Normalisations keep the statistics they came with. The rate falls to nothing by a cosine.

    Args:
        captured: images (b, 3, h, w) in [0, 1] to neurons; not changed.
        narrowed: of ``captured``; not changed.
        images_of: reads images.
        rows: (n,) which images there are.
        n_epochs: passes over those that train.
        seed: of their order, and of which are held out.
        progress: who watches.

    Raises:
        DataError: there are too few images to hold some out.
    """
    rng = np.random.default_rng(seed)
    held_out, train = _divided(rng.permutation(rows))
    judge = _Judge(captured, images_of, np.sort(held_out))
    student = deepcopy(narrowed).requires_grad_(requires_grad=True)
    parameters = list(student.parameters())
    before = best = judge(student)
    weights = _weights(student)
    optimiser = torch.optim.Adam([{"params": [each], "lr": _step(each)} for each in parameters])
    n_steps = n_epochs * math.ceil(len(train) / defaults.BATCH_SIZE["cpu"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    with progress.stage("healing", n_epochs * len(train), "images") as advance:
        for _ in range(n_epochs):
            for batch in images_of(rng.permutation(train)):
                images = torch.from_numpy(batch)
                loss = judge.loss(student(images), judge.targets(images))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, MOST_NORM)
                optimiser.step()
                schedule.step()
                advance(len(batch))
            now = judge(student)
            if now < best:
                best, weights = now, _weights(student)
    return Healed(weights=weights, before=before, after=best)


def _divided(rows: Int64) -> tuple[Int64, Int64]:
    """The images that judge and those that train. Raises ``DataError`` where there are too few."""
    n_held_out = min(N_MOST_HELD_OUT, len(rows) // HELD_OUT)
    if n_held_out < 2:
        raise DataError(
            asked="heal the narrowed network",
            found=f"{len(rows)} training images",
            remedy=f"Give at least {2 * HELD_OUT}, or leave --heal out",
        )
    return rows[:n_held_out], rows[n_held_out:]


def _step(parameter: Tensor) -> float:
    """How far Adam may move each number of a parameter at once, at the start."""
    return defaults.HEAL_RATE * max(LEAST_SIZE, float(parameter.detach().square().mean().sqrt()))


class _Judge:
    """The original's neurons as a target, every one of them in units of its own spread, every tap counting alike."""

    def __init__(self, captured: fx.GraphModule, images_of: ImagesOf, rows: Int64) -> None:
        self._captured = captured
        images = [torch.from_numpy(batch) for batch in images_of(rows)]
        self._held_out = [(batch, self.targets(batch)) for batch in images]
        outputs = [torch.cat(of_tap) for of_tap in zip(*(wanted for _, wanted in self._held_out), strict=True)]
        variances = [output.var(0) for output in outputs]
        # a neuron that hardly varies is not worth more than the others
        self._scales = [variance.clamp(min=float(variance.mean()) / 100 + 1e-12) for variance in variances]

    @torch.no_grad()
    def targets(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the original says."""
        neurons: tuple[Tensor, ...] = self._captured(images)
        return neurons

    def loss(self, found: Iterable[Tensor], wanted: Iterable[Tensor]) -> Tensor:
        """Mean squared error of standardised neurons."""
        terms = [
            ((one - other).square() / scale).mean()
            for one, other, scale in zip(found, wanted, self._scales, strict=True)
        ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def __call__(self, student: fx.GraphModule) -> float:
        """The loss over the held-out images."""
        losses = [(float(self.loss(student(images), wanted)), len(images)) for images, wanted in self._held_out]
        return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _weights(module: fx.GraphModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
