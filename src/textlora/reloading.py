"""Whether a saved classifier answers as the one in memory does."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from textlora.classifier import Classifier
from textlora.errors import TrainingError

RELOAD = (
    "import sys; from textlora.reloading import answer_reload; answer_reload(sys.argv[1], sys.argv[2], sys.argv[3])"
)


def answer_reload(folder: str, request: str, device: str) -> None:
    """Write the logits of the texts in the JSON file ``request`` back into it. Runs in a fresh process."""
    path = Path(request)
    logits = Classifier.from_pretrained(folder, device=device).logits(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(logits.tolist()), encoding="utf-8")


def reload_difference(classifier: Classifier, folder: Path, texts: Sequence[str]) -> float:
    """Load ``folder`` in a fresh process and return the largest difference of logits.

    Raises:
        TrainingError: the fresh process could not load it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch) / "request.json"
        request.write_text(json.dumps(list(texts)), encoding="utf-8")
        device = classifier.device
        done = subprocess.run(
            [sys.executable, "-P", "-c", RELOAD, str(folder), str(request), device],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TrainingError(f"The saved classifier in {folder} cannot be loaded in a fresh process: {last}")
        fresh = np.array(json.loads(request.read_text(encoding="utf-8")))
    return float(np.abs(fresh - classifier.logits(texts)).max(initial=0.0))


def reload_difference_here(classifier: Classifier, folder: Path, texts: Sequence[str]) -> float:
    """Load ``folder`` in this process and return the largest difference of logits; quicker, and proves less."""
    loaded = Classifier.from_pretrained(folder, device=classifier.device)
    return float(np.abs(loaded.logits(texts) - classifier.logits(texts)).max(initial=0.0))
