"""What several seeds say of a classifier: how far chance in training moves its scores."""

from __future__ import annotations

from dataclasses import dataclass

from textlora.repeated import Seeds, Spread
from textlora.reporting import figures, wording
from textlora.types import Interval


@dataclass(frozen=True, slots=True)
class Chance:
    """The seeds of a run, in words and figures."""

    seeds: Seeds

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Key and name of the metrics that the table shows."""
        names = wording.MULTI_LABEL_METRICS if self.seeds.task == "multi_label" else wording.METRICS
        return [(key, names[key][0]) for key in self.seeds.shown]

    @property
    def headline(self) -> Spread:
        """The metric that says most."""
        return self.seeds.metrics[self.seeds.headline]

    @property
    def headline_name(self) -> str:
        """What it is, within a sentence."""
        return "macro F1" if self.seeds.task == "multi_label" else "accuracy"

    @property
    def summary(self) -> str:
        """Mean, deviation and interval in one sentence."""
        found, name = self.headline, self.seeds.headline
        return (
            f"Over {len(self.seeds.runs)} seeds {self.headline_name} is {wording.percent(found.mean)} on average, "
            f"with a standard deviation of {wording.points(found.deviation).lstrip('+')} points; "
            f"95{wording.NBSP}% interval for the mean {self.interval_of(name)}{wording.NBSP}%."
        )

    @property
    def kept(self) -> str:
        """Which classifier is in the run folder, and why."""
        run, name = self.seeds.kept_run, self.seeds.best_metric
        score = wording.percent(run.validation) if name != "loss" else f"{run.validation:.4f}"
        return (
            f"The classifier of this run is that of seed {run.seed}, which has the best validation {name.replace('_', ' ')} "
            f"({score}); the {self.seeds.split} split had no say in it."
        )

    @property
    def meaning(self) -> str:
        """What kind of uncertainty the spread is, and which one it is not."""
        return (
            "All seeds learnt from the same rows and were scored on the same rows: the spread is the chance in training, which is the "
            "first weights of head and adapters and the order of the rows. That the scored rows are a sample is another uncertainty, "
            "which the intervals under Scores tell; neither contains the other. To say what this recipe reaches on such data, "
            "quote the mean; the score of the kept classifier is one of its draws."
        )

    @property
    def picture(self) -> figures.Whiskers:
        """The mean with its interval, and each seed, on one scale."""
        mean = ("mean of the seeds", "", self.seeds.intervals[self.seeds.headline])
        values = [(run.seed, run.metrics[self.seeds.headline]) for run in self.seeds.runs]
        kept = self.seeds.kept
        dots = [(f"seed {seed}{', kept' if seed == kept else ''}", "", _point(value)) for seed, value in values]
        return figures.whiskers([mean, *dots])

    def deviation_of(self, name: str) -> str:
        """Return a metric's standard deviation the way the metric is read."""
        return wording.figure(name, self.seeds.metrics[name].deviation)

    def interval_of(self, name: str) -> str:
        """Return the interval of a metric's mean, without a unit."""
        return wording.figure_range(name, self.seeds.intervals[name])


def _point(value: float) -> Interval:
    return Interval(value, value, value)
