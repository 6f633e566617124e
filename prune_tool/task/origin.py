"""Where weights and images come from, as the Hugging Face Hub names it."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not re-exported by name
from timm.models import get_pretrained_cfg

DATA_SCHEME = "hfds/"
"""How DATA begins where it is a data set of the Hub."""


def hub_model(model: str | None, checkpoint: str | None) -> str | None:
    """``OWNER/NAME`` of the weights that a request names; None where they are from elsewhere."""
    if model is None or checkpoint is not None or model.startswith("local-dir:"):
        return None
    if model.startswith("hf-hub:"):
        return _repository(model.removeprefix("hf-hub:"))
    known = get_pretrained_cfg(model, allow_unregistered=True)
    if known is None or not known.hf_hub_id:
        return None
    name = f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    return _repository(f"{known.hf_hub_id}{name}" if known.hf_hub_id.endswith("/") else known.hf_hub_id)


def hub_dataset(data: str | None) -> str | None:
    """``OWNER/NAME`` of the images that a request names; None where they are from elsewhere."""
    return _repository(data.removeprefix(DATA_SCHEME)) if data and data.startswith(DATA_SCHEME) else None


def why_no_repository(name: str) -> str | None:
    """What keeps ``name`` from naming a repository of the Hub; None where nothing does."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return str(error).splitlines()[0].rstrip(".")
    return None


def _repository(name: str) -> str | None:
    """The name without revision or configuration; None where it is no name of a repository."""
    for mark in "@:?#":
        name = name.partition(mark)[0]
    return name if why_no_repository(name) is None else None
