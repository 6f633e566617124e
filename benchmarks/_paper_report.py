"""What ``paper.py`` prints: a table beside the published figures, and what converged probes change, in words."""

from dataclasses import dataclass
from typing import Any

from _assets import DATA, MODELS

FRACTIONS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)

Pair = dict[str, Any]
"""What ``paper.py`` records of one backbone on one data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Figures of Nanda et al. (NeurIPS 2023): test accuracy by fraction, and redundancy at 0.9 by the nearest rule."""

    backbone: str
    accuracy: dict[float, float]
    redundancy: float

    def strict_redundancy(self, delta: float) -> float:
        """The redundancy that the same accuracies show by the paper's own Definition 1."""
        kept = [f for f, accuracy in self.accuracy.items() if accuracy >= delta * self.accuracy[1.0]]
        return 1 - min(kept)


PUBLISHED = {
    "resnet50_v1/cifar10": Published(
        backbone="ResNet-50", accuracy={1.0: 0.891, 0.2: 0.832, 0.1: 0.779, 0.05: 0.695}, redundancy=0.90
    ),
    "vit_small_patch14_dinov2/cifar10": Published(backbone="ViT-S/16", accuracy={}, redundancy=0.70),
}

CAVEATS = """
- Published figures are of other weights of the same family, trained on 50,000 CIFAR-10 images under augmentation; here
  every probe sees the training images counted in the table, without augmentation.
- This ResNet-50 is Keras' v1 (published 74.9 % on ImageNet-1k), with the strides its weights were trained with.
- This ViT is a ViT-S/14 fine-tuned for saliency, with weak class features. It is neither DINOv2 nor the paper's
  ViT-S/16, and stands here only for a real transformer.
- The five flowers are not the paper's Flowers-102.
- The recipe is the paper's rate, momentum, batch and epochs with its code's decay, on cached features.
- Strict redundancy of ridge probes is read off every size, all other redundancies off the authors' grid.
- ± is the standard deviation over draws. One test image in a thousand is 0.1 points: small test sets blur all figures.
"""

PROBES = {"ridge": "ridge, exact", "logistic": "logistic, converged", "recipe": "SGD, the paper's recipe"}
COMPARISONS = ("pivoted", "principal components", "random projection", "first k")


def report(pairs: dict[str, Pair]) -> str:
    """Markdown: the table, the statements, the caveats."""
    return "\n".join([table(pairs), *(f"- {line}" for line in statements(pairs)), CAVEATS])


def name_of(pair: Pair) -> str:
    """Backbone and data as the report calls them."""
    return f"{MODELS[pair['model']]}, {DATA[pair['data']]}"


def size_of(pair: Pair, fraction: float) -> int:
    """Neurons that a fraction of the layer is."""
    return max(1, int(fraction * pair["width"] + 1e-9))


def accuracy_at(pair: Pair, curve: str, fraction: float) -> float:
    """Mean test accuracy, 0 to 1."""
    found = pair["curves"][curve]
    return float(found["mean"][found["sizes"].index(size_of(pair, fraction))])


def table(pairs: dict[str, Pair]) -> str:
    """Accuracy in percent by fraction kept, mean and standard deviation over draws, and redundancy at 0.9."""
    head = ["backbone, data", "neurons", *(f"{100 * f:g} %" for f in FRACTIONS), "DR strict", "DR nearest"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, pair in pairs.items():
        for i, row in enumerate(rows(name, pair)):
            title = f"{name_of(pair)}: {pair['width']} neurons, {pair['n_train']:,} images" if i == 0 else ""
            lines.append(f"| {' | '.join([title, *row])} |")
    return "\n".join([*lines, ""])


def rows(name: str, pair: Pair) -> list[list[str]]:
    """Rows of one pair: its probes, the published figures, the comparisons, the similarity."""
    found = []
    for probe in (probe for probe in PROBES if probe in pair["curves"]):
        redundancy = pair["redundancy"][probe]
        strict, nearest = f"{redundancy['strict_grid']:.2f}", f"{redundancy['nearest_grid']:.2f}"
        if "strict" in redundancy:
            strict = f"{redundancy['strict']:.3f} ± {redundancy['strict_std']:.3f}"
        found.append([f"random, {PROBES[probe]}", *accuracies(pair, probe), strict, nearest])
    if name in PUBLISHED:
        known = PUBLISHED[name]
        figures = [f"{100 * known.accuracy[f]:.1f}" if f in known.accuracy else "" for f in FRACTIONS]
        strict = f"{known.strict_redundancy(pair['delta']):.2f}" if known.accuracy else ""
        found.append([f"random, published for {known.backbone}", *figures, strict, f"{known.redundancy:.2f}"])
    found += [[f"{curve}, ridge", *accuracies(pair, curve), "", ""] for curve in COMPARISONS]
    cka = dict(zip(pair["cka"]["sizes"], pair["cka"]["mean"], strict=True))
    found.append(["random, linear CKA with the layer", *(f"{cka[size_of(pair, f)]:.3f}" for f in FRACTIONS), "", ""])
    return found


def accuracies(pair: Pair, curve: str) -> list[str]:
    """``87.7 ± 0.3`` at each fraction; the spread only where there is more than one draw of more than one subset."""
    found = pair["curves"][curve]
    cells = []
    for fraction in FRACTIONS:
        at = found["sizes"].index(size_of(pair, fraction))
        spread = f" ± {100 * found['std'][at]:.1f}" if found["n_draws"] > 1 and fraction < 1 else ""
        cells.append(f"{100 * found['mean'][at]:.1f}{spread}")
    return cells


def statements(pairs: dict[str, Pair]) -> list[str]:
    """What follows, one sentence or three a pair."""
    lines = [
        f"{known.backbone}: by the paper's Definition 1 its own published accuracies give a redundancy of"
        f" {known.strict_redundancy(0.9):.2f}; {known.redundancy:.2f} is published, of the grid point nearest to the"
        " threshold, which lies below it."
        for known in PUBLISHED.values()
        if known.accuracy
    ]
    return lines + [statement(pair) for pair in pairs.values()]


def statement(pair: Pair) -> str:
    """Converged probes against under-trained ones, on the same images and neurons."""
    converged, short = pair["redundancy"]["logistic"], pair["redundancy"].get("recipe")
    begin = f"{name_of(pair)}: "
    rules = f"{converged['strict_grid']:.2f} strict and {converged['nearest_grid']:.2f} nearest"
    if short is None:
        return f"{begin}converged probes show a redundancy of {rules}. (Without --recipe there is no more to say.)"
    at = {f: [100 * accuracy_at(pair, probe, f) for probe in ("logistic", "recipe")] for f in (1.0, 0.1)}
    change = converged["strict_grid"] - short["strict_grid"]
    verdict = (
        f"{'raises' if change > 0 else 'lowers'} it by {abs(change):.2f}" if round(change, 3) else "leaves it there"
    )
    return (
        f"{begin}a converged probe reaches {at[1.0][0]:.1f} % on all neurons and {at[0.1][0]:.1f} % on a tenth of them,"
        f" the paper's recipe {at[1.0][1]:.1f} % and {at[0.1][1]:.1f} %. Redundancy at {pair['delta']} is {rules} for"
        f" converged probes, {short['strict_grid']:.2f} and {short['nearest_grid']:.2f} by the recipe: by the strict"
        f" definition, training to convergence {verdict}."
    )
