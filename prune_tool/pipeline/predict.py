"""``predict``: what a shipped file says of pictures, from the file alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from prune_tool.deploy.bound import ELEMENT_TYPES
from prune_tool.deploy.description import Description
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import predict as run_file
from prune_tool.errors import BadImageError, RunError
from prune_tool.pipeline.files import describe
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.task.backbone import Preprocessing, pixel_transform
from prune_tool.task.decode import bad_image, decode
from prune_tool.task.folder import images_below

Pixels = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A class, its probability (softmax over all classes) and its logit."""

    name: str
    probability: float
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the file says of one image; the most probable class comes first."""

    image: str
    guesses: tuple[Guess, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An image that could not be read, and why."""

    image: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Predictions of one file, in the order in which the images were named."""

    model: Path
    predictions: tuple[Prediction, ...]
    unreadable: tuple[Unreadable, ...]


def predict(place: Path, images: Sequence[Path], *, top: int = 5, progress: Progress | None = None) -> Predicted:
    """Classify pictures with a shipped file: decode, preprocess as its metadata say, run, name the classes.

    Args:
        place: an ONNX file that ``export`` wrote, wherever it lies now, or a run.
        images: picture files, or folders whose pictures are taken at any depth. One that cannot be read is listed in
            the result, and the others go on.
        top: classes named for each picture, at most.
        progress: where to report it.

    Raises:
        RunError: the file is missing, damaged, or does not say how to prepare a picture.
    """
    description = describe(place)
    classes, prepare = _recipe(description)
    session = open_session(description.path)
    dtype = ELEMENT_TYPES.get(session.get_inputs()[0].type, np.float32)
    predictions, unreadable = [], []
    files = list(_files(images))
    with (progress or Silent()).stage("classifying images", len(files)) as advance:
        for file in files:
            try:
                batch = prepare(_read(file))[None].astype(dtype, copy=False)
            except BadImageError as error:
                unreadable.append(Unreadable(image=str(file), found=error.found))
            else:
                logits = run_file(session, [batch])[0]
                predictions.append(Prediction(image=str(file), guesses=_best(logits, classes, top)))
            advance(1)
    return Predicted(model=description.path, predictions=tuple(predictions), unreadable=tuple(unreadable))


def _files(images: Sequence[Path]) -> Iterator[Path]:
    """The pictures named; a folder without any stands for itself, to be reported."""
    for path in images:
        yield from (path.is_dir() and images_below(path)) or [path]


def _read(path: Path) -> Image.Image:
    if path.is_dir():
        raise bad_image(str(path), "a folder without images")
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise bad_image(str(path), error.strerror or str(error)) from error
    return decode(encoded, str(path))


def _recipe(file: Description) -> tuple[list[str], Callable[[Image.Image], Pixels]]:
    """Class names, and the function that makes of a picture what the file takes, without the batch axis."""
    said = file.metadata
    inside = said.get("preprocess", "normalize")
    recipe: dict[str, Any] = json.loads(said.get("preprocessing", "{}"))
    lacking = [] if inside == "graph" else [field.name for field in fields(Preprocessing) if field.name not in recipe]
    if "classes" not in said or lacking or inside not in {"normalize", "graph", "none"}:
        what = ", ".join(["classes"] * ("classes" not in said) + lacking) or f"how to prepare images ({inside})"
        raise RunError(
            asked=f"classify images with {file.path}",
            found=f"its metadata do not state {what}",
            remedy="Give a file that `prune-tool export` wrote, or its run",
        )
    classes: list[str] = json.loads(said["classes"])
    if inside == "graph":
        return classes, lambda image: np.asarray(image, dtype=np.uint8)
    known = {field.name: recipe[field.name] for field in fields(Preprocessing)}
    return classes, _preparation(Preprocessing(**known), normalise=inside == "none")


def _preparation(recipe: Preprocessing, *, normalise: bool) -> Callable[[Image.Image], Pixels]:
    """Resize and crop to (3, size, size) float32 in [0, 1], and where the file does not do it itself, normalise."""
    geometry = pixel_transform(recipe)
    mean, std = (np.array(each, dtype=np.float32) for each in (recipe.mean, recipe.std))

    def prepare(image: Image.Image) -> Pixels:
        pixels = geometry(image).astype(np.float32) / 255
        return ((pixels - mean) / std if normalise else pixels).transpose(2, 0, 1)

    return prepare


def _best(logits: NDArray[np.float32], classes: Sequence[str], top: int) -> tuple[Guess, ...]:
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-logits, kind="stable")[:top]
    return tuple(
        Guess(name=classes[i], probability=float(probabilities[i]), logit=float(logits[i])) for i in order.tolist()
    )
