"""Kernels that oneDNN builds for the shapes it meets, and keeps: half a megabyte each (``docs/log.md``)."""

from __future__ import annotations

from dataclasses import dataclass

from textlora.planning.grounds import Grounds
from textlora.planning.workload import NOTHING, Load, explained_texts, load, predicted_tokens
from textlora.settings import Settings
from textlora.types import Rehearsal

GB = 1e9
# It keeps 1,024; those used longest ago go.
CAP_GB = 0.54
# Texts of the frozen layers' passes for the cache are sorted and cut by this.
PREFIX_TOKENS, PREFIX_BLOCK = 2_048, 2_048


@dataclass(frozen=True, slots=True)
class Built:
    """Share of a training pass's kernels that another pass needs: those for rows and texts, those for groups."""

    products: float
    groups: float


# Of 32 products for a number of rows 12 are of the forward pass, 4 of them the layers' own; of 9 for a group 4.
TRAINING, FORWARD, FROZEN = Built(1.0, 1.0), Built(12 / 32, 4 / 9), Built(4 / 32, 2 / 9)


def training_gb(chosen: Settings, grounds: Grounds, epoch: Load, terms: Rehearsal) -> float:
    """Return the GB of the kernels that training builds.

    Args:
        chosen: resolved settings.
        grounds: for the rows and their lengths.
        epoch: one pass over the training rows.
        terms: bytes by shape.
    """
    training, rows = chosen.training, grounds.rows
    found = terms.first_kernel_bytes / GB + _gb(epoch, TRAINING, terms)
    validation = load(rows["validation"], training.eval_batch_size, chosen, grounds)
    found += _gb(validation, FORWARD, terms, known=epoch)
    if chosen.compute.prefix_cache:
        texts = min(PREFIX_BLOCK, rows["train"] + rows["validation"])
        found += _gb(load(texts, PREFIX_BLOCK, chosen, grounds, budget=PREFIX_TOKENS), FROZEN, terms)
    return min(CAP_GB, found)


def predicting_gb(chosen: Settings, grounds: Grounds, terms: Rehearsal, *, there: float) -> float:
    """Return the GB of the kernels that evaluation builds beside the ``there`` GB of training."""
    texts = grounds.rows["test"] + explained_texts(grounds)
    work = load(texts, chosen.training.eval_batch_size, chosen, grounds, budget=predicted_tokens(chosen))
    return max(0.0, min(CAP_GB - there, _gb(work, FORWARD, terms)))


def _gb(work: Load, built: Built, terms: Rehearsal, *, known: Load = NOTHING) -> float:
    """Return the GB of the kernels for all shapes of ``work`` that are not ``known`` yet."""
    rows = len(work.row_counts - known.row_counts) * terms.row_kernel_bytes
    texts = len(work.text_counts - known.text_counts) * terms.text_kernel_bytes
    groups = len(work.text_groups - known.text_groups) * terms.group_kernel_bytes
    return (built.products * (rows + texts) + built.groups * groups) / GB
