"""Predicted against measured, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MARKS = {"embedded": "o", "distilbert-base": "s"}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of every job, with the promised bands, into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    for axis, name, band, title in (
        (axes[0], "seconds", 0.2, "Time in seconds, ± 20 %"),
        (axes[1], "memory_gb", 0.1, "Peak memory in GB, ± 10 %"),
    ):
        high = 1.1 * max(max(result[kind][name] for kind in ("predicted", "measured")) for result in results)
        axis.fill_between([0, high], [0, high * (1 - band)], [0, high * (1 + band)], color="0.9", zorder=0)
        axis.plot([0, high], [0, high], color="0.6", linewidth=1, zorder=1)
        for number, method in enumerate(dict.fromkeys(result["method"] for result in results)):
            for model, mark in MARKS.items():
                own = [result for result in results if (result["method"], result["model"]) == (method, model)]
                if own:
                    axis.scatter(
                        [result["measured"][name] for result in own], [result["predicted"][name] for result in own],
                        marker=mark, color=f"C{number}", label=f"{method}, {model}", zorder=2,
                    )  # fmt: skip
        axis.set(xlim=(0, high), ylim=(0, high), xlabel="measured", ylabel="predicted", title=title)
    axes[0].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
