"""What a classifier's logits are worth and what is decided by them, fitted on the validation rows.

wanted        what is asked for, and what does not go together
temperature   one number that makes probabilities mean what they say
conformal     sets of labels that cannot be ruled out, and "not sure"
fitting       all of it, in the order in which it is applied
applying      from logits to answers, as the bundle says
reliability   how far probabilities can be taken at their word
judging       what all of it comes to on scored rows

Thresholds by a goal are in ``textlora.thresholds``, the nouns in ``textlora.decision``. Numpy and SciPy only.
"""

from __future__ import annotations

from textlora.deciding.applying import candidates, decide, probabilities_of
from textlora.deciding.fitting import fit_decision, labels_of
from textlora.deciding.judging import trust
from textlora.deciding.wanted import Labels, Wanted, problems
from textlora.thresholds import Unreached

__all__ = [
    "Labels",
    "Unreached",
    "Wanted",
    "candidates",
    "decide",
    "fit_decision",
    "labels_of",
    "probabilities_of",
    "problems",
    "trust",
]
