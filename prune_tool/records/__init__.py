"""What one stage hands to the next: frozen records, nothing that anybody edits.

Accuracy travels as counts (``Score``), because 0.9 - 0.3 is not 0.6; kept neurons as ascending indices, never masks.
"""

from prune_tool.records.asked import (
    COSTS,
    CROP_MODES,
    INTERPOLATIONS,
    SPLITS,
    Budget,
    Cost,
    Engine,
    Form,
    Limit,
    Limited,
    Metric,
    Precision,
    Preprocess,
    PreprocessingChange,
    Request,
    Split,
    Strategy,
    Target,
)
from prune_tool.records.found import (
    Analysis,
    Candidate,
    Comparison,
    Full,
    MeasuredReading,
    Reading,
    Search,
    TimedReadings,
)
from prune_tool.records.score import Score

__all__ = [
    "COSTS",
    "CROP_MODES",
    "INTERPOLATIONS",
    "SPLITS",
    "Analysis",
    "Budget",
    "Candidate",
    "Comparison",
    "Cost",
    "Engine",
    "Form",
    "Full",
    "Limit",
    "Limited",
    "MeasuredReading",
    "Metric",
    "Precision",
    "Preprocess",
    "PreprocessingChange",
    "Reading",
    "Request",
    "Score",
    "Search",
    "Split",
    "Strategy",
    "Target",
    "TimedReadings",
]
