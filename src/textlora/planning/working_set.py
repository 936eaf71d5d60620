"""What the passes of training hold in memory, wherever they run: on the host or on a GPU."""

from __future__ import annotations

from textlora.planning.depths import adapted_layers
from textlora.planning.grounds import Grounds
from textlora.planning.workload import Load
from textlora.settings import Settings
from textlora.types import Rehearsal

GB = 1e9
# Where the embeddings are trained: a micro-batch's gradient of the whole table, and AdamW's passing copy of it.
TABLES = 2


def trained_terms(grounds: Grounds, *, trainable: int, full: bool, passing: float) -> dict[str, float]:
    """Return the GB of what is trained: adapters (or all weights, which are counted as weights), gradients, AdamW.

    Args:
        grounds: for the table of embeddings.
        trainable: parameters that are trained.
        full: whether these are all weights of the model.
        passing: GB of a pass, which is over when the gradient of the table is there.
    """
    info = grounds.info
    tables = TABLES * info.vocabulary * info.hidden * 4 / GB if full else 0.0
    return {
        "adapters": 0.0 if full else trainable * 4 / GB,
        "gradients": trainable * 4 / GB + max(0.0, tables - passing),
        "optimiser state": trainable * 8 / GB,
    }


def pass_terms(chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal) -> dict[str, float]:
    """Return the GB of the largest forward and backward pass: kept for the backward pass, and needed for a moment."""
    layers = adapted_layers(chosen, grounds)
    passing = epoch.largest * terms.passing_token_bytes + epoch.largest_pairs * terms.passing_pair_bytes
    return {
        "activations": epoch.largest * layers * terms.kept_token_bytes / GB,
        "attention": epoch.largest_pairs * layers * terms.kept_pair_bytes / GB,
        "workspace": passing / GB,
    }
