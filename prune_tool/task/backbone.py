"""Backbones from timm: built, filled with their weights, and described. Only ``task`` imports timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from prune_tool.task.checkpoint import compare, part_that_fits
from prune_tool.task.pooling import Pooling, pooling_of
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
    "preprocessing_of",
    "require_features",
]


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
        taps: module paths to tap where the request names none; ``None`` for every block.
    """

    name: str
    source: str
    module: nn.Module
    preprocessing: Preprocessing
    pooling: Pooling
    fingerprint: str
    taps: tuple[str, ...] | None = None

    def at(self, input_size: int) -> Backbone:
        """The same module at another input size, in pixels. Raises ``ModelError`` where it does not run at it."""
        require_features(self.module, input_size, self.source, "Choose another input size")
        return replace(self, preprocessing=self.preprocessing.at(input_size))


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
        A function from an RGB or L image to (height, width, 3) uint8 pixels. Divided by 255, less ``mean``, over
        ``std``, they are what ``timm.data.create_transform(is_training=False)`` gives for RGB.
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
        if preprocessing.crop_mode == "border":  # which has a colour
            image = image.convert("RGB")
        for step in geometry:
            image = step(image)
        pixels = np.array(image, dtype=np.uint8)
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels

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
    require_features(module, size, recipe.source, "Choose another model or input size")
    name = timm.models.get_arch_name(recipe.architecture)
    return Backbone(
        name=name,
        source=recipe.source,
        module=module,
        preprocessing=preprocessing_of(module).at(size),
        pooling=pooling_of(module),
        fingerprint=module_fingerprint(name, module),
    )


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """What timm notes in a model of its preprocessing."""
    config = asdict(PretrainedCfg()) | _config(module)
    return Preprocessing(
        input_size=config["input_size"][-1],
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
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
    weights = part_that_fits(weights, network)
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


def require_features(module: nn.Module, size: int, source: str, remedy: str) -> None:
    """Try a network on two black images.

    Raises:
        ModelError: it does not run on (2, 3, size, size), or does not return (2, width) numbers.
    """
    try:
        with torch.no_grad():
            features = module(torch.zeros(2, 3, size, size))
    except Exception as error:
        raise ModelError(asked=f"run {source} at {size} px", found=first_line(error), remedy=remedy) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2 or not features.is_floating_point():
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(
            asked=f"run {source}",
            found=f"its output for two images is {shape}, and not one row of features per image",
            remedy="Choose a classification model, or wrap it in a module that returns (batch, features)",
        )
