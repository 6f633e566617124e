"""Which images train the probe, which choose the network, and which certify it: three sets without a common image.

Few validation images flatter what they choose. Where val was made here and is small, the training images can take turns
with it: ``folds`` divides them into sets like val, each of which judges what was fitted to all others.

A byte-identical copy counts as the same image. In splits that are made here copies stay together; in splits that the
data gives, what is held out is believed and its copies leave the sets before it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_tool.defaults import ENOUGH_VAL, SPLIT_SHARES, VAL_SHARE_OF_TRAIN
from prune_tool.errors import DataError
from prune_tool.records import SPLITS, Split
from prune_tool.task.images import ImageSource

MIN_IMAGES = 2
"""Fewest distinct images of a class in a split: one image cannot show any spread."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Three disjoint sets of image numbers.

    Attributes:
        train, val, test: (n,) ascending image numbers.
        origin: how they came about, in one sentence.
        seed: of the random choices.
        n_duplicates_dropped: images left out because a set that is held out has a copy of them.
        folds: disjoint parts of ``train``, each about as large as ``val``, that judge in turn as ``val`` does; none
            where the data gives val itself (its images may belong together as only their owner knows) or where val has
            ``defaults.ENOUGH_VAL`` images, and no more than make up that number.
    """

    train: Indices
    val: Indices
    test: Indices
    origin: str
    seed: int
    n_duplicates_dropped: int
    folds: tuple[Indices, ...] = ()


def split_images(source: ImageSource, seed: int, skip: Collection[int] = ()) -> Splits:
    """Keep the splits that the data gives and make those that it lacks, stratified by class.

    Without splits, all three are made (shares ``defaults.SPLIT_SHARES``). With train and test, val is taken from train.
    With train and val, the given val becomes test and a new val is taken from train, because images that were looked
    at while choosing cannot certify. With all three, they are kept.

    Args:
        source: the labelled images.
        seed: of the random choices; the same seed and images give the same splits.
        skip: image numbers to leave out (those that cannot be decoded).

    Raises:
        DataError: a class has too few distinct images, or the data gives splits only to some images or no train.
    """
    left = np.setdiff1d(np.arange(len(source)), np.fromiter(skip, np.int64))
    images = _Images(
        name=source.name,
        classes=source.classes,
        labels=source.labels,
        copy_of=np.unique(np.array(source.content_hashes()), return_inverse=True)[1],
    )
    given = _given(source, left)
    if set(given) <= {"train"}:
        sets = _carve(images, left, SPLIT_SHARES, seed)
        shares = ", ".join(f"{100 * share:.0f} % {split}" for split, share in SPLIT_SHARES.items())
        origin = f"made here, stratified by class: {shares}"
        return Splits(**sets, origin=origin, seed=seed, n_duplicates_dropped=0, folds=_folds(images, sets, seed))
    origin = "splits as the data gives them"
    if "test" not in given:
        given["test"] = given.pop("val")
        origin = "train as the data gives it, its val held out as test"
    kept = _without_copies(images, given)
    n_dropped = sum(map(len, given.values())) - sum(map(len, kept.values()))
    folds: tuple[Indices, ...] = ()
    if "val" not in kept:
        kept |= _carve(images, kept["train"], {"train": 1 - VAL_SHARE_OF_TRAIN, "val": VAL_SHARE_OF_TRAIN}, seed)
        origin += f", {100 * VAL_SHARE_OF_TRAIN:.0f} % of train taken for val, stratified by class"
        folds = _folds(images, kept, seed)
    _require_every_class(images, kept)
    return Splits(**kept, origin=origin, seed=seed, n_duplicates_dropped=n_dropped, folds=folds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """What splitting needs to know. ``labels`` and ``copy_of`` are (n,); images with one ``copy_of`` are copies."""

    name: str
    classes: tuple[str, ...]
    labels: Indices
    copy_of: Indices

    def distinct(self, indices: Indices) -> tuple[Indices, Indices]:
        """Classes (m,) of the distinct images among ``indices`` (n,), and which of those each of them shows (n,).

        A set of copies counts for the class of its first image.
        """
        _, first, shown = np.unique(self.copy_of[indices], return_index=True, return_inverse=True)
        return self.labels[indices[first]], shown


def _given(source: ImageSource, left: Indices) -> dict[Split, Indices]:
    """The splits that the data gives, of the images that are left; empty if it gives none."""
    said = [source.given_splits[i] for i in left]
    given: dict[Split, Indices] = {split: left[[each == split for each in said]] for split in SPLITS if split in said}
    if given and (None in said or "train" not in given):
        raise DataError(
            asked=f"split {source.name}",
            found="images without a split beside images with one" if None in said else "no train among the splits",
            remedy="Give every image a split, train among them, or give none and let the tool make them",
        )
    return given


def _carve(images: _Images, indices: Indices, shares: Mapping[str, float], seed: int) -> dict[Split, Indices]:
    """Divide ``indices`` (n,) by ``shares``, class by class; train gets what the others leave.

    Copies move as one, so shares are of distinct images.
    """
    label_of, shown = images.distinct(indices)
    split_of = np.full(len(label_of), "train", dtype="U5")
    for label, name in enumerate(images.classes):
        of_class = np.flatnonzero(label_of == label)
        if len(of_class) < MIN_IMAGES * len(shares):
            raise _too_few(images.name, name, f"{len(of_class)} distinct images", MIN_IMAGES * len(shares))
        shuffled = np.random.default_rng([seed, label]).permutation(of_class)
        for split in (split for split in shares if split != "train"):
            n = max(MIN_IMAGES, int(shares[split] * len(of_class) + 0.5))
            split_of[shuffled[:n]], shuffled = split, shuffled[n:]
    return {split: indices[split_of[shown] == split] for split in SPLITS if split in shares}


def _folds(images: _Images, sets: Mapping[Split, Indices], seed: int) -> tuple[Indices, ...]:
    """Divide train into sets of about the size of val, class by class, copies together; as many as are needed."""
    train, n_val = sets["train"], len(sets["val"])
    n_folds = round(len(train) / n_val)
    label_of, shown = images.distinct(train)
    rng = np.random.default_rng([seed, len(images.classes)])  # a class' own generator begins with its number
    shuffled = rng.permutation(len(label_of))
    by_class = shuffled[np.argsort(label_of[shuffled], kind="stable")]
    fold_of = np.empty(len(label_of), np.int64)
    fold_of[by_class] = np.arange(len(label_of)) % max(1, n_folds)
    n_needed = -(-ENOUGH_VAL // n_val) - 1  # val is the first of as many as make up the number
    return tuple(train[fold_of[shown] == fold] for fold in range(min(n_folds, n_needed)))


def _without_copies(images: _Images, given: Mapping[Split, Indices]) -> dict[Split, Indices]:
    """The splits without images that a later one (test after val after train) has a copy of."""
    kept: dict[Split, Indices] = {}
    held_out = np.empty(0, np.int64)
    for split in reversed([split for split in SPLITS if split in given]):
        own = given[split]
        kept[split] = own[~np.isin(images.copy_of[own], held_out)]
        held_out = np.union1d(held_out, images.copy_of[own])
    return kept


def _require_every_class(images: _Images, sets: Mapping[Split, Indices]) -> None:
    for split, indices in sets.items():
        counts = np.bincount(images.labels[indices], minlength=len(images.classes))
        for name, count in zip(images.classes, counts.tolist(), strict=True):
            if count < MIN_IMAGES:
                raise _too_few(images.name, name, f"{count} usable images in {split}", MIN_IMAGES)


def _too_few(data: str, class_name: str, found: str, needed: int) -> DataError:
    return DataError(
        asked=f"split {data}",
        found=f"class {class_name} has {found}",
        remedy=f"Give it at least {needed} there that differ, or leave the class out",
    )


def stratified(indices: Indices, labels: Indices, n_most: int, seed: int) -> Indices:
    """Of ``indices`` (n,), ascending, at most about ``n_most``: a seeded choice with every class in its proportion.

    Every class that has an image keeps one. ``labels`` are those of the whole source.
    """
    if len(indices) <= n_most:
        return indices
    chosen = []
    for label in np.unique(labels[indices]).tolist():
        of_class = indices[labels[indices] == label]
        n = max(1, len(of_class) * n_most // len(indices))
        chosen.append(np.random.default_rng([seed, label]).permutation(of_class)[:n])
    return np.sort(np.concatenate(chosen))
