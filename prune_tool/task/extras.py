"""Optional libraries, imported when they are needed."""

from importlib import import_module
from types import ModuleType

from prune_tool.errors import DataError


def need(module: str, *, extra: str, asked: str) -> ModuleType:
    """Import an optional library. Raises ``DataError``, which says how to install it, where it is absent."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            asked=asked,
            found=f"it takes the library {module.partition('.')[0]}, which is not installed",
            remedy=f"Run: pip install 'prune-tool[{extra}]'",
        ) from error
