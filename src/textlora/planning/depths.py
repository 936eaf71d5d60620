"""Which layers run how: frozen ones forward alone, adapted ones forward and backward."""

from __future__ import annotations

from textlora.planning.grounds import Grounds
from textlora.rehearsal import LAST_LAYER_SAVED
from textlora.settings import Settings


def frozen_layers(chosen: Settings, grounds: Grounds) -> int:
    """Return the layers below the adapters."""
    return grounds.info.layers - (chosen.lora.top_layers or grounds.info.layers)


def adapted_layers(chosen: Settings, grounds: Grounds) -> float:
    """Return the layers that run forward and backward for every token."""
    return grounds.info.layers - frozen_layers(chosen, grounds) - short_cut(chosen)


def short_cut(chosen: Settings) -> float:
    """Return the share of the last layer that is not computed, since the head reads one token of each text."""
    return LAST_LAYER_SAVED if chosen.compute.engine == "packed" else 0.0
