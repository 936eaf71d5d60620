"""``adapt``: masked-language-model training of an encoder on unlabelled texts, before it is fine-tuned.

    sources: files, folders, run folders -> corpus: pieces of token ids -> deciding, estimating: the plan
        -> steps: masks, micro-batches, Trainer -> running: checkpoints, the encoder folder, its card

Task-adaptive pretraining as in Sun et al. 2019 (arXiv 1905.05583, section 5.4) and Gururangan et al. 2020
(arXiv 2004.10964): all weights of the encoder train, through Hugging Face's Trainer and the packed engine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from textlora.adaptation.nouns import Adaptation, AdaptationEstimate, AdaptationPlan, Corpus
from textlora.adaptation.settings import AdaptationSettings

Progress = Callable[[str, int, int, str], None]

__all__ = [
    "Adaptation",
    "AdaptationEstimate",
    "AdaptationPlan",
    "AdaptationSettings",
    "Corpus",
    "adapt",
    "load_adaptation",
    "plan",
]


def adapt(  # noqa: PLR0913 - where from, where to, and switches with defaults
    data: Any,
    *,
    out: str | Path,
    base_model: str | None = None,
    text: str | None = None,
    encoding: str | None = None,
    assignments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_plan: Callable[[AdaptationPlan], None] | None = None,
) -> Adaptation:
    """Train an encoder on unlabelled texts; go on where an earlier call with the same arguments was stopped.

    Args:
        data: path of a file (CSV, TSV, JSON lines, Parquet; ``.txt`` has a text a line) or a folder, a data
            frame, a ``Dataset``, or a list of these. Of a prepared run folder and a ``Dataset`` the training
            split is used alone.
        out: the encoder's folder, for ``base_model`` everywhere; written whole or not at all. What is unfinished
            lies in ``<out>.unfinished``.
        base_model: hub id, local folder or ``embedded``.
        text: text column; found in each file when not given.
        encoding: of the files, when neither UTF-8 nor UTF-16.
        assignments: settings by dotted name, for instance ``{"training.epochs": 1}``.
        overwrite: replace an adapted encoder in ``out``, and discard an unfinished one made of other texts.
        progress: called with stage, units done, units in all or 0, and a note.
        on_plan: called with the plan before training starts.

    Raises:
        DataError: the texts cannot be used.
        UsageError: a column, setting, folder or model that makes no sense.
        ResourceError: memory, disk, time or the base model are not there.
        TrainingError: a loss that is not a number.
        Interrupted: Ctrl-C or SIGTERM; the state was saved.
    """
    from textlora import allocation
    from textlora.adaptation import folders, preparing, running
    from textlora.bundles import base_fingerprint

    began = time.monotonic()
    allocation.keep_freed_memory()
    request = _request(data, base_model, text, encoding, assignments)
    place = folders.Place.beside(Path(out))
    folders.check_out(place.out, request.info, overwrite=overwrite)
    with folders.only_one(place):
        asked = folders.request_of(
            request.info, base_fingerprint(request.info.folder), request.settings, request.sources
        )
        folders.take_up(place, asked, overwrite=overwrite)
        job = preparing.prepare(request, place, progress=progress or _silent, began=began)
        if on_plan:
            on_plan(job.plan)
        return running.train(job)


def plan(
    data: Any,
    *,
    base_model: str | None = None,
    text: str | None = None,
    encoding: str | None = None,
    assignments: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> AdaptationPlan:
    """Return what ``adapt`` would do and what it takes, measured in a few passes; nothing is kept.

    The arguments and errors are those of ``adapt``.
    """
    from textlora.adaptation import folders, preparing

    began = time.monotonic()
    request = _request(data, base_model, text, encoding, assignments)
    with tempfile.TemporaryDirectory() as scratch:
        place = folders.Place(Path(scratch) / "encoder", Path(scratch))
        return preparing.prepare(request, place, progress=progress or _silent, began=began).plan


def load_adaptation(folder: str | Path) -> Adaptation:
    """Read how an adapted encoder was made.

    Raises:
        UsageError: the folder holds none, or one of another version.
    """
    from textlora import storage
    from textlora.adaptation import folders

    return storage.read_noun(Path(folder) / folders.ADAPTATION, Adaptation, made_by="adapt")


def _request(
    data: Any, base_model: str | None, text: str | None, encoding: str | None, assignments: Mapping[str, Any] | None
) -> Any:
    """Check everything that can be checked before a text is read."""
    import os

    from textlora.adaptation import preparing
    from textlora.adaptation.settings import build
    from textlora.adaptation.sources import open_sources
    from textlora.errors import UsageError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("adapt runs in one process.", hint="Start it without torchrun or accelerate launch.")
    settings = build(assignments or {})
    sources = open_sources(data, text=text, encoding=encoding)
    return preparing.Request(sources, preparing.make_info(base_model), settings)


def _silent(*_: object) -> None:
    """Report nothing."""
