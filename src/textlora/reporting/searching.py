"""The page about a search for better settings: ``trials.html`` and ``trials.md``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from textlora import settings, storage
from textlora.reporting import figures, page
from textlora.reporting.figures import element
from textlora.trials import Trial, Trials
from textlora.types import Dataset

BAR_HEIGHT, BAR_TOP, NAME_WIDTH = 26, 8, 150


def report_trials(folder: Path, *, dataset: Dataset, trials: Trials) -> Path:
    """Write ``trials.html`` and ``trials.md`` into ``folder``; return the path of the first.

    Raises:
        ResourceError: the folder cannot be written.
    """
    facts = {
        "trials": trials,
        "source": Path(dataset.info.source).name or dataset.info.source,
        "label": dataset.info.label_column,
        "rows": len(dataset.train),
        "table": [_row(trial, trials) for trial in trials.trials],
        "names": list(trials.space),
        "pictures": {"values": _values(trials), "importance": _importance(trials)},
    }
    texts = {
        storage.TRIALS_MARKDOWN: page.rendered("trials.md.j2", escape_html=False, **facts),
        storage.TRIALS_HTML: page.rendered("trials.html.j2", escape_html=True, **facts),
    }
    for name, text in texts.items():
        storage.write_text(folder / name, text)
    return folder / storage.TRIALS_HTML


def _row(trial: Trial, trials: Trials) -> tuple[Trial, str, list[str], str]:
    """Return a trial, its value, its settings and what is to be said of it."""
    value = "–" if trial.value is None else f"{trial.value:.4f}"
    shown = [settings.show(name, trial.settings.get(name)) for name in trials.space]
    return trial, value, shown, trials.note(trial)


# --- pictures -----------------------------------------------------------------------------


def _values(trials: Trials) -> Markup | None:
    """Return the value of each trial, and the best one so far as a line."""
    ended = [(trial.number, trial.value, trial.state) for trial in trials.trials if trial.value is not None]
    complete = [value for _, value, state in ended if state == "complete"]
    if not complete:
        return None
    y = figures.Axis.over(trials.metric_name, complete, write=_write(trials))
    frame = figures.Frame(figures.Axis.counting("trial", [1, *(number for number, _, _ in ended)]), y)
    marks = [_best_line(frame, trials), *(_dot(frame, *one) for one in ended)]
    best = trials.best
    told = (
        f"{len(complete)} complete trials; the best has {best.value:.4f}, the default {complete[0]:.4f}."
        if best
        else ""
    )
    return frame.draw(*marks, description=told)


def _write(trials: Trials) -> Callable[[float], str]:
    return "{:g}".format if trials.metric == "loss" else lambda tick: f"{100 * tick:.3g}%"


def _best_line(frame: figures.Frame, trials: Trials) -> Markup:
    """Return the best value so far as a line of steps."""
    x: list[float] = []
    y: list[float] = []
    best: float | None = None
    for trial in trials.complete:
        value = trials.sign * (trial.value or 0.0)
        if best is None or value > best:
            x += [trial.number, trial.number] if best is not None else [trial.number]
            y += [trials.sign * best, trials.sign * value] if best is not None else [trials.sign * value]
            best = value
    if best is not None:
        x.append(trials.trials[-1].number)
        y.append(trials.sign * best)
    return frame.line(figures.Series("best so far", x, y, "s2"))


def _dot(frame: figures.Frame, number: int, value: float, state: str) -> Markup:
    """Return a dot for a trial, hollow if it was stopped; one beyond the scale sits on its edge."""
    held = min(max(value, frame.y.low), frame.y.high)
    kind = "dot s1" if state == "complete" else "dot hollow"
    return element("circle", cx=frame.across(number), cy=frame.down(held), r=3.5, class_=kind)


def _importance(trials: Trials) -> Markup | None:
    """Return a bar for each setting."""
    if not trials.importance:
        return None
    shares = list(trials.importance.items())
    height = BAR_TOP * 2 + BAR_HEIGHT * len(shares)
    bars = [_bar(place, name, share) for place, (name, share) in enumerate(shares)]
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares)
    return element(
        "svg",
        *bars,
        viewBox=f"0 0 {figures.WIDTH} {height}",
        role="img",
        aria_label=f"Importance: {told}.",
        class_="chart",
    )


def _bar(place: int, name: str, share: float) -> Markup:
    y, room = BAR_TOP + BAR_HEIGHT * place, figures.WIDTH - NAME_WIDTH - 48
    width = max(1.0, room * share)
    return Markup("").join(
        [
            element("text", name, x=NAME_WIDTH - 8, y=y + 15, text_anchor="end", class_="label"),
            element("rect", x=NAME_WIDTH, y=y + 3, width=width, height=BAR_HEIGHT - 10, class_="bar"),
            element("text", f"{share:.0%}", x=NAME_WIDTH + width + 6, y=y + 15),
        ]
    )
