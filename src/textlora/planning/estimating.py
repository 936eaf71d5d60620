"""Time, memory and disk of a plan, term by term; ``docs/planning.md`` explains each.

What a token costs comes from a rehearsal on this machine, or roughly from operation counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from textlora.planning.grounds import Grounds
from textlora.planning.rough import rough_terms
from textlora.planning.shapes import BYTES, linear_parameters, trainable_parameters, weights_gb
from textlora.planning.workload import Load, load, steps
from textlora.rehearsal import LAST_LAYER_SAVED
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
# What preparing leaves in a process that goes on to train: readers, tables, the tokenizer.
PREPARED_BYTES = 150e6
# glibc keeps what is freed, and it splinters: that much of what passes through the heap.
SPLINTERS = 0.3
# Evaluation: scikit-learn, and predicting with a micro-batch on each core; TF-IDF by character of its training texts.
EVALUATION_BYTES, BASELINE_CHARACTER_BYTES, BASELINE_CHARACTERS = 230e6, 14.0, 64e6
CHARACTERS_PER_TOKEN = 4.3
# Where the embeddings are trained: a micro-batch's gradient of the whole table, and AdamW's passing copy of it.
TABLES = 2
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
    memory = _memory_terms(chosen, grounds, epoch, terms, trainable=trainable, full=full)
    disk = _disk_terms(chosen, grounds, trainable)
    peak = sum(memory.values())
    scoring = _baseline_gb(grounds)
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
    frozen, adapted = _frozen_layers(chosen, grounds), _adapted_layers(chosen, grounds)
    once = 1.0 if chosen.compute.prefix_cache else training.epochs
    kept = _frozen_layers(chosen, grounds) if chosen.compute.prefix_cache else 0
    both = load(rows["train"] + rows["validation"] if kept else rows["train"], training.batch_size, chosen, grounds)
    return {
        "tokenizing": TOKENIZE_SECONDS * grounds.lengths.mean * (rows["train"] + rows["validation"]),
        "building": BUILD_SECONDS,
        "frozen layers": once * pass_seconds(both, frozen, terms.validate),
        "adapted layers": training.epochs * pass_seconds(epoch, adapted, terms.train),
        "kernels": _kernel_seconds(epoch, terms),
        "dequantizing": _dequantize_seconds(chosen, grounds, epoch) * training.epochs,
        "validation": validations
        * pass_seconds(validation, grounds.info.layers - kept - _short_cut(chosen), terms.validate),
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
        + pass_seconds(test, grounds.info.layers - _short_cut(chosen), terms.predict),
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


def _frozen_layers(chosen: Settings, grounds: Grounds) -> int:
    return grounds.info.layers - (chosen.lora.top_layers or grounds.info.layers)


def _adapted_layers(chosen: Settings, grounds: Grounds) -> float:
    """Return the layers that run forward and backward for every token."""
    return grounds.info.layers - _frozen_layers(chosen, grounds) - _short_cut(chosen)


def _short_cut(chosen: Settings) -> float:
    return LAST_LAYER_SAVED if chosen.compute.engine == "packed" else 0.0


# -- memory ----------------------------------------------------------------------------------------


def _memory_terms(
    chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal, *, trainable: int, full: bool
) -> dict[str, float]:
    """Return the terms of training's peak of resident memory, in GB."""
    info = grounds.info
    weights = weights_gb(info, value_bytes=BYTES[chosen.compute.precision or "fp32"], bits=chosen.quantization.bits)
    layers = _adapted_layers(chosen, grounds)
    working = {
        "activations": epoch.largest * layers * terms.kept_token_bytes / GB,
        "attention": epoch.largest_pairs * layers * terms.kept_pair_bytes / GB,
        "workspace": (epoch.largest * terms.passing_token_bytes + epoch.largest_pairs * terms.passing_pair_bytes) / GB,
        "kernels": (epoch.row_counts * terms.row_kernel_bytes + epoch.text_groups * terms.text_kernel_bytes) / GB,
    }
    on_cpu = chosen.compute.device == "cpu"
    working["allocator"] = SPLINTERS * sum(working.values()) if on_cpu else 0.0
    # Weights arrive in fp32, before there is anything else to hold.
    arriving = max(0.0, info.parameters * 4 / GB - weights - sum(working.values()))
    return {
        "libraries": (terms.runtime_bytes + PREPARED_BYTES) / GB,
        "weights": weights,
        "loading": arriving,
        "adapters": 0.0 if full else trainable * 4 / GB,
        "gradients": trainable * 4 / GB + (TABLES * info.vocabulary * info.hidden * 4 / GB if full else 0.0),
        "optimiser state": trainable * 8 / GB,
        **working,
    }


def _baseline_gb(grounds: Grounds) -> float:
    """Return what evaluation adds to training's peak, whose memory the process keeps."""
    characters = min(grounds.lengths.mean * CHARACTERS_PER_TOKEN * grounds.rows["train"], BASELINE_CHARACTERS)
    return (EVALUATION_BYTES + BASELINE_CHARACTER_BYTES * characters) / GB


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
