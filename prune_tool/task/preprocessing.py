"""How images become a backbone's input, as numbers that can be stored and shipped."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from prune_tool.records import PreprocessingChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalise, in the terms of timm's evaluation transform, whose defaults these are.

    Attributes:
        input_size: side of the square input, in pixels.
        interpolation: ``bilinear``, ``bicubic`` and so on.
        crop_pct: side of the crop as a share of the resized image's.
        crop_mode: ``center`` (resize the shorter side, cut), ``squash`` (resize both) or ``border`` (pad).
        mean, std: of red, green and blue, of values from 0 to 1.
    """

    input_size: int
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def at(self, input_size: int) -> Preprocessing:
        """The same for another input size, in pixels."""
        return replace(self, input_size=input_size)

    def changed(self, change: PreprocessingChange) -> Preprocessing:
        """The same but for what ``change`` says."""
        return replace(self, **{name: value for name, value in asdict(change).items() if value is not None})
