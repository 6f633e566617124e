"""A trunk: the backbone at one input size, as it came or narrowed, captured with all its taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from prune_tool.errors import ModelError
from prune_tool.records import Trunk
from prune_tool.store.fingerprint import fingerprint
from prune_tool.store.root import About
from prune_tool.surgery.capture import capture
from prune_tool.surgery.taps import HEAD, Tap, TappedBackbone, find_taps
from prune_tool.task.backbone import Backbone, Pooling


@dataclass(frozen=True, kw_only=True, eq=False)
class NarrowForm:
    """A narrower form of a subject.

    Attributes:
        share: of the backbone's multiply-accumulates that is left.
        fingerprint: of all that decides how, beside the backbone itself.
        make: the narrowed graph; called once, when it is first needed.
    """

    share: float
    fingerprint: str
    make: Callable[[], fx.GraphModule]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One trunk: the backbone at one input size, its hidden widths narrowed or not, captured with all its taps.

    Attributes:
        backbone: with the preprocessing of this input size.
        taps: in the order of the captured graph's outputs; the head is last.
        narrow_form: what narrows it; None for the backbone as it came.
    """

    backbone: Backbone
    taps: tuple[Tap, ...]
    narrow_form: NarrowForm | None = None

    @property
    def input_size(self) -> int:
        """Square input in pixels."""
        return self.backbone.preprocessing.input_size

    @property
    def trunk(self) -> Trunk:
        """Its name among the trunks of a run."""
        return Trunk(input_size=self.input_size, narrow=None if self.narrow_form is None else self.narrow_form.share)

    @cached_property
    def example(self) -> Tensor:
        """(2, 3, h, w) float32 images in [0, 1]."""
        return _noise(self.input_size)

    @cached_property
    def captured(self) -> fx.GraphModule:
        """Images (b, 3, h, w) float32 in [0, 1] -> one (b, width) tensor a tap."""
        if self.narrow_form is not None:
            return self.narrow_form.make()
        names = [tap.name for tap in self.taps if tap.name != HEAD]
        preprocessing = self.backbone.preprocessing
        pool = pooler(self.backbone.pooling)
        tapped = TappedBackbone(self.backbone.module, names, pool, preprocessing.mean, preprocessing.std)
        try:
            return capture(tapped.eval(), self.example)
        except Exception as error:  # torch.export raises whatever the model's code met
            raise ModelError(
                asked=f"capture {self.backbone.source} at {self.input_size} px as a graph",
                found=f"torch.export could not: {str(error).strip().splitlines()[0]}",
                remedy="docs/support.md names families that work; please report this one",
            ) from error

    @cached_property
    def trunk_fingerprint(self) -> str:
        """Changes when the neurons of a tap would: weights and preprocessing, but not which taps there are."""
        whole = fingerprint("features-2", self.backbone.fingerprint, repr(self.backbone.preprocessing))
        return whole if self.narrow_form is None else fingerprint(whole, self.narrow_form.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the captured graph would: weights, preprocessing, taps."""
        return fingerprint(self.trunk_fingerprint, repr([tap.name for tap in self.taps]))

    @property
    def about(self) -> About:
        """What to call it in the cache."""
        names = tuple(tap.name for tap in self.taps)
        return About(model=self.backbone.name, input_sizes=(self.input_size,), taps=names)


def open_subject(backbone: Backbone, taps: Sequence[str] | None = None) -> Subject:
    """A backbone with the taps named, by default every block's."""
    example = _noise(backbone.preprocessing.input_size)
    return Subject(backbone=backbone, taps=find_taps(backbone.module, pooler(backbone.pooling), example, taps))


def _noise(input_size: int) -> Tensor:
    """Two images of seeded noise, so that no two neurons agree by accident."""
    return torch.rand(2, 3, input_size, input_size, generator=torch.Generator().manual_seed(0))


def pooler(pooling: Pooling) -> Callable[[Tensor], Tensor]:
    """From a block's output to its neurons as the backbone itself pools: class token, mean over tokens or space."""

    def pool(output: Tensor) -> Tensor:
        if output.ndim == 4:
            return output.mean((1, 2)) if pooling.channels_last else output.mean((2, 3))
        if output.ndim == 3:
            return output[:, 0] if pooling.tokens == "token" else output[:, pooling.n_prefix_tokens :].mean(1)
        return output

    return pool


class Probed(nn.Module):
    """A trunk with its linear probe: images (b, 3, h, w) in [0, 1] -> logits (b, classes)."""

    def __init__(self, trunk: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.probe = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.probe.weight.copy_(weight)
            self.probe.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.probe(self.trunk(images))
        return logits
