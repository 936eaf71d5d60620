"""What the first screen says in words: how good, how sure, against what, and where it fails.

Each sentence claims no more than a test or an interval carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textlora.paired import Difference, shown_p
from textlora.reporting import wording
from textlora.slices import title
from textlora.types import SLICE, Baseline, DatasetInfo, Evaluation, Interval, Slice

FEW_ROWS = 200
FEW_GROUPS = 20
SHOWN_PARTS = 3
PARTS = {
    "worse": "worse than the rest",
    "better": "better than the rest",
    "same": "no difference to see",
    "unknown": "too few rows to tell",
    "": "",
}
"""What the verdict on a part is called."""
FIGURES = {"accuracy": "accuracy", "f1_macro": "macro F1"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the classifier stands against one baseline."""

    tone: Literal["good", "unclear", "bad"]
    sentence: str


def against(evaluation: Evaluation, baseline: Baseline) -> Verdict:
    """Return the verdict on one baseline, compared row by row where that was done."""
    difference = _difference(evaluation, baseline)
    gain, name = difference.interval, f"the baseline {baseline.name}"
    told = (
        f"{wording.points(gain.value)} points of {FIGURES[difference.figure]}, 95{wording.NBSP}% interval "
        f"{wording.points(gain.low)} to {wording.points(gain.high)}"
    )
    tested = "" if baseline.p_value is None else f", {shown_p(baseline.p_value)}"
    if difference.verdict == "better":
        return Verdict("good", f"Clearly better than {name}: {told}{tested}.")
    if difference.verdict == "worse":
        return Verdict("bad", f"Clearly worse than {name}: {told}{tested}. The cheaper method serves better here.")
    if difference.verdict == "equal":
        return Verdict("unclear", f"No better than {name} by more than a point: {told}{tested}.")
    return Verdict(
        "unclear", f"Not clearly better than {name}: {told}{tested or ', which includes zero'}.{_more_rows(difference)}"
    )


def _difference(evaluation: Evaluation, baseline: Baseline) -> Difference:
    """Return the paired difference; from the two intervals alone where an older file has no other."""
    figure = evaluation.headline
    ours, theirs = evaluation.metrics[figure], baseline.metrics[figure]
    gain = baseline.advantage or Interval(ours.value - theirs.value, ours.low - theirs.high, ours.high - theirs.low)
    p_value = baseline.p_value
    if p_value is None:
        p_value = 1.0 if gain.low <= 0 <= gain.high else 0.0
    return Difference(figure, gain, p_value, evaluation.rows, evaluation.groups)


def _more_rows(difference: Difference) -> str:
    needed = difference.rows_needed
    if needed is None or difference.verdict != "unknown":
        return ""
    return f" To be sure of a difference of this size takes about {wording.rows(int(float(f'{needed:.2g}')))}."


# --- how sure -----------------------------------------------------------------------------


def certainty(evaluation: Evaluation, info: DatasetInfo) -> list[str]:
    """Return what the interval rests on, and what was done against leaks."""
    return [
        text for text in (_basis(evaluation), _duplicates(info), _near_duplicates(info), *_kept_apart(info)) if text
    ]


def _basis(evaluation: Evaluation) -> str:
    figure = evaluation.metrics[evaluation.headline]
    grouped = f", in {evaluation.groups:,} groups that count as one draw each," if evaluation.groups > 1 else ""
    return (
        f"With 95{wording.NBSP}% confidence {FIGURES[evaluation.headline]} is {wording.percent_range(figure)} on further rows of this kind: "
        f"as far as {wording.rows(evaluation.rows)} of the {evaluation.split} split{grouped} can tell. Chance in training comes on top."
    )


def _duplicates(info: DatasetInfo) -> str:
    removed = sum(
        count
        for reason, count in info.counts.quarantined.items()
        if "duplicate" in reason or reason.startswith("also in")
    )
    found = f" ({wording.rows(removed)} set aside for that)" if removed else ""
    return f"No text stands in two splits{found}."


def _near_duplicates(info: DatasetInfo) -> str:
    if "data.near_duplicates" not in info.options:
        return ""
    threshold = info.options["data.near_duplicates"]
    if not threshold:
        return "Near-duplicates were not looked for: copies with small changes may stand in training."
    rows = next((finding.count for finding in info.findings if finding.kind == "near_duplicates"), 0)
    if info.options.get("test"):
        return "Near-duplicates of training rows in the given file are marked; they were looked for in all rows."
    return (
        f"Near-duplicates stay in one split: {wording.rows(rows)} are some."
        if rows
        else "There are no near-duplicates."
    )


def _kept_apart(info: DatasetInfo) -> list[str]:
    group, time = info.options.get("data.group_column"), info.options.get("data.time_column")
    return [
        text
        for text in (
            f"Groups of “{group}” stay in one split: the test knows none from training." if group else "",
            f"Split by “{time}”: it was tested on newer rows than it learnt from." if time else "",
        )
        if text
    ]


def cautions(evaluation: Evaluation) -> list[str]:
    """Return what a reader should keep in mind before trusting the headline."""
    found = (
        _split_caution(evaluation),
        _leak_caution(evaluation),
        _size_caution(evaluation),
        _group_caution(evaluation),
        _zero_caution(evaluation),
        _baseline_caution(evaluation),
    )
    return [text for text in found if text]


