"""Time, memory and disk of a plan, term by term; ``docs/planning.md`` explains each.

What a token costs comes from a rehearsal on this machine, or roughly from operation counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from textlora.planning.depths import adapted_layers, frozen_layers, short_cut
from textlora.planning.gpu_memory import gpu_terms, reserved_gb
from textlora.planning.grounds import Grounds
from textlora.planning.host_memory import BASELINE_CHARACTERS, CHARACTERS_PER_TOKEN, evaluation_gb, host_terms
from textlora.planning.rough import rough_terms
from textlora.planning.shapes import BYTES, linear_parameters, trainable_parameters
from textlora.planning.workload import Load, load, steps
from textlora.settings import Settings
from textlora.types import Cost, Estimate, Rehearsal
from textlora.windows import LengthPolicy, loss

GB = 1e9
# Seconds of an optimiser step beside its passes: AdamW, clipping, Trainer's bookkeeping.
STEP_SECONDS = 0.012
ADAMW_SECONDS = 2.5e-9  # by trained parameter
TOKENIZE_SECONDS = 1.2e-6
# Building the model, and saving it; loading it in a fresh process, in units of the time that imports take.
BUILD_SECONDS = 1.0
RELOAD_IMPORTS = 0.7
# TF-IDF over single words and pairs with three strengths, by token.
BASELINE_SECONDS = 4e-6
SCORES_SECONDS = 0.5
# Building the kernels for a further number of rows, and for a further group of texts.
ROW_KERNEL_SECONDS, TEXT_KERNEL_SECONDS = 0.12, 0.03
REPORT_SECONDS = 0.2
# Texts of a forward pass in prediction are cut by this.
PREDICTED_TOKENS = 4096
# Seconds of a core for each quantized weight that is turned into numbers again (docs/log.md).
DEQUANTIZE_SECONDS = {4: 0.25e-9, 8: 0.8e-9}
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
    train = _train_seconds(chosen, grounds, epoch, terms) | {"optimiser": _optimiser_seconds(number, trainable)}
    evaluate = _evaluate_seconds(chosen, grounds, terms)
    memory = host_terms(chosen, grounds, epoch, terms, trainable=trainable, full=full)
    gpu = gpu_terms(chosen, grounds, epoch, terms, trainable=trainable, full=full)
    disk = _disk_terms(chosen, grounds, trainable)
    peak = sum(memory.values())
    scoring = evaluation_gb(grounds, memory)
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
        train_gpu_memory_gb=reserved_gb(chosen, gpu),
        gpu_memory_by_term=gpu,
    )


# -- time ------------------------------------------------------------------------------------------


def pass_seconds(work: Load, layers: float, cost: Cost) -> float:
    """Return the seconds of one pass over ``work`` through ``layers`` layers."""
    return layers * (
        work.micro_batches * cost.pass_seconds + work.tokens * cost.token_seconds + work.pairs * cost.pair_seconds
    )


def _train_seconds(chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal) -> dict[str, float]:
    training, rows = chosen.training, grounds.rows
    validation = load(rows["validation"], training.eval_batch_size, chosen, grounds)
    validations = math.ceil(training.epochs * training.evaluations_per_epoch)
    frozen, adapted = frozen_layers(chosen, grounds), adapted_layers(chosen, grounds)
    once = 1.0 if chosen.compute.prefix_cache else training.epochs
    kept = frozen_layers(chosen, grounds) if chosen.compute.prefix_cache else 0
    both = load(rows["train"] + rows["validation"] if kept else rows["train"], training.batch_size, chosen, grounds)
    return {
        "tokenizing": TOKENIZE_SECONDS * grounds.lengths.mean * (rows["train"] + rows["validation"]),
        "building": BUILD_SECONDS,
        "frozen layers": once * pass_seconds(both, frozen, terms.validate),
        "adapted layers": training.epochs * pass_seconds(epoch, adapted, terms.train),
        "kernels": _kernel_seconds(epoch, terms),
        "dequantizing": _dequantize_seconds(chosen, grounds, epoch) * training.epochs,
        "validation": validations
        * pass_seconds(validation, grounds.info.layers - kept - short_cut(chosen), terms.validate),
        "saving and reloading": RELOAD_IMPORTS * terms.import_seconds,
    }


def _optimiser_seconds(number: int, trainable: int) -> float:
    return number * (STEP_SECONDS + ADAMW_SECONDS * trainable)


def _evaluate_seconds(chosen: Settings, grounds: Grounds, terms: Rehearsal) -> dict[str, float]:
    rows = grounds.rows
    test = load(rows["test"], chosen.training.eval_batch_size, chosen, grounds, budget=PREDICTED_TOKENS)
    known = min(grounds.lengths.mean * rows["train"], BASELINE_CHARACTERS / CHARACTERS_PER_TOKEN)
    return {
        "predicting": TOKENIZE_SECONDS * grounds.lengths.mean * rows["test"]
        + pass_seconds(test, grounds.info.layers - short_cut(chosen), terms.predict),
        "baselines": BASELINE_SECONDS * known,
        "scores": SCORES_SECONDS,
    }


def _kernel_seconds(epoch: Load, terms: Rehearsal) -> float:
    if not terms.row_kernel_bytes:  # none are built here, or none are kept
        return 0.0
    return epoch.row_counts * ROW_KERNEL_SECONDS + epoch.text_groups * TEXT_KERNEL_SECONDS


def _dequantize_seconds(chosen: Settings, grounds: Grounds, epoch: Load) -> float:
    """Return the seconds of an epoch in which codes become numbers: forward, and again backward."""
    bits = chosen.quantization.bits
    if bits is None or chosen.compute.device != "cpu":
        return 0.0
    at_once = linear_parameters(grounds.info) * DEQUANTIZE_SECONDS[bits] / grounds.machine.cores
    return 2 * epoch.micro_batches * at_once


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
