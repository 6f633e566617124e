"""What one stage hands to the next: frozen records, nothing that anybody edits.

Accuracy travels as counts (``Score``), because 0.9 - 0.3 is not 0.6; kept neurons as ascending indices, never masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prune_tool.errors import UsageError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Correct predictions out of all images looked at."""

    n_correct: int
    n_images: int

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0 to 1."""
        return self.n_correct / self.n_images

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} % of {self.n_images:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much accuracy may be given up, relative to the full backbone's or in points of accuracy.

    ``relative``: kept accuracy must be at least ``(1 - loss) * full``. ``points``: at least ``full - loss``.
    ``loss`` is a fraction in [0, 1) in both cases (0.05 is 5 % or five points).
    """

    kind: Literal["relative", "points"]
    loss: float

    @staticmethod
    def parse(text: str) -> Budget:
        """Read ``0.05`` or ``5%`` (relative) or ``5pp`` (points). Raises ``UsageError`` on anything else."""
        kind: Literal["relative", "points"] = "points" if text.endswith("pp") else "relative"
        number = text.removesuffix("pp").removesuffix("%")
        try:
            loss = float(number) / (100 if number != text else 1)
        except ValueError:
            loss = -1.0
        if not 0 <= loss < 1:
            raise UsageError(
                asked=f"--budget {text}",
                found="not an accuracy loss from 0 to below 1 (or 0pp to below 100pp)",
                remedy="Try --budget 0.05 (5 % of the full backbone's accuracy) or --budget 5pp (five points)",
            )
        return Budget(kind=kind, loss=loss)

    def floor(self, full: Score) -> float:
        """The least accuracy (0 to 1) that meets this budget when the full backbone scores ``full``."""
        return full.accuracy * (1 - self.loss) if self.kind == "relative" else full.accuracy - self.loss

    def is_met(self, kept: Score, full: Score) -> bool:
        """Whether ``kept`` is accurate enough. Both scores are of the same images."""
        return kept.accuracy >= self.floor(full) - 1e-12

    def __str__(self) -> str:
        return f"{100 * self.loss:g} %" if self.kind == "relative" else f"{100 * self.loss:g} points"
