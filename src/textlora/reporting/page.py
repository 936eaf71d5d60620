"""From facts to text: the HTML page and the Markdown files, through Jinja templates.

Whatever comes from the user's data is text: the HTML environment escapes every value, the
Markdown environment does the same with Markdown's own signs. Only ``Markup`` passes as it is.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from textlora import __version__
from textlora.exports import Exports
from textlora.paired import shown_p
from textlora.reporting import card, figures, wording
from textlora.reporting.chance import Chance
from textlora.reporting.crossing import Crossing
from textlora.reporting.exported import ExportFacts
from textlora.reporting.facts import Facts
from textlora.reporting.trust import TrustFacts
from textlora.types import Curve

LEGEND_CURVES = 6


def html(facts: Facts) -> str:
    """Return ``report.html``: one file, no script, nothing from outside."""
    template = _environment(escape_html=True).get_template("report.html.j2")
    return template.render(facts=facts, pictures=pictures(facts), **_sections(facts))


def markdown(facts: Facts) -> str:
    """Return ``report.md``."""
    return _environment(escape_html=False).get_template("report.md.j2").render(facts=facts, **_sections(facts))


def _sections(facts: Facts) -> dict[str, Any]:
    """Return what is told of probabilities, of several trainings, and of exports; None where there is nothing."""
    return {
        "trust": TrustFacts.of(facts.evaluation),
        "chance": Chance(facts.seeds) if facts.seeds else None,
        "crossing": Crossing(facts.folds) if facts.folds else None,
        "exported": ExportFacts(facts.exports) if facts.exports and facts.exports.made else None,
    }


def model_card(facts: Facts) -> str:
    """Return ``model_card.md``, front matter included."""
    front = Markup(card.front_matter(facts))  # noqa: S704 - written by a YAML writer that quotes what it must
    return (
        _environment(escape_html=False)
        .get_template("model_card.md.j2")
        .render(facts=facts, front_matter=front, trust=TrustFacts.of(facts.evaluation))
    )


def exports_for_others(exports: Exports) -> str:
    """Return the section on exports in Markdown, without those that were refused; empty where nothing is left."""
    found = ExportFacts.written(exports)
    return rendered("exports.md.j2", escape_html=False, exported=found).strip() if found else ""


def rendered(template: str, *, escape_html: bool, **facts: Any) -> str:
    """Return a template filled in; ``escape_html`` for HTML, else Markdown's own signs are escaped."""
    return _environment(escape_html=escape_html).get_template(template).render(**facts)


