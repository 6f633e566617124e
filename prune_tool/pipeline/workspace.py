"""What every stage of a run works on: the images with their splits, and the backbone at each input size.

A workspace opens each of them once, when it is first asked for. ``analyze``, ``export`` and ``bench`` of the same
request share one, so that ``compress`` loads and captures nothing twice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from prune_tool import defaults
from prune_tool.errors import ModelError, ProviderError, UsageError
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.records import Request
from prune_tool.store.features import FeatureCache
from prune_tool.store.fingerprint import fingerprint
from prune_tool.store.root import About, cache_root
from prune_tool.surgery.capture import capture
from prune_tool.surgery.taps import HEAD, Tap, TappedBackbone, find_taps
from prune_tool.task.backbone import Backbone, Pooling, load_backbone
from prune_tool.task.images import ImageSource, open_images
from prune_tool.task.scan import find_bad, require_readable
from prune_tool.task.splits import Splits, split_images

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The backbone at one input size, captured with all its taps.

    Attributes:
        backbone: with the preprocessing of this input size.
        taps: in the order of the captured graph's outputs; the head is last.
    """

    backbone: Backbone
    taps: tuple[Tap, ...]

    @property
    def input_size(self) -> int:
        """Square input in pixels."""
        return self.backbone.preprocessing.input_size

    @cached_property
    def example(self) -> Tensor:
        """(2, 3, h, w) float32 images in [0, 1]."""
        return _noise(self.input_size)

    @cached_property
    def captured(self) -> fx.GraphModule:
        """Images (b, 3, h, w) float32 in [0, 1] -> one (b, width) tensor a tap."""
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
        return fingerprint("features-2", self.backbone.fingerprint, repr(self.backbone.preprocessing))

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


class Workspace:
    """Opens what a request names, each thing once."""

    def __init__(self, request: Request, progress: Progress | None = None, *, backbone: Backbone | None = None) -> None:
        """Take a request.

        Args:
            request: what to open.
            progress: who watches.
            backbone: from ``from_module``, where the request names no model.

        Raises:
            UsageError: a value in the request makes no sense, or both name a model.
        """
        require_device(request.device)
        self.request = request if backbone is None else _of_module(request, backbone)
        self._given = backbone
        self.progress: Progress = progress or Silent()
        self._made: dict[str, Any] = {}

    def once(self, what: str, make: Callable[[], T]) -> T:
        """``make()``, or what it made when ``what`` was first asked for."""
        if what not in self._made:
            self._made[what] = make()
        made: T = self._made[what]
        return made

    @cached_property
    def cache(self) -> FeatureCache:
        """Where features are kept between runs."""
        return FeatureCache(cache_root(), on_wait=self.progress.note)

    @cached_property
    def source(self) -> ImageSource:
        """The labelled images."""
        return open_images(self.request.data)

    @cached_property
    def bad_images(self) -> dict[int, str]:
        """Images that cannot be decoded, with the reason. Without ``skip_bad`` the first of them is an error."""
        everything = range(len(self.source))
        with self.progress.stage("checking images"):
            if self.request.skip_bad:
                return find_bad(self.source, everything, n_threads())
            require_readable(self.source, everything, n_threads())
            return {}

    @cached_property
    def splits(self) -> Splits:
        """Which image serves for what."""
        return split_images(self.source, self.request.seed, skip=tuple(self.bad_images))

    @cached_property
    def native(self) -> Subject:
        """The backbone as it came."""
        return self._subject(None)

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """The backbone at every input size tried, its own first, then from large to small."""
        own = self.native.input_size
        asked = self.request.input_sizes
        sizes = _sizes_worth_trying(own) if asked is None else sorted({*asked} - {own}, reverse=True)
        found = [self.native]
        for size in sizes:
            try:
                found.append(self._subject(size))
            except ModelError as error:
                if asked is not None:
                    raise
                self.progress.note(f"not trying {size} px: {error.found}")
        return tuple(found)

    def subject(self, input_size: int) -> Subject:
        """The backbone at one of the input sizes."""
        return next(subject for subject in self.subjects if subject.input_size == input_size)

    def _subject(self, input_size: int | None) -> Subject:
        request = self.request
        with self.progress.stage(f"loading the backbone{f' at {input_size} px' if input_size else ''}"):
            backbone = self._backbone(input_size)
            changed = replace(backbone, preprocessing=backbone.preprocessing.changed(request.preprocessing))
            return open_subject(changed, request.taps or backbone.taps)

    def _backbone(self, input_size: int | None) -> Backbone:
        if self._given is not None:
            return self._given if input_size is None else self._given.at(input_size)
        checkpoint = None if self.request.checkpoint is None else Path(self.request.checkpoint)
        return load_backbone(self.request.model, checkpoint=checkpoint, input_size=input_size)


def _of_module(request: Request, backbone: Backbone) -> Request:
    """The request, with a note that its model was given as a module."""
    if request.model not in {None, backbone.source} or request.checkpoint is not None:
        raise UsageError(
            asked=f"work on the module {backbone.name}",
            found=f"the request names {request.checkpoint or request.model} as well",
            remedy="Leave model and checkpoint out of the request, or give no backbone",
        )
    return replace(request, model=backbone.source)


def require_device(device: str) -> None:
    """Refuse a device that is none, or that PyTorch does not find."""
    asked = f"--device {device}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(asked=asked, found="no such device", remedy="Choose cpu or cuda (every GPU; cuda:0 is one)")
    n_found = torch.cuda.device_count()
    if device.startswith("cuda") and not torch.cuda.is_available():
        found = f"PyTorch {torch.__version__} finds no CUDA device it can use"
        raise ProviderError(asked=asked, found=found, remedy="Use --device cpu")
    if ":" in device and int(device.partition(":")[2]) >= n_found:
        raise ProviderError(asked=asked, found=f"PyTorch finds {n_found} of them", remedy="Use --device cuda:0")


def _sizes_worth_trying(own: int) -> Sequence[int]:
    """Shares of the backbone's own input size, in steps that every common stride divides."""
    step = defaults.INPUT_SIZE_STEP
    sizes = {step * round(share * own / step) for share in defaults.INPUT_SIZE_SHARES}
    return sorted((size for size in sizes if step <= size < own), reverse=True)


def n_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
