"""Backbones from timm, and nothing else of timm: no other module imports it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from timm.models import PretrainedCfg, get_pretrained_cfg, load_model_config_from_hf, load_state_dict_from_hf
from timm.models._hub import load_model_config_from_path
from torch import Tensor, nn

from prune_tool.errors import ModelError
from prune_tool.store.fingerprint import fingerprint
from prune_tool.task.checkpoint import compare, read_checkpoint, rename_in_order
from prune_tool.task.demo import demo_weights
from prune_tool.task.preprocessing import Preprocessing

__all__ = [
    "Backbone",
    "Pooling",
    "Preprocessing",
    "load_backbone",
    "load_structure",
    "module_fingerprint",
    "pixel_transform",
]

DEFAULT = "tf_efficientnet_lite0"
"""Architecture of the embedded default."""

WEIGHT_FILES = ("model.safetensors", "*.safetensors", "*.pth", "*.bin")
"""Weights in a ``local-dir:`` folder, in order of preference."""

LATE_CLASS_TOKEN = ("blocks_token_only", "cls_attn_blocks", "post_network", "local_up_to_layer")
"""Attributes of models (CaiT, XCiT, VOLO, ConViT) whose class token joins only after most of the blocks."""

OFFLINE = "Connect to the network, or give local-dir:FOLDER, or a timm name with --checkpoint FILE.safetensors"


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
    return _at_size(_recipe(model, checkpoint), input_size)


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
    return _at_size(_recipe(model, None, pretrained=False), input_size)


def _at_size(recipe: _Recipe, input_size: int | None) -> Backbone:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """All that is needed to build a backbone at any size.

    Attributes:
        source: as the user gave it.
        architecture: timm's name, with a tag if it was given one.
        config: what the model's files say of its preprocessing; None for what timm knows.
        args: of the architecture.
        weights: by name, classifier included; None to let timm make them.
        pretrained: whether timm, where it makes them, downloads trained ones or draws random ones.
        input_size: the model's own, in pixels.
        is_fixed_size: it must be built for its input size.
    """

    source: str
    architecture: str
    config: dict[str, Any] | None
    args: dict[str, Any]
    weights: dict[str, Tensor] | None
    pretrained: bool
    input_size: int
    is_fixed_size: bool


def _recipe(model: str | None, checkpoint: str | Path | None, *, pretrained: bool = True) -> _Recipe:
    if model is None:
        return _default_recipe(checkpoint, pretrained=pretrained)
    source = f"{model} --checkpoint {checkpoint}" if checkpoint else model
    weights = read_checkpoint(Path(checkpoint).expanduser()) if checkpoint else None
    scheme, _, place = model.partition(":")
    if scheme == "local-dir":
        folder = Path(place).expanduser()
        config, architecture, args = _local_config(folder, source)
        weights = weights or (read_checkpoint(_weight_file(folder, source)) if pretrained else None)
    elif scheme == "hf-hub":
        config, architecture, args, downloaded = _from_hub(place, source, with_weights=pretrained and weights is None)
        weights = weights or downloaded
    else:
        return _plan(source, model, weights=weights, pretrained=pretrained)
    return _plan(source, architecture, config=config, args=args, weights=weights, pretrained=pretrained)


def _default_recipe(checkpoint: str | Path | None, *, pretrained: bool) -> _Recipe:
    if checkpoint:
        raise ModelError(
            asked=f"use --checkpoint {checkpoint}",
            found="no architecture to put it into",
            remedy="Give MODEL too, such as resnet50",
        )
    weights = None
    if pretrained:
        weights = rename_in_order(read_checkpoint(demo_weights()), _skeleton(DEFAULT, {}, n_classes=1000))
    return _plan("the embedded default", DEFAULT, weights=weights, pretrained=pretrained)


def _plan(
    source: str,
    architecture: str,
    *,
    config: dict[str, Any] | None = None,
    args: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None,
    pretrained: bool,
) -> _Recipe:
    """Complete a recipe with what timm knows of the architecture."""
    entry = _registered(architecture, source)
    if pretrained and weights is None and not entry.has_weights:
        raise ModelError(
            asked=f"load {source}",
            found="no pretrained weights of it exist",
            remedy="Add --checkpoint FILE.safetensors",
        )
    if config is not None:  # old files do not say whether the size is fixed
        config = {"fixed_input_size": entry.fixed_input_size, **config}
    said = asdict(entry) if config is None else asdict(PretrainedCfg()) | config
    args = {name: value for name, value in (args or {}).items() if name != "num_classes"}
    n_channels, *size = said["input_size"]
    size = args.get("img_size") or size
    height, width = (size, size) if isinstance(size, int) else size
    if n_channels != 3 or height != width:
        raise ModelError(
            asked=f"load {source}",
            found=f"its input is {n_channels} x {height} x {width}",
            remedy="Choose a model of square RGB images",
        )
    return _Recipe(
        source=source,
        architecture=architecture,
        config=config,
        args=args,
        weights=weights,
        pretrained=pretrained,
        input_size=height,
        is_fixed_size=said["fixed_input_size"],
    )


def _registered(architecture: str, source: str) -> PretrainedCfg:
    """What timm has registered of an architecture. Raises ``ModelError``, with close names, if it knows none such."""
    found = "timm has no such model"
    if timm.is_model(architecture):
        try:
            return get_pretrained_cfg(architecture) or PretrainedCfg()
        except RuntimeError as error:  # the architecture, but not with this tag
            found = _first_line(error)
    raise ModelError(asked=f"load {source}", found=found, remedy=_suggestion(architecture))


def _local_config(folder: Path, source: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Preprocessing, architecture and its arguments from a folder's ``config.json``."""
    try:
        config, architecture, args = load_model_config_from_path(folder)
    except Exception as error:
        found = f"no {'such folder' if not folder.is_dir() else 'usable config.json'} ({_first_line(error)})"
        remedy = "Give a folder that timm wrote: config.json with an architecture, and model.safetensors"
        raise ModelError(asked=f"load {source}", found=found, remedy=remedy) from error
    return config, architecture, args


