"""A home of their own for all tests, and in it the task that several rooms work on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import write_backbone, write_images

# a busy machine is no reason to fail
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, the threads of one would wait for those of the other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", autouse=True)
def own_cache(home: Path) -> Iterator[None]:
    """Nothing that tests compute ends in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNE_TOOL_CACHE", str(home / "cache"))
        yield


@pytest.fixture(scope="session")
def images(home: Path) -> Path:
    return write_images(home / "textures")


@pytest.fixture(scope="session")
def convnet(home: Path) -> str:
    return write_backbone(home / "convnet", "test_resnet")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images."""
    folder = Path(os.environ.get("PRUNE_TOOL_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and images in {folder}; set PRUNE_TOOL_ASSETS")
    return folder
