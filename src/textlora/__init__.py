"""textlora: LoRA fine-tuning of small encoders for text classification.

Names are loaded on first use, so that ``import textlora`` stays light.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Adaptation",
    "Classifier",
    "DataError",
    "Dataset",
    "Evaluation",
    "Explanation",
    "Plan",
    "Prediction",
    "ResourceError",
    "Run",
    "Settings",
    "TextloraError",
    "TrainingError",
    "UsageError",
    "adapt",
    "apply_review",
    "audit",
    "compare",
    "decide",
    "evaluate",
    "export",
    "fit",
    "plan",
    "prepare",
    "push",
    "report",
    "train",
    "tune",
]

# transformers imports bitsandbytes where it is installed, which then misses an optional kernel from the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_HOMES = {
    "Adaptation": "adaptation",
    "Classifier": "classifier",
    "DataError": "errors",
    "Dataset": "types",
    "Evaluation": "types",
    "Explanation": "types",
    "Plan": "types",
    "Prediction": "types",
    "ResourceError": "errors",
    "Run": "types",
    "Settings": "settings",
    "TextloraError": "errors",
    "TrainingError": "errors",
    "UsageError": "errors",
    "apply_review": "api_audit",
    "audit": "api_audit",
    "tune": "api_tune",
}
_VERB_HOMES = {"decide": "redeciding", "push": "pushing"}
_VERBS = ("adapt", "compare", "evaluate", "export", "fit", "plan", "prepare", "report", "train")

if TYPE_CHECKING:
    from textlora.adaptation import Adaptation
    from textlora.api import adapt, compare, evaluate, export, fit, plan, prepare, report, train
    from textlora.api_audit import apply_review, audit
    from textlora.api_tune import tune
    from textlora.classifier import Classifier
    from textlora.errors import DataError, ResourceError, TextloraError, TrainingError, UsageError
    from textlora.pushing import push
    from textlora.redeciding import decide
    from textlora.settings import Settings
    from textlora.types import Dataset, Evaluation, Explanation, Plan, Prediction, Run


def __getattr__(name: str) -> Any:
    if name in _VERB_HOMES:
        return getattr(import_module(f"textlora.{_VERB_HOMES[name]}"), name)
    if name in _VERBS:
        return getattr(import_module("textlora.api"), name)
    if name in _HOMES:
        return getattr(import_module(f"textlora.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'textlora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