def _weight_file(folder: Path, source: str) -> Path:
    for pattern in WEIGHT_FILES:
        if files := sorted(folder.glob(pattern)):
            return files[0]
    raise ModelError(asked=f"load {source}", found=f"no weights in {folder}", remedy="Put model.safetensors into it")


def _from_hub(
    place: str, source: str, *, with_weights: bool
) -> tuple[dict[str, Any], str, dict[str, Any], dict[str, Tensor] | None]:
    """Preprocessing, architecture, its arguments and weights from the Hugging Face hub."""
    try:
        config, architecture, args = load_model_config_from_hf(place)
        weights = load_state_dict_from_hf(place, weights_only=True) if with_weights else None
    except Exception as error:
        raise ModelError(
            asked=f"load {source}", found=f"it could not be downloaded ({_first_line(error)})", remedy=OFFLINE
        ) from error
    return config, architecture, args, weights


def _build(recipe: _Recipe, size: int) -> Backbone:
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


def _download(recipe: _Recipe, args: dict[str, Any]) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(recipe.architecture, pretrained=True, num_classes=0, **args)
    except Exception as error:
        raise ModelError(
            asked=f"load {recipe.source}",
            found=f"its weights could not be downloaded ({_first_line(error)})",
            remedy=OFFLINE,
        ) from error
    return module


def _draw(recipe: _Recipe, args: dict[str, Any]) -> nn.Module:
    """The network with random numbers, the same ones each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            module: nn.Module = timm.create_model(
                recipe.architecture, pretrained_cfg=recipe.config, num_classes=0, **args
            )
        except Exception as error:
            raise _unbuildable(recipe.architecture, args, error) from error
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point():  # scales, shifts, running statistics
                tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return module


def _fill(recipe: _Recipe, weights: dict[str, Tensor], args: dict[str, Any]) -> nn.Module:
    """Build the network without classifier and load ``weights`` into it, by way of the family's own conversion.

    That conversion (timm's checkpoint filter) resamples position embeddings and renames what older versions wrote.
    """
    network = _skeleton(recipe.architecture, args, n_classes=0)
    classifier = _skeleton(recipe.architecture, args, n_classes=2).keys() - network.keys()
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
        raise _misfit(recipe, str(misfit) or _first_line(error)) from error
    _config(module).pop("state_dict")
    return module


def _misfit(recipe: _Recipe, found: str) -> ModelError:
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


def _skeleton(architecture: str, args: dict[str, Any], *, n_classes: int) -> dict[str, Tensor]:
    """Names and shapes of a network's tensors, without memory behind them."""
    try:
        with torch.device("meta"):
            return dict(timm.create_model(architecture, num_classes=n_classes, **args).state_dict())
    except Exception as error:
        raise _unbuildable(architecture, args, error) from error


def _unbuildable(architecture: str, args: dict[str, Any], error: Exception) -> ModelError:
    return ModelError(
        asked=f"build {architecture} with {args}",
        found=_first_line(error),
        remedy="Correct model_args in config.json, or choose another input size",
    )


def _require_features(recipe: _Recipe, module: nn.Module, size: int) -> None:
    """Try the network on one black image."""
    try:
        with torch.no_grad():
            features = module(torch.zeros(1, 3, size, size))
    except Exception as error:
        raise ModelError(
            asked=f"run {recipe.source} at {size} px",
            found=_first_line(error),
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


def _suggestion(name: str) -> str:
    if Path(name).expanduser().is_dir():
        return f"Did you mean local-dir:{name}?"
    if "/" in name:
        return f"Did you mean hf-hub:{name}?"
    known: Collection[str] = {*timm.list_models(), *timm.list_pretrained()}
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
