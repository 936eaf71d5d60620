"""Goals of a yes-or-no decision, as users write them: ``recall@precision=0.95``, ``cost:FP=1,FN=5``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FORMS = "accuracy, f1, recall@precision=0.95, precision@recall=0.9 or cost:FP=1,FN=5"
KINDS = ("accuracy", "f1", "recall@precision", "precision@recall", "cost")

_SHARE = re.compile(r"(recall@precision|precision@recall)\s*=\s*(\S+)")
_COST = re.compile(r"cost\s*:\s*(.*)")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a threshold is chosen for.

    Attributes:
        kind: one of ``KINDS``.
        share: the precision or recall that has to be reached, above 0 and at most 1.
        false_positive: cost of a label that is given wrongly, above 0.
        false_negative: cost of a label that is missed, above 0.
    """

    kind: Literal["accuracy", "f1", "recall@precision", "precision@recall", "cost"]
    share: float = 0.0
    false_positive: float = 0.0
    false_negative: float = 0.0

    def __str__(self) -> str:
        """Return the goal as it is written."""
        if self.kind == "cost":
            return f"cost:FP={self.false_positive:g},FN={self.false_negative:g}"
        return f"{self.kind}={self.share:g}" if self.share else self.kind

    @property
    def even_threshold(self) -> float:
        """The best threshold for this goal where probabilities are true; 0.5 where there is no formula."""
        if self.kind != "cost":
            return 0.5
        return self.false_positive / (self.false_positive + self.false_negative)


def parse(text: str) -> Goal:
    """Read a goal.

    Raises:
        ValueError: it is none; says what is expected.
    """
    text = text.strip()
    if text in ("accuracy", "f1"):
        return Goal("accuracy" if text == "accuracy" else "f1")
    if match := _SHARE.fullmatch(text):
        share = _number(match[2])
        if share is None or not 0 < share <= 1:
            raise ValueError(f"a share above 0 and at most 1 behind {match[1]}=, for instance {match[1]}=0.9")
        return Goal("recall@precision" if match[1] == "recall@precision" else "precision@recall", share)
    if match := _COST.fullmatch(text):
        return _cost(match[1])
    raise ValueError(FORMS)


def _cost(text: str) -> Goal:
    parts = [part.partition("=") for part in text.split(",")]
    costs = {name.strip().upper(): _number(value) for name, _, value in parts}
    wrong, missed = costs.get("FP"), costs.get("FN")
    if len(parts) != 2 or not (wrong and missed) or min(wrong, missed) <= 0:  # noqa: PLR2004 - FP and FN
        raise ValueError(
            "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"
        )
    return Goal("cost", false_positive=wrong, false_negative=missed)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
