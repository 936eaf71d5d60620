"""Time, memory and disk of a plan, term by term; ``docs/planning.md`` explains each.

What a token costs comes from a rehearsal on this machine, or roughly from operation counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from textlora.planning.durations import REPORT_SECONDS, evaluate_seconds, train_seconds
from textlora.planning.gpu_memory import gpu_terms, reserved_gb
from textlora.planning.grounds import Grounds
from textlora.planning.host_memory import CHARACTERS_PER_TOKEN, evaluation_gb, host_terms
from textlora.planning.rough import rough_terms
from textlora.planning.shapes import BYTES, trainable_parameters
from textlora.planning.workload import load, steps
from textlora.settings import Settings
from textlora.types import Estimate, Rehearsal
from textlora.windows import LengthPolicy, loss

GB = 1e9
CHECKPOINTS_KEPT = 3
REPORT_GB = 0.01
TOKEN_BYTES = 2


def estimate(chosen: Settings, grounds: Grounds, rehearsal: Rehearsal | None = None, *, full: bool = False) -> Estimate:
    """Estimate time, memory and disk of ``textlora fit``, by stage and by term.

    Args:
        chosen: resolved settings.
        grounds: data, base model and machine.
        rehearsal: what was measured; without it the figures are rough.
        full: for all weights trained in fp32, which textlora does not do: to compare with.

    Returns:
        Parameters are exact for the architectures that textlora is tested with, and nearly so for others.
    """
    terms = rehearsal or rough_terms(chosen, grounds)
    epoch = load(grounds.rows["train"], chosen.training.batch_size, chosen, grounds)
    number = steps(grounds.rows["train"], chosen.training.batch_size, chosen.training.epochs)
    trainable = grounds.info.parameters if full else trainable_parameters(chosen, grounds)
    train = train_seconds(chosen, grounds, epoch, terms, trainable=trainable)
    evaluate = evaluate_seconds(chosen, grounds, terms)
    memory = host_terms(chosen, grounds, epoch, terms, trainable=trainable, full=full)
    gpu = gpu_terms(chosen, grounds, epoch, terms, trainable=trainable, full=full)
    disk = _disk_terms(chosen, grounds, trainable)
    peak = sum(memory.values())
    scoring = evaluation_gb(chosen, grounds, terms, memory)
    return Estimate(
        train_seconds=sum(train.values()),
        evaluate_seconds=sum(evaluate.values()),
        memory_gb=peak + scoring,
        disk_gb=sum(disk.values()),
        total_parameters=grounds.info.parameters + (0 if full else trainable),
        trainable_parameters=trainable,
        tokens_per_epoch=epoch.tokens,
        steps=number,
        report_seconds=REPORT_SECONDS,
        seconds_by_term=train | evaluate,
        memory_by_term={**memory, "evaluation": scoring},
        disk_by_term=disk,
        train_memory_gb=peak,
        rehearsed=rehearsal is not None,
        disturbed=rehearsal is not None and rehearsal.disturbed,
        gpu_memory_gb=sum(gpu.values()),
        train_gpu_memory_gb=reserved_gb(gpu),
        gpu_memory_by_term=gpu,
    )


# -- disk ------------------------------------------------------------------------------------------


def _disk_terms(chosen: Settings, grounds: Grounds, trainable: int) -> Mapping[str, float]:
    """Return what lies on the disk at the end and on the way, in GB."""
    rows = grounds.rows
    tokens = grounds.lengths.mean * (rows["train"] + rows["validation"])
    return {
        "data": CHARACTERS_PER_TOKEN * grounds.lengths.mean * sum(rows.values()) / 2 / GB,
        "token ids": tokens * TOKEN_BYTES / GB,
        "adapter": trainable * 4 / GB,
        # Adapters and AdamW's two moments.
        "checkpoints": trainable * 4 * 3 * CHECKPOINTS_KEPT / GB,
        "frozen layers": prefix_gb(chosen, grounds),
        "report": REPORT_GB,
    }


def prefix_gb(chosen: Settings, grounds: Grounds) -> float:
    """Return the GB of the frozen layers' cache on disk: the states of all training and validation tokens."""
    if not chosen.compute.prefix_cache:
        return 0.0
    rows = grounds.rows["train"] + grounds.rows["validation"]
    policy = LengthPolicy.of_settings(chosen.text, max_length=grounds.info.max_length)
    tokens = rows * loss(policy, grounds.lengths, rows=rows).mean_computed
    return tokens * grounds.info.hidden * BYTES[chosen.compute.precision or "fp32"] / GB
