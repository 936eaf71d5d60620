"""Memory of a CUDA GPU, term by term; the host's stands in ``host_memory``.

The constants are assumptions: no GPU has been measured with them yet (``docs/planning.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

from textlora.planning.grounds import Grounds
from textlora.planning.shapes import BYTES, weights_gb
from textlora.planning.working_set import GB, pass_terms, trained_terms
from textlora.planning.workload import Load
from textlora.settings import Settings
from textlora.types import Machine, Rehearsal

CONTEXT = "CUDA context"
# What CUDA takes of the GPU for each process before there is any tensor: its context and the kernels' code.
CONTEXT_GB = 0.5
# What cuBLAS keeps to work in.
CUBLAS_GB = 0.04
# PyTorch's allocator keeps freed blocks, and lengths differ from micro-batch to micro-batch: that much of what passes.
CACHING_SHARE = 0.2
# Copies of a micro-batch's logits in fp32: as they are, their logarithms, the loss of each, and the gradient.
LOGIT_COPIES = 4
# Trainer keeps the logits of a validation on the GPU until its end, and joins them batch by batch.
VALIDATION_COPIES = 2
# Tokens of a pass without gradients: through the frozen layers for their cache, and in prediction.
FORWARD_TOKENS = 65_536


def gpu_terms(
    chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal, *, trainable: int, full: bool
) -> dict[str, float]:
    """Return the terms of the GPU's peak in GB; none where the plan computes on something else than CUDA.

    Args:
        chosen: resolved settings.
        grounds: data, base model and machine.
        epoch: one pass over the training rows.
        terms: bytes by token.
        trainable: parameters that are trained.
        full: whether these are all weights.
    """
    if chosen.compute.device != "cuda":
        return {}
    info = grounds.info
    weights = weights_gb(info, value_bytes=BYTES[chosen.compute.precision or "fp32"], bits=chosen.quantization.bits)
    passing = pass_terms(chosen, grounds, epoch, terms)
    passing["logits"] = _logits_gb(chosen, grounds)
    passing["workspace"] += CUBLAS_GB
    passing["forward passes"] = _forward_gb(grounds, terms, trained=sum(passing.values()))
    return {
        CONTEXT: CONTEXT_GB,
        "weights": weights,
        **trained_terms(grounds, trainable=trainable, full=full, passing=sum(passing.values())),
        **passing,
        "caching": CACHING_SHARE * sum(passing.values()),
    }


def reserved_gb(terms: Mapping[str, float]) -> float:
    """Return what PyTorch itself reserves of the GPU, in GB: all ``terms`` but CUDA's context."""
    return sum(terms.values()) - terms.get(CONTEXT, 0.0)


def _logits_gb(chosen: Settings, grounds: Grounds) -> float:
    training = LOGIT_COPIES * chosen.training.batch_size
    return max(training, VALIDATION_COPIES * grounds.rows["validation"]) * grounds.classes * 4 / GB


def _forward_gb(grounds: Grounds, terms: Rehearsal, *, trained: float) -> float:
    """Return what the largest pass without gradients takes beyond a training pass."""
    mean = min(grounds.lengths.mean, grounds.info.max_length)
    tokens = min(FORWARD_TOKENS, mean * max(grounds.rows.values()))
    return max(0.0, tokens * terms.passing_token_bytes / GB - trained)


def free_gb(machine: Machine) -> float | None:
    """Return the GB of the GPU that are free for tensors, as far as they are known."""
    free = machine.gpu_available_memory_gb or machine.gpu_memory_gb
    return max(0.0, free - CONTEXT_GB) if free else None
