"""What cross-validation says: the scores of all rows together, and of each fold."""

from __future__ import annotations

from dataclasses import dataclass

from textlora.repeated import Folds
from textlora.reporting import figures, wording
from textlora.types import Interval


@dataclass(frozen=True, slots=True)
class Crossing:
    """The folds of a run, in words and figures."""

    folds: Folds

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Key and name of the metrics that the table shows."""
        names = wording.MULTI_LABEL_METRICS if self.folds.task == "multi_label" else wording.METRICS
        return [(key, names[key][0]) for key in self.folds.shown]

    @property
    def headline_name(self) -> str:
        """What the metric that says most is, within a sentence."""
        return "macro F1" if self.folds.task == "multi_label" else "accuracy"

    @property
    def summary(self) -> str:
        """The pooled score and the deviation of the folds in one sentence."""
        name, number = self.folds.headline, len(self.folds.runs)
        pooled, spread = self.folds.pooled[name], self.folds.metrics[name]
        return (
            f"Cross-validation with {number} folds: {self.headline_name} is {wording.percent(pooled.value)} on the "
            f"{wording.rows(self.folds.rows)} of training and validation split (95{wording.NBSP}% interval {wording.percent_range(pooled)}), each scored by "
            f"a classifier that has not seen it; the folds have a standard deviation of {wording.points(spread.deviation).lstrip('+')} points."
        )

    @property
    def meaning(self) -> str:
        """What was done, and what the figures do not say."""
        return (
            "The test split took no part. Each fold was held out once; the checkpoint was chosen by a validation part of the other "
            "rows. “All rows” scores the predictions of all folds together, with the interval for the choice of rows; ROC-AUC and average "
            "precision are not pooled, since two classifiers need not rank on one scale. The folds learn from mostly the same rows, so "
            "that their deviation makes no interval for the mean. Each classifier has learnt from fewer rows than there are, which makes the scores a little pessimistic. "
            "The prediction of each row is in out_of_fold.parquet."
        )

    @property
    def picture(self) -> figures.Whiskers:
        """All rows with their interval, and each fold, on one scale."""
        name = self.folds.headline
        values = [(run.number, run.metrics[name]) for run in self.folds.runs if name in run.metrics]
        dots = [(f"fold {number}", "", Interval(value, value, value)) for number, value in values]
        return figures.whiskers([("all rows", "", self.folds.pooled[name]), *dots])

    def of(self, key: str, metrics: dict[str, float]) -> str:
        """Return a fold's score; a dash where its rows do not define it."""
        return wording.figure(key, metrics[key]) if key in metrics else "–"

    def mean_of(self, key: str) -> str:
        """Return the mean of the folds."""
        return wording.figure(key, self.folds.metrics[key].mean)

    def deviation_of(self, key: str) -> str:
        """Return the standard deviation of the folds, the way the metric is read."""
        return wording.figure(key, self.folds.metrics[key].deviation)
