"""report(): what a run is worth, on one page, in Markdown and as a model card."""

from __future__ import annotations

from pathlib import Path

from textlora import storage
from textlora.errors import UsageError
from textlora.exports import Exports
from textlora.repeated import Folds, Seeds
from textlora.types import Dataset, Evaluation, Plan, Run

__all__ = ["report"]


def report(  # noqa: PLR0913 - the nouns of a run
    folder: Path,
    *,
    dataset: Dataset,
    plan: Plan,
    run: Run,
    evaluation: Evaluation,
    seeds: Seeds | None = None,
    folds: Folds | None = None,
    exports: Exports | None = None,
) -> Path:
    """Write ``report.html``, ``report.md`` and ``model_card.md`` into ``folder``.

    Each file is written whole or not at all, and the three are written only when all could be
    made. The same nouns give the same bytes.

    Returns:
        The path of ``report.html``.

    Raises:
        UsageError: plan, run or evaluation belong to other data.
        ResourceError: the folder cannot be written.
    """
    from textlora.reporting import page
    from textlora.reporting.facts import Facts

    _check_match(folder, dataset, plan, run, evaluation)
    facts = Facts(dataset, plan, run, evaluation, seeds, folds, exports)
    texts = {
        storage.REPORT_MARKDOWN: page.markdown(facts),
        storage.MODEL_CARD: page.model_card(facts),
        storage.REPORT_HTML: page.html(facts),
    }
    storage.make_folder(folder)
    for name, text in texts.items():
        storage.write_text(folder / name, text)
    return folder / storage.REPORT_HTML


def _check_match(folder: Path, dataset: Dataset, plan: Plan, run: Run, evaluation: Evaluation) -> None:
    """Refuse to tell one story from files of two."""
    parts: dict[str, Plan | Run | Evaluation] = {storage.PLAN: plan, storage.RUN: run, storage.EVALUATION: evaluation}
    problems = [
        f"{folder / name} was made from other data than {dataset.folder / storage.DATASET} describes."
        for name, part in parts.items()
        if part.dataset_fingerprint != dataset.fingerprint
    ]
    if problems:
        raise UsageError(
            "These files do not belong together:",
            problems=problems,
            hint="Run the stages again in order: plan, train, evaluate, report.",
        )
