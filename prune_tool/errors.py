"""Every error a user can cause, each with the exit status that the command line gives it.

An error is one message in three parts: what was asked, what was found, and what would work. The constructor
asks for all three so that none is forgotten; no stage returns ``None`` to say that it failed.
"""

from functools import partial
from typing import ClassVar


class PruneToolError(Exception):
    """Something a user can mend.

    Args:
        asked: what the tool was asked to do, with the user's own words (paths, names, numbers) in it.
        found: what stood in the way.
        remedy: what would work instead, as a sentence. Tests feed it back and require that it does.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, *, asked: str, found: str, remedy: str) -> None:
        self.asked, self.found, self.remedy = asked, found, remedy
        super().__init__(f"{asked}: {found}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors of worker processes arrive as they were raised."""
        return partial(type(self), asked=self.asked, found=self.found, remedy=self.remedy), ()


class DataError(PruneToolError):
    """The labelled images cannot be used as they are."""


class BadImageError(DataError):
    """One image cannot be decoded; the message names it."""


class ModelError(PruneToolError):
    """The backbone or its weights cannot be used."""


class RunError(PruneToolError):
    """A run folder is missing, incomplete or not what was asked for."""


class CacheError(PruneToolError):
    """The feature cache cannot be read or written."""


class HubError(PruneToolError):
    """The Hugging Face Hub cannot be reached, refuses, or there is no token for it."""


class WorkerError(PruneToolError):
    """A process that worked for this one died, or a cluster could not do its work."""


class ProviderError(PruneToolError):
    """An execution provider was asked for that this machine does not have."""


class UsageError(PruneToolError):
    """An option's value makes no sense."""


class GateError(PruneToolError):
    """A gate was missed: budget, certificate, parity or latency. Nothing is wrong with the request itself."""

    exit_status: ClassVar[int] = 1


class BudgetError(GateError):
    """No candidate keeps enough accuracy."""


class LimitError(GateError):
    """No candidate is cheap enough."""


class VerificationError(GateError):
    """A written file does not do what its source does; the message names the stage and the difference."""
