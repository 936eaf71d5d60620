"""``doctor``: what this machine can do, what is missing or broken, and what to do about it.

    gathering: the facts, whatever is broken | torch_process: what PyTorch says -> advice: pure -> Examination

PyTorch is asked in a process of its own, so that a GPU driver that crashes or hangs takes nothing
down with it.
"""

from __future__ import annotations

from textlora.doctor.advice import advise, best_here
from textlora.doctor.facts import Choice, Examination, Facts, Item
from textlora.doctor.gathering import gather

__all__ = ["Choice", "Examination", "Facts", "Item", "examine"]


def examine() -> Examination:
    """Look at this machine and say what is best here.

    Takes some seconds: PyTorch is loaded, the hub is asked once, and at the first call on a machine
    its speed is measured and kept in the cache folder. Never raises: what cannot be found out is
    said so in the result.
    """
    facts = gather()
    return Examination(facts=facts, items=advise(facts), best=best_here(facts))
