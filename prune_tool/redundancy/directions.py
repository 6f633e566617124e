"""The layer read along directions instead of neurons: what random neurons are compared with.

An orthonormal basis ``Q (d, m)`` turns the moments of ``X`` into those of ``X Q``: ``Q'GQ`` and ``Q'B``. So the sweep
over prefixes scores the first ``k`` directions as it scores ``k`` neurons, for every ``k`` at once::

    along = project(moments, principal_basis(moments))
    val = HeldOut(along.features(val), val_labels)
    curve = sweep_draws(along.moments, val, in_order(width), sizes, ridge_grid)

Directions live in standardised coordinates, those of the ridge probes, and are not standardised again. A rotation then
leaves the probe of all ``d`` where it is: every comparison ends at the accuracy of the whole layer. Nanda et al.
(NeurIPS 2023) compare on the same axes, but take the principal directions of features of unequal variance.

A direction reads every neuron. It can make a probe smaller, and nothing in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from prune_tool.redundancy.checks import Features, Float64, Int64
from prune_tool.redundancy.moments import Moments

_DIRECTIONS = 2  # first word of the child seed: subsets.py has 0 and 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """A layer's ``d`` neurons seen along ``m`` directions.

    Attributes:
        origin: moments of the neurons.
        basis: ``(d, m)`` float64, read-only, orthonormal columns in the standardised coordinates of ``origin``.
        moments: of the projected features, width ``m``: mean 0 and scale 1, so ``gram / n`` is their covariance.
    """

    origin: Moments
    basis: Float64
    moments: Moments

    def __post_init__(self) -> None:
        self.basis.setflags(write=False)

    def features(self, features: Features) -> Float64:
        """Raw features ``(n, d)`` of any images as ``(n, m)`` float64 coordinates along the directions.

        Raises:
            DataError: the features are not finite or of another width.
        """
        return self.origin.standardise(features) @ self.basis


def project(moments: Moments, basis: Float64) -> Projection:
    """The layer of ``moments`` along the orthonormal columns of ``basis (d, m)``, given in standardised coordinates."""
    n_directions = basis.shape[1]
    projected = Moments(
        n_images=moments.n_images,
        mean=np.zeros(n_directions),
        scale=np.ones(n_directions),
        gram=basis.T @ moments.gram @ basis,
        cross=basis.T @ moments.cross,
        prior=moments.prior,
    )
    return Projection(origin=moments, basis=basis, moments=projected)


def principal_basis(moments: Moments) -> Float64:
    """Principal directions of the standardised features, ``(d, d)`` float64, a column each, by falling variance.

    Directions that no training image uses come last, in an arbitrary order; probes give them no weight.
    """
    _, vectors = torch.linalg.eigh(torch.tensor(moments.gram))  # ascending
    basis: Float64 = vectors.flip(1).numpy()
    return basis


def random_basis(width: int, seed: int) -> Float64:
    """A uniformly random (Haar) orthogonal matrix, ``(width, width)`` float64.

    Any ``k`` of its columns are ``k`` uniformly random orthonormal directions. So permutations of its columns are draws
    of random projections, as permutations of the neurons are draws of random subsets. The same seed gives the same
    matrix in every version of NumPy and PyTorch, to rounding.
    """
    child = np.random.SeedSequence(seed, spawn_key=(_DIRECTIONS,))
    words = np.random.PCG64(child).random_raw((width, width))
    gaussian = torch.special.ndtri(torch.from_numpy(((words >> 11) + 0.5) * 2.0**-53))
    Q, R = torch.linalg.qr(gaussian)
    # Householder's signs are not random; Mezzadri, "How to generate random matrices from the classical compact groups"
    # (2007), makes them so.
    basis: Float64 = (Q * R.diagonal().sign()).numpy()
    return basis


def in_order(width: int) -> Int64:
    """``(1, width)`` int64, the one draw whose prefixes are the first ``k``.

    For a basis, its leading directions. For neurons, what a layer trained to be cut there keeps (Kusupati et al.,
    "Matryoshka Representation Learning", NeurIPS 2022).
    """
    return np.arange(width, dtype=np.int64)[None]
