"""What to build: from the name that a user gives a backbone to its architecture, arguments and weights."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg, load_model_config_from_hf, load_state_dict_from_hf
from timm.models._hub import load_model_config_from_path
from torch import Tensor

from prune_tool.errors import ModelError
from prune_tool.task.checkpoint import read_checkpoint, rename_in_order
from prune_tool.task.demo import demo_weights

DEFAULT = "tf_efficientnet_lite0"
"""Architecture of the embedded default."""

WEIGHT_FILES = ("model.safetensors", "*.safetensors", "*.pth", "*.bin")
"""Weights in a ``local-dir:`` folder, in order of preference."""

OFFLINE = "Connect to the network, or give local-dir:FOLDER, or a timm name with --checkpoint FILE.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
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


def find_recipe(model: str | None, checkpoint: str | Path | None, *, pretrained: bool = True) -> Recipe:
    """Everything that ``load_backbone`` needs to know of a model, its weights read.

    Args:
        model: as in ``load_backbone``.
        checkpoint: as there.
        pretrained: False for the structure alone: no weights are read or downloaded.

    Raises:
        ModelError: there is no such model, or its files cannot be used.
    """
    if model is None:
        return _defaultfind_recipe(checkpoint, pretrained=pretrained)
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
    elif scheme == "module":
        raise ModelError(
            asked=f"load {model}",
            found="it was given to Python as a module, which no file holds",
            remedy="Go on from Python: prune_tool.Workspace(request, backbone=prune_tool.from_module(module, ...))",
        )
    else:
        return _plan(source, model, weights=weights, pretrained=pretrained)
    return _plan(source, architecture, config=config, args=args, weights=weights, pretrained=pretrained)


def _defaultfind_recipe(checkpoint: str | Path | None, *, pretrained: bool) -> Recipe:
    if checkpoint:
        raise ModelError(
            asked=f"use --checkpoint {checkpoint}",
            found="no architecture to put it into",
            remedy="Give MODEL too, such as resnet50",
        )
    weights = None
    if pretrained:
        weights = rename_in_order(read_checkpoint(demo_weights()), skeleton(DEFAULT, {}, n_classes=1000))
    return _plan("the embedded default", DEFAULT, weights=weights, pretrained=pretrained)


def _plan(
    source: str,
    architecture: str,
    *,
    config: dict[str, Any] | None = None,
    args: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None,
    pretrained: bool,
) -> Recipe:
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
    return Recipe(
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
            found = first_line(error)
    raise ModelError(asked=f"load {source}", found=found, remedy=_suggestion(architecture))


def _local_config(folder: Path, source: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Preprocessing, architecture and its arguments from a folder's ``config.json``."""
    try:
        config, architecture, args = load_model_config_from_path(folder)
    except Exception as error:
        found = f"no {'such folder' if not folder.is_dir() else 'usable config.json'} ({first_line(error)})"
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
            asked=f"load {source}", found=f"it could not be downloaded ({first_line(error)})", remedy=OFFLINE
        ) from error
    return config, architecture, args, weights


def skeleton(architecture: str, args: dict[str, Any], *, n_classes: int) -> dict[str, Tensor]:
    """Names and shapes of a network's tensors, without memory behind them."""
    try:
        with torch.device("meta"):
            return dict(timm.create_model(architecture, num_classes=n_classes, **args).state_dict())
    except Exception as error:
        raise unbuildable(architecture, args, error) from error


def unbuildable(architecture: str, args: dict[str, Any], error: Exception) -> ModelError:
    """What to say where timm cannot build an architecture."""
    return ModelError(
        asked=f"build {architecture} with {args}",
        found=first_line(error),
        remedy="Correct model_args in config.json, or choose another input size",
    )


def _suggestion(name: str) -> str:
    if Path(name).expanduser().is_dir():
        return f"Did you mean local-dir:{name}?"
    if "/" in name:
        return f"Did you mean hf-hub:{name}?"
    known: Collection[str] = {*timm.list_models(), *timm.list_pretrained()}
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"


def first_line(error: Exception) -> str:
    """The gist of a foreign error, to stand inside one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
