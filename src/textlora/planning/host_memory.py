"""Resident memory of the process that trains and evaluates, term by term; a GPU's stands in ``gpu_memory``.

The constants were fitted to whole jobs (``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

from textlora.planning import kernels
from textlora.planning.grounds import Grounds
from textlora.planning.shapes import BYTES, linear_parameters, weights_gb
from textlora.planning.working_set import GB, pass_terms, trained_terms
from textlora.planning.workload import Load, predicted_tokens
from textlora.settings import Settings
from textlora.types import Rehearsal

# What preparing leaves in a process that goes on to train: readers, tables, the tokenizer.
PREPARED_BYTES = 150e6
# glibc keeps what is freed, and it splinters, since tensors of another micro-batch have other sizes: so much of
# what passes through the heap, more for every further number of rows, and something in any case.
SPLINTERS, SPLINTERS_BY_ROWS, MOST_ROW_COUNTS, SPLINTERS_BYTES = 0.4, 0.045, 12, 50e6
# Evaluation: scikit-learn and what else is imported; by core, passes over 4,096 tokens (fewer under a limit on memory), splinters counted; TF-IDF by
# character of its training texts.
EVALUATION_BYTES, PREDICTION_SPLINTERS, BASELINE_CHARACTER_BYTES, BASELINE_CHARACTERS = 110e6, 3.1, 14.0, 64e6
CHARACTERS_PER_TOKEN = 4.3
# Of a prediction's pass stay for a moment: a hidden and two inner widths a token.
PASSING_HIDDEN, PASSING_INTERMEDIATE = 1, 2


def host_terms(
    chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal, *, trainable: int, full: bool
) -> dict[str, float]:
    """Return the terms of training's peak of resident memory, in GB.

    Args:
        chosen: resolved settings.
        grounds: data, base model and machine.
        epoch: one pass over the training rows.
        terms: bytes by token, and what libraries take.
        trainable: parameters that are trained.
        full: whether these are all weights.
    """
    libraries = (terms.runtime_bytes + PREPARED_BYTES) / GB
    # Weights arrive in fp32, before there is anything else to hold.
    arriving = grounds.info.parameters * 4 / GB
    if chosen.compute.device == "cuda":
        return {"libraries": libraries, "loading": arriving}
    weights = _weights_gb(chosen, grounds)
    passing = pass_terms(chosen, grounds, epoch, terms)
    working = {
        **passing,
        "kernels": kernels.training_gb(chosen, grounds, epoch, terms),
        "allocator": _splinters_gb(chosen, epoch, sum(passing.values())),
    }
    return {
        "libraries": libraries,
        "weights": weights,
        "loading": max(_between_codes_gb(chosen, grounds), arriving - weights - sum(working.values())),
        **trained_terms(grounds, trainable=trainable, full=full, passing=sum(passing.values())),
        **working,
    }


def _weights_gb(chosen: Settings, grounds: Grounds) -> float:
    size = BYTES[chosen.compute.precision or "fp32"]
    return weights_gb(grounds.info, value_bytes=size, bits=chosen.quantization.bits)


def _between_codes_gb(chosen: Settings, grounds: Grounds) -> float:
    """Return what lies free between quantized weights, in pieces: they arrived there one by one in fp32."""
    return linear_parameters(grounds.info) * 4 / GB if chosen.quantization.bits else 0.0


def _splinters_gb(chosen: Settings, epoch: Load, passing: float) -> float:
    """Return what lies free between what is in use when most is in use."""
    if chosen.compute.device != "cpu":
        return 0.0
    share = SPLINTERS + SPLINTERS_BY_ROWS * min(MOST_ROW_COUNTS, len(epoch.row_counts))
    return share * passing + SPLINTERS_BYTES / GB


def evaluation_gb(chosen: Settings, grounds: Grounds, terms: Rehearsal, trained: Mapping[str, float]) -> float:
    """Return what evaluation needs beyond training's peak.

    Before it the free parts of the heap are given back; what stays is libraries, kernels, splinters between them, and
    the trained model, beside which the saved one is loaded.

    Args:
        chosen: resolved settings.
        grounds: for the texts that are classified, and those that TF-IDF learns from.
        terms: for the kernels.
        trained: the terms of training.
    """
    characters = min(grounds.lengths.mean * CHARACTERS_PER_TOKEN * grounds.rows["train"], BASELINE_CHARACTERS)
    imported, counted = EVALUATION_BYTES / GB, BASELINE_CHARACTER_BYTES * characters / GB
    if "weights" not in trained:  # trained on a GPU: what loading took lies free
        return max(0.0, imported + counted - trained["loading"])
    staying = ("libraries", "weights", "adapters", "gradients", "optimiser state", "kernels", "allocator")
    kept = sum(trained[name] for name in staying) + trained["weights"]
    kept += imported + kernels.predicting_gb(chosen, grounds, terms, there=trained["kernels"])
    # The words are counted in the memory that the passes have left.
    return max(0.0, kept + max(counted, _predicting_gb(chosen, grounds)) - sum(trained.values()))


def _predicting_gb(chosen: Settings, grounds: Grounds) -> float:
    """Return what a prediction's passes hold, one on each core."""
    info = grounds.info
    widths = PASSING_HIDDEN * info.hidden + PASSING_INTERMEDIATE * info.intermediate
    at_once = predicted_tokens(chosen) * widths * BYTES[chosen.compute.precision or "fp32"]
    return grounds.machine.cores * PREDICTION_SPLINTERS * at_once / GB
