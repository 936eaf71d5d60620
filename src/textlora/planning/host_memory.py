"""Resident memory of the process that trains and evaluates, term by term; a GPU's stands in ``gpu_memory``."""

from __future__ import annotations

from textlora.planning.grounds import Grounds
from textlora.planning.shapes import BYTES, weights_gb
from textlora.planning.working_set import GB, pass_terms, trained_terms
from textlora.planning.workload import Load
from textlora.settings import Settings
from textlora.types import Rehearsal

# What preparing leaves in a process that goes on to train: readers, tables, the tokenizer.
PREPARED_BYTES = 150e6
# glibc keeps what is freed, and it splinters: that much of what passes through the heap.
SPLINTERS = 0.3
# Evaluation: scikit-learn, and predicting with a micro-batch on each core; TF-IDF by character of its training texts.
EVALUATION_BYTES, BASELINE_CHARACTER_BYTES, BASELINE_CHARACTERS = 230e6, 14.0, 64e6
CHARACTERS_PER_TOKEN = 4.3


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
    info = grounds.info
    libraries = (terms.runtime_bytes + PREPARED_BYTES) / GB
    # Weights arrive in fp32, before there is anything else to hold.
    arriving = info.parameters * 4 / GB
    if chosen.compute.device == "cuda":
        return {"libraries": libraries, "loading": arriving}
    weights = weights_gb(info, value_bytes=BYTES[chosen.compute.precision or "fp32"], bits=chosen.quantization.bits)
    working = pass_terms(chosen, grounds, epoch, terms)
    working["kernels"] = (epoch.row_counts * terms.row_kernel_bytes + epoch.text_groups * terms.text_kernel_bytes) / GB
    working["allocator"] = SPLINTERS * sum(working.values()) if chosen.compute.device == "cpu" else 0.0
    return {
        "libraries": libraries,
        "weights": weights,
        "loading": max(0.0, arriving - weights - sum(working.values())),
        **trained_terms(grounds, trainable=trainable, full=full),
        **working,
    }


def evaluation_gb(grounds: Grounds, trained: dict[str, float]) -> float:
    """Return what evaluation adds to training's peak, whose memory the process keeps.

    Args:
        grounds: for the texts that TF-IDF learns from.
        trained: the terms of training.
    """
    characters = min(grounds.lengths.mean * CHARACTERS_PER_TOKEN * grounds.rows["train"], BASELINE_CHARACTERS)
    needed = (EVALUATION_BYTES + BASELINE_CHARACTER_BYTES * characters) / GB
    # Where training went on on a GPU, what loading took lies free.
    return needed if "weights" in trained else max(0.0, needed - trained["loading"])
