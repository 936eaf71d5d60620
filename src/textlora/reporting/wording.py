"""Numbers as a reader wants them. A no-break space stands between a number and its unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textlora.explanation import levels, marked
from textlora.settings import show_table
from textlora.types import Interval, Mistake

NBSP = "\u00a0"
MINUTE, HOUR = 60, 3600

METRICS = {
    "accuracy": ("Accuracy", "share of rows classified correctly"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the labels: every label counts the same"),
    "precision_macro": ("Precision, macro", "how often a given label is right, mean of the labels"),
    "recall_macro": ("Recall, macro", "how many rows of a label are found, mean of the labels"),
    "f1_macro": ("F1, macro", "harmonic mean of precision and recall, mean of the labels"),
    "mcc": ("MCC", "correlation of truth and prediction: 0 is chance, 1 is perfect"),
    "roc_auc": ("ROC-AUC", "chance that a row of the label is ranked above one without it"),
    "average_precision": ("Average precision", "area under the precision-recall curve"),
    "log_loss": ("Log loss", "penalty for confident mistakes: lower is better"),
}
MULTI_LABEL_METRICS = {
    "f1_macro": METRICS["f1_macro"],
    "f1_micro": ("F1, micro", "the same over all labels of all rows together: frequent labels weigh more"),
    "precision_macro": METRICS["precision_macro"],
    "recall_macro": METRICS["recall_macro"],
    "precision_micro": ("Precision, micro", "how often a given label is right, all labels together"),
    "recall_micro": ("Recall, micro", "how many of all labels are found"),
    "accuracy": ("Subset accuracy", "share of rows with all labels right"),
    "hamming_loss": ("Hamming loss", "share of wrong yes and no answers: lower is better"),
    "roc_auc": METRICS["roc_auc"],
    "average_precision": METRICS["average_precision"],
    "log_loss": METRICS["log_loss"],
}
SHARES = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro")
"""Metrics that are written in percent; the others keep three decimals."""
MULTI_LABEL_SHARES = ("precision_micro", "recall_micro", "f1_micro", "hamming_loss")
"""The same of those that only rows with several labels have."""


def percent(share: float) -> str:
    """Return ``93.2 %``."""
    return f"{100 * share:.1f}{NBSP}%"


def sureness(probability: float) -> str:
    """Return ``98.2 %``; what would round to 100 % is ``over 99.9 %``, since nothing is certain."""
    return f"over 99.9{NBSP}%" if probability >= 0.9995 else percent(probability)  # noqa: PLR2004 - rounds to 100.0


def percent_range(interval: Interval) -> str:
    """Return ``92.1–94.2 %``."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}{NBSP}%"


def points(difference: float) -> str:
    """Return a difference of shares with its sign, in percentage points: ``+3.1``."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def figure(name: str, value: float) -> str:
    """Return a metric's value the way that metric is read."""
    return percent(value) if name in (*SHARES, *MULTI_LABEL_SHARES) else f"{value:.3f}"


def figure_range(name: str, interval: Interval) -> str:
    """Return a metric's interval without a unit: ``92.1–94.2`` or ``0.968–0.979``."""
    if name in (*SHARES, *MULTI_LABEL_SHARES):
        return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
    return f"{interval.low:.3f}–{interval.high:.3f}"


def count(number: int) -> str:
    """Return ``25,000``."""
    return f"{number:,}"


def rows(number: int) -> str:
    """Return ``1 row`` or ``25,000 rows``."""
    return f"{number:,}{NBSP}row{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min 5 s`` or ``2 h 7 min``."""
    if seconds < 10:  # noqa: PLR2004 - below ten seconds a decimal is of interest
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole}{NBSP}s"
    if whole < HOUR:
        return f"{whole // MINUTE}{NBSP}min {whole % MINUTE}{NBSP}s"
    return f"{whole // HOUR}{NBSP}h {whole % HOUR // MINUTE}{NBSP}min"


def gigabytes(size: float) -> str:
    """Return ``2.1 GB``, below one GB ``350 MB``."""
    return f"{size:.1f}{NBSP}GB" if size >= 1 else f"{1000 * size:.0f}{NBSP}MB"


def times(measured: float, predicted: float) -> str:
    """Return how many times as much as predicted was measured, ``×1.07``."""
    return f"×{measured / predicted:.2f}" if predicted > 0 else "–"


def setting(value: Any) -> str:
    """Return a setting's value as ``plan.toml`` would show it, without quotes."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return show_table(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def excerpt(text: str, characters: int) -> str:
    """Return the text on one line, cut after a word if it is longer than ``characters``."""
    line = " ".join(text.split())
    if len(line) <= characters:
        return line
    return line[: characters - 1].rsplit(" ", 1)[0] + "…"


def pieces(mistake: Mistake) -> list[tuple[str, int]]:
    """Return the text in pieces with the strength of each, see ``textlora.explanation.marked``."""
    return marked(mistake.text, mistake.spans)


def carriers(mistake: Mistake, number: int) -> list[tuple[str, str]]:
    """Return the parts that spoke clearly for the wrong answer, and the probability that is left without each."""
    strong = [span for span, level in zip(mistake.spans, levels(mistake.spans), strict=True) if level > 1]
    chosen = sorted(strong, key=lambda span: -span.weight)[:number]
    return [(excerpt(mistake.text[span.start : span.end], 60), sureness(span.probability)) for span in chosen]
