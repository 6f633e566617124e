"""What every stage of a run works on: the images with their splits, and the backbone as each of its trunks.

A workspace opens each of them once, when it is first asked for. ``analyze``, ``export`` and ``bench`` of the same
request share one, so that ``compress`` loads and captures nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.errors import ModelError, ProviderError, UsageError
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.narrowed import Calibration, narrowed, reachable
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.pipeline.subject import Subject, open_subject
from prune_tool.pipeline.threads import n_threads
from prune_tool.records import Request, Trunk
from prune_tool.store.features import FeatureCache
from prune_tool.store.root import cache_root
from prune_tool.task.backbone import Backbone, load_backbone
from prune_tool.task.images import ImageSource, open_images
from prune_tool.task.scan import find_bad, require_readable
from prune_tool.task.splits import Splits, split_images, stratified

T = TypeVar("T")


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
        _require_something_narrowed(request)
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
        """Every trunk tried: at each input size, its own first, then from large to small; then narrowed ones."""
        whole = self._at_every_size()
        return (*whole, *(narrow for subject in whole for narrow in self._narrowed(subject)))

    def _at_every_size(self) -> tuple[Subject, ...]:
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

    @cached_property
    def _calibration(self) -> Calibration:
        """What narrowed trunks are made on."""
        request, train = self.request, self.splits.train
        rows = stratified(train, self.source.labels, request.n_calibration, request.seed)
        return Calibration(source=self.source, rows=rows, seed=request.seed, healing=train, n_epochs=request.heal)

    @property
    def calibrated(self) -> NDArray[np.int64]:
        """Training images that narrowed trunks were made on, so that they cannot tell what those do on others."""
        if self.request.narrow == ():
            return np.empty(0, np.int64)
        return self._calibration.healing if self.request.heal else self._calibration.rows

    def _narrowed(self, subject: Subject) -> tuple[Subject, ...]:
        request = self.request
        shares = defaults.NARROW_SHARES if request.narrow is None else request.narrow
        if not shares:
            return ()
        calibration = self._calibration
        plans = [Plan(share=s, allocation=request.allocation, round_to=request.round_to) for s in shares]
        if request.narrow is None:
            plans = reachable(subject, plans, calibration, self.cache, self.progress)
        return narrowed(subject, plans, calibration, lambda: self.cache, self.progress)

    def subject(self, trunk: Trunk) -> Subject:
        """One of the trunks."""
        return next(subject for subject in self.subjects if subject.trunk == trunk)

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


def _require_something_narrowed(request: Request) -> None:
    if request.narrow == () and (request.heal or request.allocation != "uniform"):
        raise UsageError(
            asked=f"--heal {request.heal}" if request.heal else f"--allocation {request.allocation}",
            found="no trunk is narrowed, and nothing else needs that",
            remedy="Add --narrow auto",
        )


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