def _split_caution(evaluation: Evaluation) -> str:
    words = {
        "validation": "the validation split, which also chose the checkpoint",
        "train": "the rows it was trained on",
    }
    used = words.get(evaluation.split)
    return f"These scores are on {used}: they flatter the classifier." if used else ""


def _leak_caution(evaluation: Evaluation) -> str:
    leak = evaluation.leakage
    if leak is None:
        return ""
    are = "is a near-duplicate" if leak.rows == 1 else "are near-duplicates"
    found = f"{leak.rows:,} of the {wording.rows(evaluation.rows)} {are} of training rows"
    name = evaluation.headline
    if name not in leak.others:
        return f"{found}: the scores say little about new texts."
    other, without = leak.others[name], "it" if leak.rows == 1 else "them"
    return f"{found}; without {without} {FIGURES[name]} is {wording.percent(other.value)} ({wording.percent_range(other)})."


def _size_caution(evaluation: Evaluation) -> str:
    if evaluation.rows >= FEW_ROWS:
        return ""
    return f"Only {wording.rows(evaluation.rows)} were scored: read the intervals, not the single figures."


def _group_caution(evaluation: Evaluation) -> str:
    if evaluation.groups == 1:
        return "All rows are of one group: the intervals hold for further rows of this group, not for others."
    if 1 < evaluation.groups < FEW_GROUPS:
        return f"The rows are of {evaluation.groups} groups only: how groups differ is hardly known, and the intervals are rough."
    return ""


def _zero_caution(evaluation: Evaluation) -> str:
    accuracy = evaluation.metrics["accuracy"]
    if accuracy.value < 1:
        return ""
    return (
        f"No mistake in {wording.rows(evaluation.rows)} does not mean none: "
        f"the true error may be up to {wording.percent(1 - accuracy.low)}."
    )


def _baseline_caution(evaluation: Evaluation) -> str:
    if evaluation.baselines:
        return ""
    return "No baseline was scored, so nothing says whether a cheaper method does as well."


# --- where it fails -----------------------------------------------------------------------


def weak_spots(evaluation: Evaluation) -> list[str]:
    """Return where the classifier fails: parts that a test finds worse, then the most frequent mistake."""
    found = (*_worse_parts(evaluation), _weak_pair(evaluation), _weak_label(evaluation), _sure_and_wrong(evaluation))
    return [text for text in found if text]


def _worse_parts(evaluation: Evaluation) -> list[str]:
    tested = [part for part in evaluation.parts if part.verdict]
    worse = sorted((part for part in tested if part.verdict == "worse"), key=lambda part: part.accuracy.value)
    if worse:
        return [_worse(part, evaluation) for part in worse[:SHOWN_PARTS]]
    if not tested:
        return []
    unknown = [title(part) for part in tested if part.verdict == "unknown"]
    few = f" Too few rows to tell: {_some(unknown)}." if unknown else ""
    return [f"No part of the data is clearly worse than the rest ({_looked_at(tested)}).{few}"]


def _worse(part: Slice, evaluation: Evaluation) -> str:
    right = "with all labels right" if evaluation.task == "multi_label" else "right"
    rest = wording.percent(part.rest if part.rest is not None else evaluation.metrics["accuracy"].value)
    name = title(part)
    return (
        f"Clearly worse: {name}. {wording.percent(part.accuracy.value)} {right} ({wording.percent_range(part.accuracy)}), "
        f"{wording.rows(part.rows)}; the rest {rest}."
    )


def _some(names: Sequence[str], most: int = SHOWN_PARTS) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _looked_at(parts: Sequence[Slice]) -> str:
    names = {
        "near_duplicate": "near-duplicates",
        "truncated": "cut or not",
        "label": "labels",
        "group": "groups",
        "length": "lengths",
    }
    kinds = dict.fromkeys(names.get(part.kind, part.kind.removeprefix(SLICE)) for part in parts)
    return f"looked at: {', '.join(kinds)}; {len(parts)} parts, tests corrected for their number"


def _weak_pair(evaluation: Evaluation) -> str:
    names, matrix = evaluation.label_names, evaluation.confusion
    wrong = [(rows, i, j) for i, line in enumerate(matrix) for j, rows in enumerate(line) if i != j and rows]
    if not wrong:
        return ""
    rows, i, j = max(wrong, key=lambda cell: cell[0])
    return f"Most frequent confusion: “{names[i]}” taken for “{names[j]}”, {wording.rows(rows)}."


def _weak_label(evaluation: Evaluation) -> str:
    """Name the label that is given wrongly most often, in multi-label data."""
    worst = max(evaluation.errors, key=lambda label: label.wrong, default=None)
    if worst is None or not worst.wrong:
        return ""
    return f"Most often given wrongly: “{worst.label}”, to {wording.rows(worst.wrong)}."


def _sure_and_wrong(evaluation: Evaluation) -> str:
    if not evaluation.mistakes:
        return "It made no mistake on these rows."
    return f"It can be sure and wrong: its most confident mistake had {wording.sureness(evaluation.mistakes[0].probability)}."
