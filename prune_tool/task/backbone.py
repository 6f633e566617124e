"""Backbones from timm: built, filled with their weights, and described. Only ``task`` imports timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from timm.models import PretrainedCfg
from torch import Tensor, nn

from prune_tool.errors import ModelError
from prune_tool.store.fingerprint import fingerprint
from prune_tool.task.checkpoint import compare
from prune_tool.task.preprocessing import Preprocessing
from prune_tool.task.recipe import OFFLINE, Recipe, find_recipe, first_line, skeleton, unbuildable

__all__ = [
    "Backbone",
    "Pooling",
    "Preprocessing",
    "load_backbone",
    "load_structure",
    "module_fingerprint",
    "pixel_transform",
]

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

    tokens: Literal["token", "avg"]
    n_prefix_tokens: int
    channels_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A pretrained network without its classifier.

    Attributes:
        name: timm's name of the architecture.
        source: as the user gave it.
        module: maps (batch, 3, height, width) float32, normalised, to (batch, width) float32. In evaluation mode.
        preprocessing: how its input is made.
        pooling: how its blocks' outputs are pooled.
        fingerprint: of architecture, parameters and buffers.
    """

    name: str
    source: str
    module: nn.Module
    preprocessing: Preprocessing
    pooling: Pooling
    fingerprint: str


def load_backbone(
    model: str | None, *, checkpoint: str | Path | None = None, input_size: int | None = None
) -> Backbone:
    """Load a pretrained backbone.

    Args:
        model: a timm name (its weights are downloaded unless ``checkpoint`` is given), ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER`` (``config.json`` and weights); ``None`` for the embedded default.
        checkpoint: a ``.safetensors`` or plain PyTorch file of weights, instead of the model's own.
        input_size: side of the square input in pixels, instead of the model's own. Transformers are built at that
            size, with their position embeddings resampled.

    Raises:
        ModelError: the model or its weights do not exist, do not fit together, or do not work at that size.
    """
    return _at_size(find_recipe(model, checkpoint), input_size)


def load_structure(model: str | None, *, input_size: int | None = None) -> Backbone:
    """The network that ``load_backbone`` gives, with random numbers for weights: nothing of them is read or downloaded.

    Only ``hf-hub:`` needs the network, for its ``config.json``. What a fresh network holds as a constant (a
    normalisation's scale and shift) is made uneven, so that no two layers agree by accident.

    Args:
        model: as for ``load_backbone``.
        input_size: as for ``load_backbone``.

    Raises:
        ModelError: the model does not exist or does not work at that size.
    """
    return _at_size(find_recipe(model, None, pretrained=False), input_size)


def _at_size(recipe: Recipe, input_size: int | None) -> Backbone:
    if input_size in {None, recipe.input_size}:
        return _build(recipe, recipe.input_size)
    try:
        return _build(recipe, input_size)
    except ModelError as error:
        _build(recipe, recipe.input_size)  # raises in its turn where the size is not to blame
        raise ModelError(
            asked=f"use {recipe.source} at {input_size} px",
            found=f"it does not work at that size ({error.found})",
            remedy=f"It works at its own {recipe.input_size} px",
        ) from error


def pixel_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """The geometry of timm's evaluation transform, without its arithmetic.

    Returns:
        A function from an RGB image to (height, width, 3) uint8 pixels. Divided by 255, less ``mean``, over ``std``,
        they are what ``timm.data.create_transform(is_training=False)`` gives.
    """
    size = preprocessing.input_size
    geometry = create_transform(
        input_size=(3, size, size),
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,  # the colour of the border, in crop mode "border"
        std=preprocessing.std,
        normalize=False,
    ).transforms[:-1]  # the last one makes a tensor

    def transform(image: Image.Image) -> NDArray[np.uint8]:
        for step in geometry:
            image = step(image)
        return np.array(image, dtype=np.uint8)

    return transform


