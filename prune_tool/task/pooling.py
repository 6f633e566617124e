"""How a network pools what its blocks return over places, so that taps can do the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

LATE_CLASS_TOKEN = ("blocks_token_only", "cls_attn_blocks", "post_network", "local_up_to_layer")
"""Attributes of models (CaiT, XCiT, VOLO, ConViT) whose class token joins only after most of the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How the model pools a block's output over places.

    Attributes:
        tokens: of (batch, token, channel) outputs, the first token or the mean of all but the prefix tokens.
        n_prefix_tokens: class and register tokens before those of places.
        channels_last: four-dimensional outputs are (batch, height, width, channel) and not (batch, channel, ...).
    """

    tokens: Literal["token", "avg"] = "avg"
    n_prefix_tokens: int = 0
    channels_last: bool = False


def pooling_of(module: nn.Module) -> Pooling:
    """What timm's attributes say of a model; the plain mean over places where they say nothing."""
    has_late_token = any(hasattr(module, name) for name in LATE_CLASS_TOKEN)
    by_token = getattr(module, "global_pool", None) == "token" and not has_late_token
    class_token = getattr(module, "cls_token", None)
    n_class_tokens = class_token.shape[1] if by_token and isinstance(class_token, Tensor) else int(by_token)
    return Pooling(
        tokens="token" if by_token else "avg",
        n_prefix_tokens=0 if has_late_token else getattr(module, "num_prefix_tokens", n_class_tokens),
        channels_last=getattr(module, "output_fmt", None) == "NHWC",
    )
