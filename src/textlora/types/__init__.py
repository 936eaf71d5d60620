"""The nouns: frozen, JSON-able, without torch.

    rows -> Dataset -> Plan -> Run -> Evaluation -> report
                               └──> Classifier -> Prediction

Derived values are properties and are never stored.
"""

from __future__ import annotations

from textlora.interval import Interval
from textlora.types.data import (
    SLICE,
    SPLIT_NAMES,
    Dataset,
    DatasetInfo,
    Example,
    Finding,
    Label,
    RowCounts,
    Split,
    Task,
    TokenLengths,
    headline_of,
)
from textlora.types.evaluated import (
    Baseline,
    ClassScores,
    Curve,
    Evaluation,
    Explanation,
    LabelErrors,
    Leakage,
    Mistake,
    Prediction,
    Slice,
    Span,
    without,
)
from textlora.types.planned import (
    Alternative,
    Cost,
    Estimate,
    Machine,
    Plan,
    Rehearsal,
)
from textlora.types.trained import (
    Bundle,
    Drift,
    MemoryEvent,
    Run,
)

__all__ = [
    "SLICE",
    "SPLIT_NAMES",
    "Alternative",
    "Baseline",
    "Bundle",
    "ClassScores",
    "Cost",
    "Curve",
    "Dataset",
    "DatasetInfo",
    "Drift",
    "Estimate",
    "Evaluation",
    "Example",
    "Explanation",
    "Finding",
    "Interval",
    "Label",
    "LabelErrors",
    "Leakage",
    "Machine",
    "MemoryEvent",
    "Mistake",
    "Plan",
    "Prediction",
    "Rehearsal",
    "RowCounts",
    "Run",
    "Slice",
    "Span",
    "Split",
    "Task",
    "TokenLengths",
    "headline_of",
    "without",
]
