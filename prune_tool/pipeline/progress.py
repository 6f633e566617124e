"""How a stage tells whoever is watching what it is doing; the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Somebody who watches."""

    def stage(
        self, title: str, total: int | None = None, unit: str | None = None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Enter a stage of ``total`` steps (``None``: unknown); the context yields a function that advances it.

        ``unit`` is what the steps are called (images), where their rate says something.
        """

    def note(self, message: str) -> None:
        """Something worth a line of its own: a choice the tool made, images left out."""


class Silent:
    """Nobody watches."""

    @contextmanager
    def stage(
        self,
        title: str,  # noqa: ARG002 - protocol
        total: int | None = None,  # noqa: ARG002
        unit: str | None = None,  # noqa: ARG002
    ) -> Iterator[Callable[[int], None]]:
        """See ``Progress``."""
        yield lambda _steps: None

    def note(self, message: str) -> None:
        """See ``Progress``."""
