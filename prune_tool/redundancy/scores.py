"""Attention scores from fewer dimensions: the best of each head's queries and keys, in closed form.

A head scores a query ``q (d,)`` and a key ``k (d,)`` with ``s = q . k``. Narrowed, it has ``A q^`` and ``B k^``, both
``(n, d)``, where ``q^`` and ``k^`` are the same in a network that may be narrowed before already, and scores them with
``q^' M k^``, ``M = A'B`` of rank ``n``. Over queries and keys that are drawn apart from each other, with second moments
``Q`` and ``K``, the squared error is

    tr(Q_xx K_xx) - 2 tr(M' Q_hx K_xh) + tr(M' Q_hh M K_hh).

With ``Q_hh = L L'``, ``K_hh = R R'`` and ``T = L^-1 Q_hx K_xh R^-T`` it is least where ``L'M R`` approximates ``T``
best at that rank: its first ``n`` singular triples (Eckart and Young, "The approximation of one matrix by another of
lower rank", Psychometrika, 1936). So the error falls by a squared singular value with every dimension, and all of them
change nothing. Softmax does not see what is added to all scores of a query; keys are therefore taken about their mean
over each image.

As in ``reconstruction``, a little noise that both networks share is added to all moments, so that they can be inverted
whatever the rank and all dimensions of an unchanged network are still left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import UsageError
from prune_tool.records import Strategy
from prune_tool.redundancy.checks import Float64
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.layer import ErrorCurve
from prune_tool.redundancy.subsets import draw_interleaved


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maps:
    """What each head's queries and keys become.

    Attributes:
        query: ``(heads, n, d)`` float64, ``A`` of every head.
        key: ``(heads, n, d)`` float64, ``B`` of every head.
    """

    query: Tensor
    key: Tensor

    @property
    def product(self) -> Tensor:
        """``M (heads, d, d)``."""
        return self.query.mT @ self.key


class ScoreReconstruction:
    """A product of queries and keys and the moments of both: how well fewer dimensions do, and which.

    Args:
        query: moments of the ``heads x d`` dimensions of all queries.
        key: of all keys, each about the mean of its image's.
        importance: ``(heads,)`` float64, what the squared error of each head's scores counts, at least 0.
        ridge: variance of the noise that regularises, as a share of the mean variance; above 0.

    Raises:
        UsageError: widths that do not fit each other, or a ridge that is not positive.
    """

    def __init__(self, query: JointMoments, key: JointMoments, importance: Float64, ridge: float) -> None:
        self.n_heads = len(importance)
        if query.width != key.width or query.width % self.n_heads or not ridge > 0:
            raise UsageError(
                asked=f"reconstruct the scores of {self.n_heads} heads with ridge {ridge:g}",
                found=f"moments of {query.width:,} and {key.width:,} dimensions",
                remedy="Give moments of as many dimensions for queries as for keys, and a ridge above 0",
            )
        self.width = query.width // self.n_heads
        self._importance = torch.tensor(importance)
        self._q, self._k = (self._seconds(moments, ridge) for moments in (query, key))

    def maps(self, n: int, strategy: Strategy = "pivoted", *, fold: bool = True, seed: int = 0, place: int = 0) -> Maps:
        """What queries and keys become with ``n`` dimensions a head.

        Args:
            n: from 1 to ``d``.
            strategy: ``pivoted`` finds the best maps or, without folding, keeps the dimensions that vary most in both.
                ``random`` draws dimensions of the queries, the same places in all heads.
            fold: whether the keys take over what the dimensions that go had to say.
            seed: of the draw.
            place: of the product in its network: each has a draw of its own.
        """
        if strategy == "pivoted" and fold:
            return Maps(query=self._best.query[:, :n], key=self._best.key[:, :n])
        chosen = self._drawn(n, seed, place) if strategy == "random" else self._loudest(n)
        query = torch.eye(self.width, dtype=torch.float64)[chosen]
        return Maps(query=query, key=self._taken_over(query) if fold else query)

    def error_curve(
        self, strategy: Strategy = "pivoted", *, fold: bool = True, seed: int = 0, place: int = 0
    ) -> ErrorCurve:
        """Expected squared errors of a score, summed over heads as they count, for 0 to ``d`` dimensions a head."""
        absolute = [self.total] + [
            self._error(self.maps(n, strategy, fold=fold, seed=seed, place=place)) for n in range(1, self.width + 1)
        ]
        return ErrorCurve(absolute=np.array(absolute).clip(min=0), total=self.total)

    @cached_property
    def total(self) -> float:
        """Second moment of the scores, summed over heads as they count."""
        return self._summed((self._q.xx * self._k.xx).sum((1, 2)))

    def _error(self, maps: Maps) -> float:
        M = maps.product
        own = self._q.hh @ M @ self._k.hh
        return self.total + self._summed((M * own).sum((1, 2)) - 2 * (M * self._cross).sum((1, 2)))

    @cached_property
    def _cross(self) -> Tensor:
        """``Q_hx K_xh (heads, d, d)``."""
        return self._q.hx @ self._k.xh

    @cached_property
    def _best(self) -> Maps:
        """All ``d`` dimensions, the best first."""
        L, R = torch.linalg.cholesky(self._q.hh), torch.linalg.cholesky(self._k.hh)
        wanted = torch.linalg.solve_triangular(L, self._cross, upper=False)
        wanted = torch.linalg.solve_triangular(R.mT, wanted, upper=True, left=False)
        U, S, V = torch.linalg.svd(wanted)
        roots = S.sqrt()[:, :, None]
        return Maps(
            query=roots * torch.linalg.solve_triangular(L, U.mT, upper=False, left=False),
            key=roots * torch.linalg.solve_triangular(R, V, upper=False, left=False),
        )

    def _taken_over(self, query: Tensor) -> Tensor:
        """The best ``B (heads, n, d)`` for given ``A (heads, n, d)``."""
        of_queries = torch.linalg.cholesky(query @ self._q.hh @ query.mT)
        left = torch.cholesky_solve(query @ self._cross, of_queries)
        return torch.cholesky_solve(left.mT, torch.linalg.cholesky(self._k.hh)).mT

    def _drawn(self, n: int, seed: int, place: int) -> Tensor:
        chosen = np.sort(draw_interleaved(self.width, 1, seed, place)[:n])
        return torch.from_numpy(chosen).expand(self.n_heads, -1)

    def _loudest(self, n: int) -> Tensor:
        energy = self._q.hh.diagonal(dim1=1, dim2=2) * self._k.hh.diagonal(dim1=1, dim2=2)
        return energy.argsort(dim=1, descending=True, stable=True)[:, :n].sort(dim=1).values

    def _seconds(self, moments: JointMoments, ridge: float) -> _Seconds:
        xx, xh, hh = (
            self._by_head(covariance, mean, other)
            for covariance, mean, other in (
                (moments.xx, moments.mean, moments.mean),
                (moments.xh, moments.mean, moments.mean_hat),
                (moments.hh, moments.mean_hat, moments.mean_hat),
            )
        )
        size = float(hh.diagonal(dim1=1, dim2=2).mean())
        noise = ridge * (size if size > 0 else 1.0) * torch.eye(self.width, dtype=torch.float64)
        return _Seconds(xx=xx + noise, xh=xh + noise, hh=hh + noise)

    def _by_head(self, covariance: Float64, mean: Float64, other: Float64) -> Tensor:
        second = torch.from_numpy(covariance + np.outer(mean, other))
        blocks = second.reshape(self.n_heads, self.width, self.n_heads, self.width)
        return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)

    def _summed(self, by_head: Tensor) -> float:
        return float(self._importance @ by_head)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seconds:
    """Second moments about 0 of every head, ``(heads, d, d)``: of the original, with the narrowed, of the narrowed."""

    xx: Tensor
    xh: Tensor
    hh: Tensor

    @property
    def hx(self) -> Tensor:
        return self.xh.mT
