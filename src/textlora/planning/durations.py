"""Seconds of a plan, stage by stage and term by term."""

from __future__ import annotations

import math

from textlora.planning.depths import adapted_layers, frozen_layers, short_cut
from textlora.planning.grounds import Grounds
from textlora.planning.host_memory import BASELINE_CHARACTERS, CHARACTERS_PER_TOKEN
from textlora.planning.shapes import linear_parameters
from textlora.planning.workload import Load, explained_texts, load, predicted_tokens, steps
from textlora.settings import Settings
from textlora.types import Cost, Rehearsal

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
# Building the kernels for a further number of rows, of texts, and for a further group of texts.
ROW_KERNEL_SECONDS, TEXT_KERNEL_SECONDS, GROUP_KERNEL_SECONDS = 0.06, 0.06, 0.02
REPORT_SECONDS = 0.2
# Seconds of a core for each quantized weight that is turned into numbers again (docs/log.md).
DEQUANTIZE_SECONDS = {4: 0.25e-9, 8: 0.8e-9}


def pass_seconds(work: Load, layers: float, cost: Cost) -> float:
    """Return the seconds of one pass over ``work`` through ``layers`` layers."""
    return layers * (
        work.micro_batches * cost.pass_seconds + work.tokens * cost.token_seconds + work.pairs * cost.pair_seconds
    )


def train_seconds(
    chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal, *, trainable: int
) -> dict[str, float]:
    """Return the seconds of the stage ``train`` by term.

    Args:
        chosen: resolved settings.
        grounds: data, base model and machine.
        epoch: one pass over the training rows.
        terms: seconds by token.
        trainable: parameters that are trained.
    """
    training, rows = chosen.training, grounds.rows
    validation = load(rows["validation"], training.eval_batch_size, chosen, grounds)
    validations = math.ceil(training.epochs * training.evaluations_per_epoch)
    frozen, adapted = frozen_layers(chosen, grounds), adapted_layers(chosen, grounds)
    once = 1.0 if chosen.compute.prefix_cache else training.epochs
    kept = frozen if chosen.compute.prefix_cache else 0
    both = load(rows["train"] + rows["validation"] if kept else rows["train"], training.batch_size, chosen, grounds)
    left = grounds.info.layers - kept - short_cut(chosen)
    number = steps(rows["train"], training.batch_size, training.epochs)
    return {
        "tokenizing": TOKENIZE_SECONDS * grounds.lengths.mean * (rows["train"] + rows["validation"]),
        "building": BUILD_SECONDS,
        "frozen layers": once * pass_seconds(both, frozen, terms.validate),
        "adapted layers": training.epochs * pass_seconds(epoch, adapted, terms.train),
        "kernels": _kernel_seconds(epoch, terms),
        "dequantizing": _dequantize_seconds(chosen, grounds, epoch) * training.epochs,
        "optimiser": number * (STEP_SECONDS + ADAMW_SECONDS * trainable),
        "validation": validations * pass_seconds(validation, left, terms.validate),
        "calibrating": _predicting_seconds(rows["validation"], chosen, grounds, terms),
        "saving and reloading": RELOAD_IMPORTS * terms.import_seconds,
    }


def evaluate_seconds(chosen: Settings, grounds: Grounds, terms: Rehearsal) -> dict[str, float]:
    """Return the seconds of the stage ``evaluate`` by term; the arguments are as in ``train_seconds``."""
    test = grounds.rows["test"]
    known = min(grounds.lengths.mean * grounds.rows["train"], BASELINE_CHARACTERS / CHARACTERS_PER_TOKEN)
    return {
        "predicting": _predicting_seconds(test, chosen, grounds, terms),
        "explaining mistakes": _predicting_seconds(explained_texts(grounds), chosen, grounds, terms),
        "baselines": BASELINE_SECONDS * known,
        "scores": SCORES_SECONDS,
    }


def _predicting_seconds(texts: int, chosen: Settings, grounds: Grounds, terms: Rehearsal) -> float:
    """Return the seconds to tokenize and classify so many texts of the data's lengths."""
    work = load(texts, chosen.training.eval_batch_size, chosen, grounds, budget=predicted_tokens(chosen))
    tokenizing = TOKENIZE_SECONDS * grounds.lengths.mean * texts
    return tokenizing + pass_seconds(work, grounds.info.layers - short_cut(chosen), terms.predict)


def _kernel_seconds(epoch: Load, terms: Rehearsal) -> float:
    if not terms.row_kernel_bytes:  # none are built here, or none are kept
        return 0.0
    return (
        len(epoch.row_counts) * ROW_KERNEL_SECONDS
        + len(epoch.text_counts) * TEXT_KERNEL_SECONDS
        + len(epoch.text_groups) * GROUP_KERNEL_SECONDS
    )


def _dequantize_seconds(chosen: Settings, grounds: Grounds, epoch: Load) -> float:
    """Return the seconds of an epoch in which codes become numbers: forward, and again backward."""
    bits = chosen.quantization.bits
    if bits is None or chosen.compute.device != "cpu":
        return 0.0
    at_once = linear_parameters(grounds.info) * DEQUANTIZE_SECONDS[bits] / grounds.machine.cores
    return 2 * epoch.micro_batches * at_once
