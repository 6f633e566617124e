"""How images become a backbone's input, as numbers that can be stored and shipped."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalise, in the terms of timm's evaluation transform.

    Attributes:
        input_size: side of the square input, in pixels.
        interpolation: ``bilinear``, ``bicubic`` and so on.
        crop_pct: side of the crop as a share of the resized image's.
        crop_mode: ``center`` (resize the shorter side, cut), ``squash`` (resize both) or ``border`` (pad).
        mean, std: of red, green and blue, of values from 0 to 1.
    """

    input_size: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def at(self, input_size: int) -> Preprocessing:
        """The same for another input size, in pixels."""
        return replace(self, input_size=input_size)
