"""Beyond the list of families: any architecture of timm, cut and narrowed as the tests do, one row each.

    python -m tests.surgery.survey NAME [NAME ...]

Random weights, the architecture's own input size. Rows go to ``docs/survey.md``, beside those of other names there.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import timm
import torch

from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import narrow_graph
from tests.surgery.conftest import shake
from tests.surgery.narrowing import Masked, cut_all, off_by, some_of_all
from tests.surgery.test_families import Specimen, check, off_in_onnx, specimen

SURVEY = Path(__file__).parents[2] / "docs" / "survey.md"
SHARE = 0.75  # of every hidden width
TOLERANCE = 1e-4

HEAD = """# Other backbones that were tried

Written by `python -m tests.surgery.survey NAME ...`. Random weights, each architecture's own input size. For the
families of `support.md` tests repeat this; here each was tried once.

- *Taps*: blocks that can be cut after, and the head.
- *Exact*: the largest difference between a cut network and the full one at the same neurons, as a fraction of the
  output's scale: three taps, three random fifths of their neurons, batch 1 and 3.
- *Hidden widths*: those that narrowing finds. `channels` of convolutions, `features` of linear layers, `value` and
  `scores` of attention.
- *Narrowed*: three quarters of every hidden width, against the same network with the others masked; and *ONNX*, against
  its ONNX file in ONNX Runtime.

| Backbone | Taps | Exact | Hidden widths | Narrowed | ONNX |
| --- | --: | --: | --- | --: | --: |
"""


def row(name: str) -> str:
    """What was found, as cells of the table; what failed says where."""
    stage = "captured"
    try:
        it = specimen(name, shake)
        stage = "cut"
        found = check(it)
        stage = "narrowed"
        kinds = Counter(group.kind for group in find_groups(it.captured))
        widths = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) or "none"
        off, in_onnx = _narrowed(it) if kinds else ("-", "-")
    except Exception as error:  # noqa: BLE001 - whatever a backbone's own code raises
        return f"{name} | not {stage}: {_reason(error)} | | | |"
    return f"{name} | {found.n_taps} | {found.worst:.0e} | {widths} | {off} | {in_onnx}"


def _narrowed(it: Specimen) -> tuple[str, str]:
    narrow = narrow_graph(it.captured, cut_all(it.captured, SHARE))
    masked = Masked(it.captured, some_of_all(it.captured, SHARE))
    with torch.no_grad():
        off = max(off_by(masked.run(it.images(n)), narrow(it.images(n))) for n in (1, 3))
    assert off < TOLERANCE, f"off by {off:.0e}"
    with tempfile.TemporaryDirectory() as folder:
        return f"{off:.0e}", f"{off_in_onnx(it, narrow, Path(folder)):.0e}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} {lines[0] if lines else ''}".strip().replace("|", "/")


def main() -> None:
    """Try what is named, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=timm.list_models())
    warnings.filterwarnings("ignore")  # of torch.onnx, about itself
    for name in parser.parse_args().names:
        line = f"| {row(name)} |"
        print(line, flush=True)  # noqa: T201
        rows = {line.split()[1]: line for line in _on_file()} | {name: line}
        SURVEY.write_text(HEAD + "".join(f"{rows[each]}\n" for each in sorted(rows)), encoding="utf-8")
        gc.collect()


def _on_file() -> list[str]:
    """Rows of the table as it stands."""
    lines = SURVEY.read_text(encoding="utf-8").splitlines() if SURVEY.exists() else []
    return [line for line in lines if line.startswith("|")][2:]


if __name__ == "__main__":
    main()
