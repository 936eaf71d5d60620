"""The automatic settings of an adaptation, by the same rules as those of a plan."""

from __future__ import annotations

from textlora.adaptation.corpus import OpenCorpus
from textlora.adaptation.settings import AdaptationSettings, build, flatten
from textlora.errors import UsageError
from textlora.models import BaseInfo
from textlora.planning.checking import check
from textlora.planning.deciding import DECISIONS
from textlora.planning.grounds import Choice, Choices, Grounds, measure_lengths
from textlora.planning.layers import gather
from textlora.types import Machine

USUAL_LENGTH = 512
FRESH_HEAD_STEPS = 100
COMPUTE = ("device", "precision", "attention", "tokens_per_micro_batch")


def piece_length(settings: AdaptationSettings, info: BaseInfo) -> int:
    """Return the tokens of a piece, special ones included.

    Raises:
        UsageError: the encoder takes fewer.
    """
    wanted = settings.text.max_length
    if wanted is not None and wanted > info.max_length:
        raise UsageError(f"text.max_length is {wanted}, but {info.name} takes at most {info.max_length} tokens.")
    return wanted or min(USUAL_LENGTH, info.max_length)


def decide(
    settings: AdaptationSettings, info: BaseInfo, machine: Machine, corpus: OpenCorpus
) -> tuple[AdaptationSettings, dict[str, str]]:
    """Decide what is open about pieces and arithmetic; ``head.steps`` waits for the model.

    Returns:
        The settings, and the reason of each that was decided, by dotted name.

    Raises:
        UsageError: values that do not fit the model or the machine.
        ResourceError: the wanted device is not there.
    """
    length = piece_length(settings, info)
    given = {f"compute.{name}": getattr(settings.compute, name) for name in COMPUTE}
    # Nothing of a text is lost, so no rule about what is kept of it applies.
    _, choices = gather({"text.policy": "head"} | {name: value for name, value in given.items() if value is not None})
    choices["text.max_length"] = Choice(
        length, "the encoder's limit" if length == info.max_length else "usual", "decided"
    )
    grounds = _grounds(info, machine, corpus, length)
    decided = _decided(choices, grounds)
    check(choices, grounds)
    if settings.text.max_length is None:
        decided["text.max_length"] = choices["text.max_length"]
    values = flatten(settings) | {name: choice.value for name, choice in decided.items()}
    return build(values), {name: choice.reason for name, choice in decided.items()}


def _decided(choices: Choices, grounds: Grounds) -> Choices:
    """Fill in the open choices, and return those that an adaptation has."""
    decided: Choices = {}
    for name, decision in DECISIONS.items():
        if choices[name].value is None:
            value, reason = decision(choices, grounds)
            choices[name] = Choice(value, reason, "decided")
            if name.removeprefix("compute.") in COMPUTE:
                decided[name] = choices[name]
    return decided


def _grounds(info: BaseInfo, machine: Machine, corpus: OpenCorpus, length: int) -> Grounds:
    rows = {"train": corpus.facts.pieces, "validation": corpus.facts.held_out, "test": 0}
    lengths = measure_lengths(corpus.train.lengths.tolist(), info)
    return Grounds(info=info, rows=rows, classes=2, lengths=lengths, longest=length, prepared={}, machine=machine)


def head_steps(settings: AdaptationSettings, *, fresh: bool) -> tuple[int, str]:
    """Return how many steps train the head alone, and why."""
    if settings.head.steps is not None:
        return settings.head.steps, "as set"
    if fresh:
        return FRESH_HEAD_STEPS, "the base model has no head for masked words; a random one would disturb the encoder"
    return 0, "the base model has a head for masked words"
