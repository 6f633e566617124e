"""What every stage of one export works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prune_tool.errors import UsageError
from prune_tool.pipeline.build import Order, Shippable, build
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.metadata import source_entries
from prune_tool.pipeline.runs import RunRecord
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Form, Limit
from prune_tool.store.layout import RunFolder


def each_of(form: Form | Sequence[Form]) -> tuple[Form, ...]:
    """One form, or several to choose among."""
    return (form,) if isinstance(form, Form) else tuple(form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is asked of a file besides its budget; see ``export``."""

    confidence: float
    taps: str | None
    limits: tuple[Limit, ...]
    forms: tuple[Form, ...]

    def __post_init__(self) -> None:
        if not self.forms or len({replace(form, precision="fp32") for form in self.forms}) > 1:
            raise UsageError(
                asked=f"choose among the forms {'; '.join(map(str, self.forms)) or '(none)'}",
                found="none, or such as differ in more than their precision",
                remedy="Give one form, or one for each precision",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One export.

    Attributes:
        workspace: of the run.
        record, analysis: of the run.
        data: training and validation features.
        terms: what is asked.
    """

    workspace: Workspace
    record: RunRecord
    analysis: Analysis
    data: FitData
    terms: Terms

    def make(self, budget: Budget, form: Form, candidate: Candidate, folder: Path) -> Shippable:
        """Build a candidate in a new folder of that path; errors as for ``build``."""
        metadata = source_entries(self.record) | {
            "prune_tool.budget": str(budget),
            "prune_tool.metric": self.record.request.metric,
            "prune_tool.seed": str(self.record.request.seed),
            "prune_tool.full_macs": str(self.analysis.full.macs),
        }
        folder.mkdir()
        order = Order(form=form, budget=budget, metadata=metadata)
        return build(self.workspace, self.data, self.analysis, candidate, RunFolder(folder), order)
