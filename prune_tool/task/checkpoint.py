"""Weights from a file, without ever running what a file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prune_tool.errors import ModelError

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep the weights; the averaged ones, which are what is meant to be used, first."""

PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
"""What compiled and data-parallel wrappers put before every name, in either order."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file, or a PyTorch file of plain tensors, into tensors by name.

    A PyTorch file is a pickle; only tensors and plain containers are read from it, so a file that wants code to run
    is refused and runs nothing. A training script's wrapping (``state_dict``, ``model``, ``module.``) is taken off.

    Raises:
        ModelError: there is no such file, it is damaged, or it is not plain weights.
    """
    asked = f"load the weights {path}"
    remedy = "Save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    if not path.is_file():
        raise ModelError(asked=asked, found="no such file", remedy="Give the path of a .safetensors or .pth file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_plain(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(asked=asked, found=f"it cannot be read ({error})", remedy=remedy) from error
    except Exception as error:  # unpickling hostile bytes raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found = f"it is damaged or holds more than plain tensors; nothing in it was run ({reason[:200]})"
        raise ModelError(asked=asked, found=found, remedy=remedy) from error
    weights = _unwrap(content)
    if not weights:
        raise ModelError(asked=asked, found="no tensors by name in it", remedy=remedy)
    return weights


def _load_plain(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: object) -> dict[str, Tensor]:
    """Tensors by clean name; empty if there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(inner := content.get(key), Mapping):
            return _unwrap(inner)
    return {_clean(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}


def _clean(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """How weights by name differ from those that a network has."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        parts = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.reshaped}
        return "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in parts.items() if names)


def compare(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> Misfit:
    """Names that only one side has, and those whose shapes differ. Batch counters, which change no output, may miss."""
    return Misfit(
        missing=tuple(name for name in network if name not in weights and not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in weights if name not in network),
        reshaped=tuple(n for n, tensor in weights.items() if n in network and tensor.shape != network[n].shape),
    )


def rename_in_order(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights, which list the same tensors in the same order under other names, the names of ``network``.

    Raises:
        ModelError: the two do not match one to one, shape by shape.
    """
    mine = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    theirs = {name: tensor for name, tensor in network.items() if not name.endswith("num_batches_tracked")}
    if [tensor.shape for tensor in mine.values()] != [tensor.shape for tensor in theirs.values()]:
        raise ModelError(
            asked=f"match {len(mine)} tensors to the {len(theirs)} of the network, in order",
            found="their shapes differ",
            remedy="Give weights of the same architecture",
        )
    return dict(zip(theirs, mine.values(), strict=True))


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
