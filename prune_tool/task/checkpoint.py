"""Weights from a file, without ever running what a file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prune_tool.errors import ModelError

WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema",
    "state_dict", "model_state_dict", "model", "net", "network", "params", "weights",
)  # fmt: skip
"""Keys under which training scripts keep the weights; the averaged ones, which are what is meant to be used, first."""

PREFIXES = ("_orig_mod.", "module.")
"""What compiled, data-parallel and averaging wrappers put before every name, in any order and number."""

COUNTERS = ("n_averaged",)
"""Tensors that averaging keeps beside the weights."""

FORGOTTEN = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
)
"""Python objects that training scripts (timm's among them) keep beside the weights. None of them is made."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file, or a PyTorch file of plain tensors, into tensors by name.

    A PyTorch file is a pickle; only tensors and plain containers are read from it, so a file that wants code to run
    is refused and runs nothing. Options and metrics beside the weights are passed over. A training script's wrapping
    (``state_dict``, ``model``, ``module.``) is taken off.

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


class _Forgotten:
    """Stands where a file names one of ``FORGOTTEN``, and takes in nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _load_plain(path: Path) -> object:
    with torch.serialization.safe_globals([(_Forgotten, name) for name in FORGOTTEN]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: object) -> dict[str, Tensor]:
    """Tensors by clean name; empty if there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(inner := content.get(key), Mapping) and (weights := _unwrap(inner)):
            return weights
    tensors = {_clean(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name: tensor for name, tensor in tensors.items() if name not in COUNTERS}


def _clean(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def part_that_fits(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network that is part of a larger one (``model.``, ``backbone.``), under its own names.

    Where none or several parts fit, the weights as they are.
    """
    first = next((name for name in network if not name.endswith("num_batches_tracked")), "")
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(f".{first}")]
    parts = [{name.removeprefix(p): t for name, t in weights.items() if name.startswith(p)} for p in prefixes]
    fitting = [part for part in parts if not (misfit := compare(part, network)).missing and not misfit.reshaped]
    return fitting[0] if len(fitting) == 1 and compare(weights, network).missing else dict(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """How weights by name differ from those that a network has; ``reshaped`` says both shapes."""

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
        reshaped=tuple(
            f"{name} {_shape(tensor)} instead of {_shape(network[name])}"
            for name, tensor in weights.items()
            if name in network and tensor.shape != network[name].shape
        ),
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


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
