"""Correct predictions, as counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Correct predictions out of all images looked at.

    ``n_correct`` is a whole number where every image counts alike; for balanced accuracy each counts by its class, so
    that the classes weigh the same and all images together count ``n_images``.
    """

    n_correct: int | float
    n_images: int

    @property
    def accuracy(self) -> float:
        """Share of images (or, balanced, mean over classes of that share) classified correctly, 0 to 1."""
        return self.n_correct / self.n_images

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} % of {self.n_images:,}"
