"""The nouns of probabilities and of what is decided by them; they travel in the bundle and the evaluation.

    logits ──temperature──▶ probabilities ──goal──▶ label
                                 └──error rate──▶ labels that cannot be ruled out, "not sure"

Without numpy, so that ``types`` can hold them. The arithmetic is in ``probabilities``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from textlora.interval import Interval

Verdict = Literal["kept", "no clear gain", "too few mistakes"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the temperature was chosen that all logits are divided by (Guo et al. 2017, section 4.2).

    It is fitted on the validation rows and kept only where it helps on rows that it was not fitted on,
    which cross-validation on them tells.

    Attributes:
        fitted: the temperature that fits the validation rows best. Above 1 the classifier was too sure,
            below 1 not sure enough.
        rows: validation rows.
        mistakes: wrong answers among them; in multi-label data wrong yes and no answers at 0.5.
        loss: mean log loss of the validation rows without a temperature.
        gain: by how much the temperature lowers it on rows held out of the fit.
        standard_error: of ``gain``.
        verdict: whether it was kept, or why not.
    """

    fitted: float
    rows: int
    mistakes: int
    loss: float
    gain: float
    standard_error: float
    verdict: Verdict

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return self.fitted if self.verdict == "kept" else 1.0

    def __str__(self) -> str:
        """Return what was decided and why, as one sentence."""
        found = (
            f"on {self.rows:,} validation rows the temperature {self.fitted:.3g} changes the held-out log loss by "
            f"{-self.gain:+.4f} (standard error {self.standard_error:.4f})"
        )
        if self.verdict == "kept":
            return f"temperature {self.fitted:.3g} kept: {found}"
        if self.verdict == "no clear gain":
            return f"no temperature: {found}, which is no clear gain"
        answers = "wrong answer" if self.mistakes == 1 else "wrong answers"
        return (
            f"no temperature: {self.mistakes:,} {answers} on {self.rows:,} validation rows "
            "are too few to tell how sure the classifier may be"
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """A threshold that was fitted for a goal on the validation rows, where rows have one of two labels.

    Attributes:
        goal: as ``goals.parse`` reads it.
        positive: the label that is given from ``threshold`` on; the other one below.
        threshold: of the probability of ``positive``.
        rows: validation rows.
        reached: what the threshold reaches on them: ``precision``, ``recall`` and ``f1`` of ``positive``, and
            ``cost`` per row where the goal has costs. It was chosen for these rows, so new ones give less.
    """

    goal: str
    positive: str
    threshold: float
    rows: int
    reached: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Abstention:
    """When the classifier says "not sure": split conformal prediction (Papadopoulos et al. 2002).

    A text's set holds every label whose probability is at least ``least_probability``. Of new texts like the
    validation rows at most ``error_rate`` have a set without their true label. It is not sure of a text whose
    set is not exactly the label that it gives.

    Attributes:
        error_rate: as it was asked for.
        least_probability: below it a label is ruled out.
        rows: validation rows that it was fitted on.
        coverage: how many new texts have their true label in their set: the mean over all draws of so many validation
            rows, and the middle 95 % of these draws.
    """

    error_rate: float
    least_probability: float
    rows: int
    coverage: Interval


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of like probability, and what became of them.

    Attributes:
        rows: how many; in multi-label data (row, label) pairs.
        probability: their mean probability.
        share: of them that are right, with its Wilson interval.
    """

    rows: int
    probability: float
    share: Interval


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities can be taken at their word.

    In single-label data these are the probabilities of the most probable label, and how often it is right;
    in multi-label data the probabilities of all labels of all rows, and how often the row has the label.

    Attributes:
        bins: with as many rows each as can be, from the lowest probability to the highest.
        ece: expected calibration error: mean distance of ``probability`` and ``share`` over the rows, 0 to 1.
        chance: what ``ece`` would be if the probabilities were exactly right: mean and middle 95 %.
        brier: squared distance of probabilities and truth, as scikit-learn counts it; mean over labels in
            multi-label data.
        log_loss: mean log loss.
    """

    bins: tuple[Bin, ...]
    ece: float
    chance: Interval
    brier: Interval
    log_loss: Interval


@dataclass(frozen=True, slots=True)
class Operation:
    """What a threshold does on the scored rows, beside what the most probable label would do.

    Attributes:
        decision: the threshold.
        figures: ``precision``, ``recall``, ``f1`` of its positive label, ``cost`` per row for a goal with costs.
        usual: the same where each row gets its most probable label.
    """

    decision: Decision
    figures: Mapping[str, Interval]
    usual: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Answers:
    """What "not sure" does on the scored rows.

    Attributes:
        abstention: the rule.
        answered: share of the rows that get an answer.
        accuracy: share of the answers that are right; None where there is no answer.
        coverage: share of the rows whose set holds the true label; 1 - error rate is promised.
        sizes: rows by the number of labels in their set, from 0 on.
    """

    abstention: Abstention
    answered: Interval
    accuracy: Interval | None
    coverage: Interval
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """What the probabilities of the scored rows are worth, and what was decided by them.

    Attributes:
        calibration: how the temperature was chosen; None where none was looked for.
        reliability: of the probabilities as users get them.
        before: of those without the temperature, where there is one.
        log_loss_change: what the temperature changes, with the interval of the mean difference by row.
        thresholds_goal: what the thresholds of multi-label data were fitted for; empty without any.
        operation: of the threshold, where one was fitted.
        answers: of the abstention, where one was asked for.
    """

    calibration: Calibration | None
    reliability: Reliability
    before: Reliability | None = None
    log_loss_change: Interval | None = None
    thresholds_goal: str = ""
    operation: Operation | None = None
    answers: Answers | None = None
