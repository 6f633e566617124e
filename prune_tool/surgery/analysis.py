"""The backward walk: from the neurons that are kept to what every value of the graph must still carry.

Each node is visited once, after all its readers. Their needs are united, the node's rule (or the barrier) answers
with a plan, and the plan's needs become demands on its inputs. A node that nobody reads is never visited: that is
how everything after a tap vanishes.

Fission. A product set cannot say "queries of one token, keys and values of all". Where a node's readers need parts so
different that computing each part by itself costs less than their union, the node is split into one copy a part
(the fused query-key-value projection of a last attention block is the case that matters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.demand import Demand, Indices, tidy
from prune_tool.surgery.rules import RULES
from prune_tool.surgery.site import Plan, Rule, Site, Slot, barrier, inputs_of, is_tensor, shape_of


@dataclass(frozen=True, slots=True)
class Analysis:
    """What every live node of ``graph`` carries and how it gets there.

    Attributes:
        graph: the graph the plans speak of: a copy of the captured one, in which fission may have split nodes.
        plans: per live node, in no particular order. Parameters and the input have plans without needs.
        kept: per output of the graph, the indices kept on its last axis; outputs that are dropped are absent.
        barriers: operators without a rule from which less than everything was asked, by name.
    """

    graph: fx.Graph
    plans: dict[fx.Node, Plan]
    kept: Mapping[int, Indices | None]
    barriers: frozenset[str]


def analyse(graph: fx.Graph, kept: Mapping[int, Indices | None], *, round_to: int = 1) -> Analysis:
    """Walk ``graph`` backwards from the kept neurons of its outputs.

    Args:
        graph: canonical (see ``capture``). Not changed.
        kept: output number -> ascending indices kept on its last axis (``None``: all). Absent outputs are dropped.
        round_to: widths that weights produce are rounded up to a multiple of this where that reads unused rows;
            the surplus never reaches the output.
    """
    copy = _copied(graph)
    walk = _Walk(round_to=round_to)
    values = outputs_of(copy)
    for i, indices in kept.items():
        shape = shape_of(values[i])
        demand = Demand.everything(len(shape)).replace(-1, tidy(indices, shape[-1]))
        walk.ask(values[i], None, demand)
    walk.run(copy)
    return Analysis(graph=copy, plans=walk.plans, kept=dict(kept), barriers=frozenset(walk.barriers))


def _copied(graph: fx.Graph) -> fx.Graph:
    new = fx.Graph()
    new.output(new.graph_copy(graph, {}))
    return new


@dataclass(slots=True)
class _Reader:
    """One reading of a value: who reads it (``None``: the graph's output), in which slot, and how much."""

    node: fx.Node | None
    slot: Slot
    need: Demand


class _Walk:
    def __init__(self, *, round_to: int) -> None:
        self.round_to = round_to
        self.readers: dict[fx.Node, list[_Reader]] = {}
        self.plans: dict[fx.Node, Plan] = {}
        self.barriers: set[str] = set()

    def ask(self, value: fx.Node, reader: fx.Node | None, need: Demand, slot: Slot = ()) -> None:
        self.readers.setdefault(value, []).append(_Reader(reader, slot, need))

    def run(self, graph: fx.Graph) -> None:
        node = next(n for n in graph.nodes if n.op == "output").prev
        while node.op != "root":
            readers = self.readers.get(node)
            if readers:
                self.visit(node, readers)
            node = node.prev

    def visit(self, node: fx.Node, readers: list[_Reader]) -> None:
        if node.op != "call_function":
            self.plans[node] = Plan(_united(readers), {}, (), None)
            return
        for part in self.parted(node, readers)[1:]:
            self.split_off(node, part)
        plan = self.plan(node, _united(self.readers[node]))
        self.plans[node] = plan
        self.count_barrier(node)
        for slot, source in inputs_of(plan.args).items():
            self.ask(source, node, plan.needs[slot], slot)

    def plan(self, node: fx.Node, out: Demand) -> Plan:
        rule: Rule = RULES.get(node.target, barrier) if is_tensor(node) else barrier
        return rule(Site(node, out, self.round_to))

    def count_barrier(self, node: fx.Node) -> None:
        asked = _united(self.readers[node])
        if is_tensor(node) and node.target not in RULES and not asked.is_everything:
            self.barriers.add(str(node.target))

    def parted(self, node: fx.Node, readers: list[_Reader]) -> list[list[_Reader]]:
        """Readers grouped by need, where computing each group's part by itself is less work than their union."""
        groups: list[list[_Reader]] = []
        for reader in readers:
            for group in groups:
                if group[0].need.same_as(reader.need):
                    group.append(reader)
                    break
            else:
                groups.append([reader])
        if len(groups) == 1 or node.target not in RULES or any(r.node is None for r in readers):
            return [readers]
        shape = shape_of(node)
        together = self.plan(node, _united(readers)).carries.volume(shape)
        apart = sum(self.plan(node, group[0].need).carries.volume(shape) for group in groups)
        return groups if apart < together else [readers]

    def split_off(self, node: fx.Node, part: list[_Reader]) -> None:
        """Give ``part`` a copy of ``node`` of its own; it stands before ``node``, so the walk reaches it next."""
        with node.graph.inserting_before(node):
            copy = node.graph.node_copy(node)
        moved = {id(reader) for reader in part}
        self.readers[node] = [r for r in self.readers[node] if id(r) not in moved]
        for reader in part:
            if reader.node is not None:
                self.redirect(reader, node, copy)
            self.ask(copy, reader.node, reader.need, reader.slot)

    def redirect(self, reader: _Reader, old: fx.Node, new: fx.Node) -> None:
        """Make one reader's plan read ``new`` in its slot."""
        if reader.node is None:
            return
        plan = self.plans[reader.node]
        args = _with(plan.args, reader.slot, new)
        self.plans[reader.node] = Plan(plan.carries, plan.needs, args, plan.target)


def _with(args: tuple[object, ...], slot: Slot, node: fx.Node) -> tuple[object, ...]:
    head, *rest = slot
    items = list(args)
    inner = items[head]
    if rest and isinstance(inner, list | tuple):
        items[head] = [node if j == rest[0] else item for j, item in enumerate(inner)]
    else:
        items[head] = node
    return tuple(items)


def _united(readers: list[_Reader]) -> Demand:
    need = readers[0].need
    for reader in readers[1:]:
        need = need.union(reader.need)
    return need
