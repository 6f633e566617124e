"""Which modules of a backbone are its blocks, found by watching one run. No table of architectures.

Words. A *contraction* is a layer with a weight of two axes or more: a convolution, a linear layer. A *container* is a
Sequential, ModuleList or ModuleDict that does nothing but hold its elements. A *stage* only passes data through a
chain: all modules of its class return unchanged what the last block of a container of theirs (or of their children, all
of one class) returned. One that changes the layout on the way out, say, is closed: its blocks speak another layout.

The rule. Containers, stages and the backbone itself are opened; what lies in them with two contractions or more is a
block and stays closed. So a residual block is one tap whatever it is made of, and stems, downsampling layers and
fusion layers made of single convolutions are none. Three additions:

1. beside blocks in the same container, a module with one contraction is a block too (``blocks.6.0`` of MobileNetV3);
2. a container class with a forward pass of its own that holds blocks is opened and, where its output is its own, is a
   block too (a dense block, which returns the concatenation of its layers);
3. a chain of bare layers that makes up most of the network (VGG) is cut where the next contraction reads: after the
   activation or pooling, not after every convolution and normalisation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Returned:
    """What one module returned: the very tensors (weakly held), in the state they were in."""

    tensors: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]

    @staticmethod
    def of(output: object) -> Returned:
        """Note ``output``, a tensor or a sequence of them; of anything else there is nothing to note."""
        tensors = _tensors(output)
        return Returned(tuple(weakref.ref(t) for t in tensors), tuple(_version(t) for t in tensors))

    def is_same(self, output: object) -> bool:
        """Whether ``output`` is that, not written to since."""
        tensors = _tensors(output)
        if not tensors or len(tensors) != len(self.tensors):
            return False
        noted = zip(self.tensors, self.versions, tensors, strict=True)
        return all(ref() is tensor and version == _version(tensor) for ref, version, tensor in noted)


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for t in output if isinstance(t, Tensor)] if isinstance(output, list | tuple) else []


def _version(tensor: Tensor) -> int:
    """Number of in-place writes so far: ``x += y`` returns the same object, but not what it was."""
    return tensor._version  # noqa: SLF001 - autograd's own counter; there is no other


@dataclass(slots=True)
class Watch:
    """One run of a backbone as its modules saw it.

    Attributes:
        modules: every module by path; the backbone itself is ``""``.
        order: paths in the order the modules finished, one entry a run.
        passes_on: path -> paths of the modules inside it whose output it returned unchanged.
    """

    modules: dict[str, nn.Module]
    order: list[str] = field(default_factory=list)
    passes_on: dict[str, set[str]] = field(default_factory=dict)


def watch(backbone: nn.Module, example: Tensor) -> Watch:
    """Run ``backbone`` once on ``example`` (b, 3, h, w) and note what every module did. No activations are kept."""
    seen = Watch(modules=dict(backbone.named_modules()))
    returned: list[tuple[str, Returned]] = []

    def noted(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            inner = {p for p, r in returned if p.startswith(f"{path}.") and r.is_same(output)} if path else set()
            seen.passes_on.setdefault(path, set()).update(inner)
            seen.order.append(path)
            returned.append((path, Returned.of(output)))

        return hook

    handles = [module.register_forward_hook(noted(path)) for path, module in seen.modules.items()]
    try:
        with torch.no_grad():
            backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def find_blocks(backbone: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Paths of the blocks of ``backbone`` that ran exactly once, in the order they finished. See the rule above."""
    finder = _Finder(watch(backbone, example))
    found = set(finder.blocks("")) or set(finder.run_ends(""))
    order = finder.seen.order
    return tuple(path for path in order if path in found and order.count(path) == 1)


class _Finder:
    def __init__(self, seen: Watch) -> None:
        self.seen = seen
        self.n_contractions = {path: _n_contractions(module) for path, module in seen.modules.items()}
        deep = [path for path, n in self.n_contractions.items() if path and n > 1]
        self.stages = {self.kind(path) for path in deep if self.is_stage(path)}
        self.stages -= {self.kind(path) for path in deep if not self.is_stage(path)}

    def kind(self, path: str) -> type[nn.Module]:
        return type(self.seen.modules[path])

    def children(self, path: str) -> list[str]:
        """Modules in this one; what several share is known by the first path to it."""
        prefix = f"{path}." if path else ""
        paths = (prefix + name for name, _ in self.seen.modules[path].named_children())
        return [child for child in paths if child in self.seen.modules]

    def blocks(self, path: str, *, beside_blocks: bool = False) -> Iterator[str]:
        """Blocks inside ``path``, which is opened."""
        for child in self.children(path):
            if self.is_container(child):
                yield from self.in_container(child, beside_blocks=beside_blocks)
            elif self.kind(child) in self.stages:
                yield from self.blocks(child)
            elif self.n_contractions[child] > 1:
                inside = list(self.blocks(child)) if self.holds_blocks(child) else []
                yield from inside
                if not self.seen.passes_on.get(child, set()) & set(inside):
                    yield child
            elif beside_blocks and self.n_contractions[child] == 1 and self.children(child):
                yield child

    def in_container(self, path: str, *, beside_blocks: bool) -> Iterator[str]:
        if beside_blocks or any(self.blocks(path)):
            yield from self.blocks(path, beside_blocks=True)
        elif 2 * self.n_contractions[path] > self.n_contractions[""]:
            yield from self.run_ends(path)

    def is_container(self, path: str) -> bool:
        """Whether the module only holds its elements, or runs them in order."""
        forwards = {kind.forward for kind in _CONTAINERS}
        return issubclass(self.kind(path), _CONTAINERS) and self.kind(path).forward in forwards

    def holds_blocks(self, path: str) -> bool:
        """Whether the module is a container with a forward pass of its own and blocks for elements."""
        return issubclass(self.kind(path), _CONTAINERS) and all(
            self.n_contractions[child] > 1 for child in self.children(path)
        )

    def is_stage(self, path: str) -> bool:
        passed = {p for p in self.seen.passes_on.get(path, set()) if self.n_contractions[p] > 1}
        children = self.children(path)
        elements = {e for child in children if self.is_container(child) for e in self.elements(child)}
        if len({self.kind(child) for child in children}) == 1:
            elements |= set(children)
        return bool(passed & elements)

    def elements(self, path: str) -> Iterator[str]:
        """Elements of a container, those of containers inside it included."""
        for child in self.children(path):
            if self.is_container(child):
                yield from self.elements(child)
            else:
                yield child

    def run_ends(self, path: str) -> Iterator[str]:
        """In a chain of bare layers: the last layer of every run that begins with a contraction."""
        elements = set(self.elements(path))
        last = ""
        for layer in self.seen.order:
            if layer in elements:
                if self.n_contractions[layer] and last:
                    yield last
                last = layer if last or self.n_contractions[layer] else ""
        if last:
            yield last


def _n_contractions(module: nn.Module) -> int:
    """Number of modules in ``module`` that hold a weight with two axes or more (scales are no contractions)."""
    return sum(any(_contracts(p) for p in m.parameters(recurse=False)) for m in module.modules())


def _contracts(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1