def module_fingerprint(name: str, module: nn.Module) -> str:
    """A fingerprint of an architecture (its name and printed structure) and of all parameters and buffers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return fingerprint(name, repr(module), {key: tensor.detach().cpu().numpy() for key, tensor in tensors})


def _build(recipe: Recipe, size: int) -> Backbone:
    resized = recipe.is_fixed_size and size != recipe.input_size
    args = recipe.args | ({"img_size": size} if resized else {})
    if recipe.weights is not None:
        module = _fill(recipe, recipe.weights, args)
    else:
        module = _download(recipe, args) if recipe.pretrained else _draw(recipe, args)
    module = module.float().eval().requires_grad_(False)
    _require_features(recipe, module, size)
    config = asdict(PretrainedCfg()) | _config(module)
    name = timm.models.get_arch_name(recipe.architecture)
    return Backbone(
        name=name,
        source=recipe.source,
        module=module,
        preprocessing=Preprocessing(
            input_size=size,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        ),
        pooling=_pooling(module),
        fingerprint=module_fingerprint(name, module),
    )


def _download(recipe: Recipe, args: dict[str, Any]) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(recipe.architecture, pretrained=True, num_classes=0, **args)
    except Exception as error:
        raise ModelError(
            asked=f"load {recipe.source}",
            found=f"its weights could not be downloaded ({first_line(error)})",
            remedy=OFFLINE,
        ) from error
    return module


def _draw(recipe: Recipe, args: dict[str, Any]) -> nn.Module:
    """The network with random numbers, the same ones each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            module: nn.Module = timm.create_model(
                recipe.architecture, pretrained_cfg=recipe.config, num_classes=0, **args
            )
        except Exception as error:
            raise unbuildable(recipe.architecture, args, error) from error
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point():  # scales, shifts, running statistics
                tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return module


def _fill(recipe: Recipe, weights: dict[str, Tensor], args: dict[str, Any]) -> nn.Module:
    """Build the network without classifier and load ``weights`` into it, by way of the family's own conversion.

    That conversion (timm's checkpoint filter) resamples position embeddings and renames what older versions wrote.
    """
    network = skeleton(recipe.architecture, args, n_classes=0)
    classifier = skeleton(recipe.architecture, args, n_classes=2).keys() - network.keys()
    weights = {name: tensor for name, tensor in weights.items() if name not in classifier}
    misfit = compare(weights, network)
    if misfit.missing and not misfit.unexpected:  # nothing to convert; a few families would load it all the same
        raise _misfit(recipe, str(misfit))
    try:
        module: nn.Module = timm.create_model(
            recipe.architecture,
            pretrained=True,
            pretrained_cfg=recipe.config,
            pretrained_cfg_overlay={"state_dict": weights, "source": None, "custom_load": False, "num_classes": 0},
            num_classes=0,
            **args,
        )
    except Exception as error:
        raise _misfit(recipe, str(misfit) or first_line(error)) from error
    _config(module).pop("state_dict")
    return module


def _misfit(recipe: Recipe, found: str) -> ModelError:
    return ModelError(
        asked=f"load {recipe.source}",
        found=f"the weights do not fit {recipe.architecture}: {found}",
        remedy="Name the architecture that these weights were trained with",
    )


def _config(module: nn.Module) -> dict[str, Any]:
    """What timm notes in a model of its preprocessing and origin."""
    config = module.pretrained_cfg
    assert isinstance(config, dict)
    return config


def _require_features(recipe: Recipe, module: nn.Module, size: int) -> None:
    """Try the network on one black image."""
    try:
        with torch.no_grad():
            features = module(torch.zeros(1, 3, size, size))
    except Exception as error:
        raise ModelError(
            asked=f"run {recipe.source} at {size} px",
            found=first_line(error),
            remedy="Choose another model or input size",
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ModelError(
            asked=f"run {recipe.source}",
            found="its output is not one row of features per image",
            remedy="Choose a classification model",
        )


def _pooling(module: nn.Module) -> Pooling:
    has_late_token = any(hasattr(module, name) for name in LATE_CLASS_TOKEN)
    by_token = getattr(module, "global_pool", None) == "token" and not has_late_token
    class_token = getattr(module, "cls_token", None)
    n_class_tokens = class_token.shape[1] if by_token and isinstance(class_token, Tensor) else int(by_token)
    return Pooling(
        tokens="token" if by_token else "avg",
        n_prefix_tokens=0 if has_late_token else getattr(module, "num_prefix_tokens", n_class_tokens),
        channels_last=getattr(module, "output_fmt", None) == "NHWC",
    )
