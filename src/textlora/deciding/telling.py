"""What probabilities, threshold and abstention came to, in sentences; for terminal and report alike."""

from __future__ import annotations

from textlora import goals
from textlora.decision import Abstention, Answers, Calibration, Decision, Operation, Reliability, Trust
from textlora.interval import Interval

FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1", "cost": "cost per row"}


def percent(share: float) -> str:
    """Return ``93.2 %``."""
    return f"{100 * share:.1f} %"


def with_range(interval: Interval) -> str:
    """Return ``93.2 % (91.0–95.1)``."""
    return f"{percent(interval.value)} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def figure(name: str, interval: Interval) -> str:
    """Return a threshold's figure the way it is read, with its interval."""
    if name == "cost":
        return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"
    return with_range(interval)


def calibration_told(calibration: Calibration | None) -> str:
    """Return what became of the temperature."""
    if calibration is None:
        return "No temperature was looked for."
    text = str(calibration)
    return f"{text[0].upper()}{text[1:]}."


def reliability_told(found: Reliability, *, several: bool) -> str:
    """Return how far the probabilities can be taken at their word."""
    rows = sum(part.rows for part in found.bins)
    exact = f"{100 * found.chance.low:.1f} to {100 * found.chance.high:.1f}"
    of = "those of all labels" if several else "of the most probable label"
    error = f"ECE {100 * found.ece:.1f} points over {len(found.bins)} bins, {of}"
    if found.ece <= found.chance.high:
        return f"The probabilities cannot be told from exact ones ({error}; exact ones show {exact} on so many rows)."
    stated = sum(part.rows * part.probability for part in found.bins) / rows
    real = sum(part.rows * part.share.value for part in found.bins) / rows
    lean = f"too {'high' if stated > real else 'low'} by {100 * abs(stated - real):.1f} points on average"
    return (
        f"The probabilities are {lean}, and {100 * found.ece:.1f} points off bin by bin ({error}; exact ones show "
        f"{exact} on so many rows)."
    )


def change_told(trust: Trust) -> str:
    """Return what the temperature changes on these rows; empty without one."""
    change, before = trust.log_loss_change, trust.before
    if change is None or before is None:
        return ""
    after = trust.reliability
    return (
        f"The temperature takes ECE from {100 * before.ece:.1f} to {100 * after.ece:.1f} points, Brier score from "
        f"{before.brier.value:.4f} to {after.brier.value:.4f}, log loss from {before.log_loss.value:.4f} to "
        f"{after.log_loss.value:.4f} (by {change.value:+.4f}, {change.low:+.4f} to {change.high:+.4f})."
    )


def decision_told(decision: Decision) -> str:
    """Return a threshold and what it reached on the rows it was fitted on."""
    reached = ", ".join(
        f"{FIGURES[name]} {value:.3f}" if name == "cost" else f"{FIGURES[name]} {percent(value)}"
        for name, value in decision.reached.items()
    )
    return (
        f"{decision.positive!r} is given from a probability of {decision.threshold:.3f} on, fitted for "
        f"{decision.goal} on {decision.rows:,} validation rows ({reached} there)."
    )


def operation_told(found: Operation) -> str:
    """Return what a threshold does on the scored rows, and whether that meets its goal."""
    shown = ", ".join(f"{FIGURES[name]} {figure(name, value)}" for name, value in found.figures.items())
    usual = ", ".join(
        f"{FIGURES[name]} {value.value:.3f}" if name == "cost" else f"{FIGURES[name]} {percent(value.value)}"
        for name, value in found.usual.items()
    )
    return f"On these rows: {shown}; with the most probable label {usual}.{_goal_told(found)}"


def _goal_told(found: Operation) -> str:
    goal = goals.parse(found.decision.goal)
    kept = {"recall@precision": "precision", "precision@recall": "recall"}.get(goal.kind)
    reached = found.figures.get(kept) if kept else None
    if reached is None:
        return ""
    wanted = f"{kept} of {percent(goal.share)}"
    if reached.low > goal.share:
        return f" The {wanted} is exceeded."
    if reached.high < goal.share:
        return f" The {wanted} is missed: what was chosen on few rows need not hold on others."
    return f" The {wanted} lies within the interval."


def abstention_told(rule: Abstention) -> str:
    """Return a rule of abstention."""
    return (
        f"Labels with a probability below {rule.least_probability:.3f} are ruled out (error rate {rule.error_rate:g}, "
        f"{rule.rows:,} validation rows); not sure unless the given label alone is left."
    )


def answers_told(found: Answers) -> str:
    """Return what is answered, how often rightly, and whether the promise is kept."""
    promised, draws = 1 - found.abstention.error_rate, found.abstention.coverage
    answered = f"It answers {with_range(found.answered)} of the rows"
    right = f", {with_range(found.accuracy)} of them rightly" if found.accuracy else ""
    holds = "less than promised" if found.coverage.high < draws.low else "as promised"
    none = f"; of {found.sizes[0]:,} no label was left" if found.sizes[0] else ""
    return (
        f"{answered}{right}. The labels that are left hold the true one in {with_range(found.coverage)} of all rows, "
        f"{holds} ({percent(promised)}; {100 * draws.low:.1f} to {100 * draws.high:.1f} with so many validation rows){none}."
    )


def lines(trust: Trust, *, several: bool) -> list[str]:
    """Return everything, one sentence or two a line."""
    return [
        text
        for text in (
            calibration_told(trust.calibration),
            reliability_told(trust.reliability, several=several),
            change_told(trust),
            decision_told(trust.operation.decision) if trust.operation else "",
            operation_told(trust.operation) if trust.operation else "",
            abstention_told(trust.answers.abstention) if trust.answers else "",
            answers_told(trust.answers) if trust.answers else "",
        )
        if text
    ]
