"""What tests of hidden groups share: cuts that fold nothing, and the network they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from prune_tool.surgery.demand import Indices
from prune_tool.surgery.groups import HiddenGroup, consumer_bias, consumer_weight, find_groups, node_of
from prune_tool.surgery.narrowing import Cut, Narrowed, Turned
from prune_tool.surgery.scores import scores_of


def some_of(group: HiddenGroup, n_a_run: int, seed: int = 0) -> Indices:
    """Random neurons, as many in each run."""
    rng = np.random.default_rng(seed)
    run = group.width // group.n_parts
    return np.concatenate(
        [part * run + np.sort(rng.choice(run, n_a_run, replace=False)) for part in range(group.n_parts)]
    )


def unfolded(captured: fx.GraphModule, group: HiddenGroup, kept: Indices) -> Cut:
    """The consumers' own columns of the kept neurons; of scores the kept dimensions as they are."""
    if group.kind == "scores":
        (scores,) = (each for each in scores_of(captured) if each.name == group.name)
        chosen = torch.eye(group.width)[kept].expand(len(scores.query.rows), -1, -1)
        return Turned(query=chosen, key=chosen)
    weight, bias = _columns(captured, group, group.consumer, kept)
    others = {other: _columns(captured, group, other, kept) for other in group.others}
    return Narrowed(kept=kept, weight=weight, bias=bias, others=others)


def _columns(captured: fx.GraphModule, group: HiddenGroup, consumer: str, kept: Indices) -> tuple[Tensor, Tensor]:
    weight, bias = (of(captured, group, consumer) for of in (consumer_weight, consumer_bias))
    n_groups, per_group = group.width // weight.shape[1], weight.shape[1]
    rows = zip(weight.chunk(n_groups), np.split(kept, n_groups), strict=True)
    columns = [part[:, here - i * per_group] for i, (part, here) in enumerate(rows)]
    return torch.cat(columns), torch.zeros(len(weight)) if bias is None else bias


def cut_all(captured: fx.GraphModule, share: float, seed: int = 0, *, coupled: bool = False) -> dict[str, Cut]:
    """Every group cut to random neurons, a ``share`` of each run."""
    kept = some_of_all(captured, share, seed, coupled=coupled)
    return {group.name: unfolded(captured, group, kept[group.name]) for group in find_groups(captured, coupled=coupled)}


def some_of_all(captured: fx.GraphModule, share: float, seed: int = 0, *, coupled: bool = False) -> dict[str, Indices]:
    """The neurons that ``cut_all`` keeps."""
    return {
        group.name: some_of(group, max(1, round(share * group.run)), seed)
        for group in find_groups(captured, coupled=coupled)
    }


class Masked(fx.Interpreter):
    """The captured network with all but the kept neurons put to zero where their consumer reads them."""

    def __init__(self, captured: fx.GraphModule, kept: Mapping[str, Indices]) -> None:
        super().__init__(captured)
        self.masks: dict[fx.Node, Tensor] = {}
        for group in find_groups(captured, coupled=True):
            for consumer in (*group.others, group.consumer) if group.name in kept else ():
                node = node_of(captured, consumer)
                shape = [1] * node.all_input_nodes[0].meta["val"].ndim
                shape[-1 if "linear" in str(node.target) or group.kind == "scores" else 1] = -1
                mask = torch.zeros(group.width).index_fill(0, torch.from_numpy(kept[group.name]), 1)
                self.masks[node] = mask.view(shape)

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.masks:
            return super().run_node(n)
        (x, *others), kwargs = self.fetch_args_kwargs_from_env(n)
        return n.target(x * self.masks[n], *others, **kwargs)


def off_by(want: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> float:
    """Largest difference, relative to the scale of each output."""
    assert [t.shape for t in got] == [t.shape for t in want]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(want, got, strict=True))
