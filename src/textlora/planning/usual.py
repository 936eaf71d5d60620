"""What would be decided on a machine for the usual encoder, before there are any data."""

from __future__ import annotations

from pathlib import Path

from textlora.models import BaseInfo
from textlora.planning.deciding import DECISIONS
from textlora.planning.grounds import Choice, Grounds, measure_lengths
from textlora.planning.layers import gather
from textlora.types import Machine

# What distilbert-base-uncased says of itself; nothing is loaded.
USUAL = BaseInfo(
    name="distilbert-base-uncased", revision="main", model_type="distilbert", hidden=768, layers=6, heads=12,
    intermediate=3072, vocabulary=30522, max_length=512, parameters=66_362_880, packable=True, folder=Path(),
    linear_names=("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
)  # fmt: skip
# Rows decide nothing here.
ROWS = {"train": 20_000, "validation": 2_500, "test": 2_500}
SHOWN = ("compute.device", "compute.precision", "compute.engine", "compute.attention")


def compute_settings(machine: Machine) -> dict[str, Choice]:
    """Return device, precision, engine and attention as ``plan`` would decide them here, with reasons."""
    grounds = Grounds(
        info=USUAL, rows=ROWS, classes=2, lengths=measure_lengths([USUAL.max_length], USUAL),
        longest=USUAL.max_length, prepared={}, machine=machine,
    )  # fmt: skip
    _, chosen = gather({})
    for name in SHOWN:
        value, reason = DECISIONS[name](chosen, grounds)
        chosen[name] = Choice(value, reason, "decided")
    return {name: chosen[name] for name in SHOWN}