@cache
def _environment(*, escape_html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("textlora.reporting"),
        autoescape=escape_html,  # noqa: S701 - Markdown has signs of its own, escaped by finalize
        finalize=None if escape_html else escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words = {
        name: getattr(wording, name)
        for name in (
            "percent",
            "percent_range",
            "figure",
            "figure_range",
            "sureness",
            "count",
            "rows",
            "duration",
            "excerpt",
            "pieces",
            "carriers",
        )
    }
    environment.filters.update(words, code=code, block=code_block, shown_p=shown_p)
    environment.globals.update(public_name=card.public_name, version=__version__)
    return environment


# --- Markdown -----------------------------------------------------------------------------


def escape_markdown(value: Any) -> Any:
    """Return text that shows as itself on one line of Markdown, in a table or outside."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = " ".join(value.split())
    return re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(value: object) -> Markup:
    """Return a code span that holds the value, fit for a table cell."""
    line = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return Markup(f"{fence}{pad}{line}{pad}{fence}")  # noqa: S704 - a code span shows its content as it is


def code_block(value: object, language: str = "") -> Markup:
    """Return a fenced block that holds the value, whatever backticks it has."""
    text = str(value)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{text}\n{fence}")  # noqa: S704 - a code block shows its content as it is


# --- pictures -----------------------------------------------------------------------------


def pictures(facts: Facts) -> dict[str, Any]:
    """Return every figure of the page by name; ``None`` where there is nothing to draw."""
    return {
        "comparison": _comparison(facts),
        "by_length": _by_length(facts),
        "loss": _loss(facts),
        "validation": _validation(facts),
        "learning_rate": _learning_rate(facts),
        "roc": _roc(facts.evaluation.roc),
        "precision_recall": _precision_recall(facts),
        "lengths": _lengths(facts),
        "legend": list(
            zip(
                figures.styles(len(facts.evaluation.roc)),
                facts.evaluation.roc,
                facts.evaluation.precision_recall,
                strict=True,
            )
        ),
        "legend_curves": LEGEND_CURVES,
    }


def _comparison(facts: Facts) -> figures.Whiskers:
    cheap = [(baseline.name, "", baseline.metrics[facts.evaluation.headline]) for baseline in facts.baselines]
    return figures.whiskers([("this classifier", "", facts.headline), *cheap], held=2)


def _by_length(facts: Facts) -> figures.Whiskers:
    return figures.whiskers(
        [(part.name, wording.rows(part.rows), part.accuracy) for part in facts.evaluation.by_length]
    )


def _steps(steps: list[float]) -> figures.Axis:
    return figures.Axis.counting("step", steps)


def _loss(facts: Facts) -> Markup | None:
    training, validation = figures.smooth(*facts.history("loss")), facts.history("eval_loss")
    if not training[0] and not validation[0]:
        return None
    x = _steps([*training[0], *validation[0], facts.run.steps])
    y = figures.Axis.over("loss", [*training[1], *validation[1]], start=0)
    series = [
        figures.Series("training", *training, "s1", dots=len(training[0]) == 1),
        figures.Series("validation", *validation, "s2", dots=True),
    ]
    told = [
        f"{name} loss from {values[0]:.3f} to {values[-1]:.3f}"
        for name, (_, values) in (("Training", training), ("Validation", validation))
        if values
    ]
    return figures.lines(series, x=x, y=y, description=". ".join(told) + ".", mark=_best(facts))


def _best(facts: Facts) -> tuple[float, str] | None:
    return (facts.run.best_step, "kept") if facts.run.best_step else None


def _validation(facts: Facts) -> Markup | None:
    accuracy, macro = facts.history("eval_accuracy"), facts.history("eval_f1_macro")
    if not accuracy[0]:
        return None
    series = [
        figures.Series("accuracy", *accuracy, "s1", dots=True),
        figures.Series("F1, macro", *macro, "s2", dots=True),
    ]
    y = figures.Axis.over("validation score", [*accuracy[1], *macro[1]], write=lambda tick: f"{100 * tick:.3g}%")
    told = f"Validation accuracy from {wording.percent(accuracy[1][0])} to {wording.percent(accuracy[1][-1])}."
    return figures.lines(
        series[::-1], x=_steps([*accuracy[0], facts.run.steps]), y=y, description=told, mark=_best(facts)
    )


def _learning_rate(facts: Facts) -> Markup | None:
    steps, rates = figures.smooth(*facts.history("learning_rate"))
    if not steps:
        return None
    y = figures.Axis.over("learning rate", rates, start=0)
    line = figures.Series("learning rate", steps, rates, "s1", dots=len(steps) == 1)
    return figures.lines(
        [line], x=_steps([*steps, facts.run.steps]), y=y, description=f"Learning rate with a peak of {max(rates):.3g}."
    )


def _curves(curves: tuple[Curve, ...]) -> list[figures.Series]:
    names = figures.styles(len(curves))
    return [figures.Series(curve.label, curve.x, curve.y, style) for curve, style in zip(curves, names, strict=True)]


def _told(kind: str, curves: tuple[Curve, ...]) -> str:
    areas = ", ".join(f"{curve.label} {curve.area:.3f}" for curve in curves[:LEGEND_CURVES])
    return f"{kind} with areas: {areas}{', …' if len(curves) > LEGEND_CURVES else ''}."


def _roc(curves: tuple[Curve, ...]) -> Markup | None:
    if not curves:
        return None
    x, y = figures.unit_axis("false positive rate"), figures.unit_axis("true positive rate")
    chance = figures.Series("chance", (0, 1), (0, 1), "chance")
    return figures.lines([chance, *_curves(curves)], x=x, y=y, description=_told("ROC curves", curves))


def _precision_recall(facts: Facts) -> Markup | None:
    curves = facts.evaluation.precision_recall
    if not curves:
        return None
    x, y = figures.unit_axis("recall"), figures.unit_axis("precision")
    return figures.lines(_curves(curves), x=x, y=y, description=_told("Precision-recall curves", curves))


def _lengths(facts: Facts) -> Markup | None:
    lengths = facts.dataset.info.token_lengths
    if lengths is None or not lengths.histogram:
        return None
    told = f"Histogram of text lengths, mean {lengths.mean:.0f} tokens; {wording.rows(lengths.rows_cut)} are longer than {lengths.max_length}."
    return figures.histogram(lengths.histogram, width=32, cut=facts.length_cut, description=told)
