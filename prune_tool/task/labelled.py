"""What all readers share: names, labels and splits, and fingerprints made of the images' contents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prune_tool.records import Split
from prune_tool.store.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)  # no slots: the hashes are computed once and kept
class LabelledImages(ABC):
    """The part of an ``ImageSource`` that does not depend on where the pixels lie.

    Attributes:
        name: what to call these images in a report.
        classes: class names.
        labels: (n,) class of each image.
        given_splits: split of each image, where the data says.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    given_splits: tuple[Split | None, ...]

    @abstractmethod
    def content_hash(self, i: int) -> str:
        """A fingerprint of image ``i`` alone, equal for byte-identical copies."""

    def __len__(self) -> int:
        return len(self.labels)

    def content_hashes(self) -> tuple[str, ...]:
        """One fingerprint per image."""
        return self._hashes

    def fingerprint(self) -> str:
        """Of classes, labels and contents; where the images lie does not matter."""
        return fingerprint("images", self.classes, self.labels, self._hashes)

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return tuple(self.content_hash(i) for i in range(len(self)))
