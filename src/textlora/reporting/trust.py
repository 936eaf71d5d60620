"""The report's section on probabilities: how true they are, the threshold, and "not sure"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from textlora.deciding import telling
from textlora.decision import Bin, Reliability, Trust
from textlora.reporting import figures, wording
from textlora.reporting.figures import Axis, Frame, element
from textlora.types import Evaluation, Interval


@dataclass(frozen=True, slots=True)
class TrustFacts:
    """What the section says; ``several`` where rows have several labels."""

    trust: Trust
    several: bool

    @classmethod
    def of(cls, evaluation: Evaluation) -> TrustFacts | None:
        """Return the section's facts; None for an evaluation of an older version."""
        return cls(evaluation.trust, evaluation.task == "multi_label") if evaluation.trust else None

    @property
    def told(self) -> list[str]:
        """The sentences on how true the probabilities are."""
        found = self.trust
        texts = [
            telling.reliability_told(found.reliability, several=self.several),
            telling.calibration_told(found.calibration),
            telling.change_told(found),
        ]
        return [text for text in texts if text]

    @property
    def columns(self) -> list[tuple[str, Reliability]]:
        """The probabilities as they are, and those without the temperature where there is one."""
        if self.trust.before is None:
            return [("This classifier", self.trust.reliability)]
        return [("With the temperature", self.trust.reliability), ("Without it", self.trust.before)]

    @property
    def scores(self) -> list[tuple[str, str, list[str]]]:
        """Name, meaning and figures of each score."""
        parts = [part for _, part in self.columns]
        return [
            (
                "ECE",
                "mean distance of stated probability and share that is right, in points; in brackets what exact "
                "probabilities would show",
                [f"{100 * part.ece:.1f} ({100 * part.chance.low:.1f}–{100 * part.chance.high:.1f})" for part in parts],
            ),
            (
                "Brier score",
                "squared distance of probability and truth: lower is better",
                [wording_of(part.brier.value, part.brier.low, part.brier.high) for part in parts],
            ),
            (
                "Log loss",
                "penalty for confident mistakes: lower is better",
                [wording_of(part.log_loss.value, part.log_loss.low, part.log_loss.high) for part in parts],
            ),
        ]

    @property
    def threshold(self) -> list[str]:
        """The sentences on the threshold of two labels, or on what those of several were fitted for."""
        found = self.trust.operation
        if found is not None:
            return [telling.decision_told(found.decision), telling.operation_told(found)]
        goal = self.trust.thresholds_goal
        return (
            [f"The threshold of each label was fitted for {goal} on the validation rows; see Errors."] if goal else []
        )

    @property
    def operation(self) -> list[tuple[str, str, str]]:
        """Name of each figure of the threshold, with it and with the most probable label."""
        found = self.trust.operation
        if found is None:
            return []
        return [
            (title, _shown(name, found.figures), _shown(name, found.usual))
            for name, title in telling.FIGURES.items()
            if name in found.figures or name in found.usual
        ]

    @property
    def answers(self) -> list[str]:
        """The sentences on "not sure"."""
        found = self.trust.answers
        return [telling.abstention_told(found.abstention), telling.answers_told(found)] if found else []

    @property
    def caption(self) -> str:
        """What the picture shows."""
        bins = self.trust.reliability.bins
        fewest = min(part.rows for part in bins)
        what = (
            "probability of each label of each row, and the share of rows that have it"
            if self.several
            else "probability of the most probable label, and the share of rows where it is right"
        )
        return (
            f"Reliability: {what}; {len(bins)} bins of {wording.count(fewest)} or more, with 95{wording.NBSP}% Wilson "
            "intervals. Exact probabilities lie on the dashed line."
        )

    @property
    def picture(self) -> Markup:
        """The reliability plot: with the temperature, and behind it without."""
        parts = [part for _, part in self.columns]
        right = "share that has the label" if self.several else "share that is right"
        axes = _axes([one for part in parts for one in part.bins], right)
        frame = Frame(*axes)
        low = max(axes[0].low, axes[1].low)
        exact = frame.line(figures.Series("exact", (low, 1), (low, 1), "chance"))
        drawn = [_drawn(frame, part.bins, style) for part, style in zip(parts, ("s1", "s2"), strict=False)]
        told = "; ".join(
            f"stated {wording.percent(part.probability)}, right {wording.percent(part.share.value)}"
            for part in parts[0].bins
        )
        return frame.draw(exact, *reversed(drawn), description=f"Reliability plot: {told}.")


def _shown(name: str, figures_found: Mapping[str, Interval]) -> str:
    return telling.figure(name, figures_found[name]) if name in figures_found else "–"


def wording_of(value: float, low: float, high: float) -> str:
    """Return ``0.0812 (0.0701–0.0923)``."""
    return f"{value:.4f} ({low:.4f}–{high:.4f})"


def _axes(bins: Sequence[Bin], right: str) -> tuple[Axis, Axis]:
    """Return the axes of stated probability and share, from the highest half downwards as far as needed."""
    stated = min(part.probability for part in bins)
    share = min(part.share.low for part in bins)
    across, up = (_unit(low) for low in (stated, share))
    return Axis("stated probability", *across), Axis(right, *up)


def _unit(low: float) -> tuple[float, float, tuple[float, ...]]:
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0) if low >= 0.5 else (0, 0.25, 0.5, 0.75, 1)  # noqa: PLR2004 - the upper half
    return ticks[0], 1, ticks


def _drawn(frame: Frame, bins: Sequence[Bin], style: str) -> Markup:
    x, y = [part.probability for part in bins], [part.share.value for part in bins]
    bars = [
        element(
            "line",
            x1=frame.across(part.probability),
            x2=frame.across(part.probability),
            y1=frame.down(part.share.low),
            y2=frame.down(part.share.high),
            class_=f"bound {style}",
        )
        for part in bins
    ]
    return Markup("").join([*bars, frame.line(figures.Series("", x, y, style, dots=True))])
