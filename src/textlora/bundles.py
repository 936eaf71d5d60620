"""The bundle: where a saved classifier lies, what is read of it, and the base model it needs. Without weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from textlora import __version__, models, storage
from textlora.errors import ResourceError, UsageError
from textlora.exports import Exports
from textlora.types import Bundle, Dataset, Plan
from textlora.windows import LengthPolicy

BUNDLE = "textlora.json"
WEIGHTS = "adapter_model.safetensors"


def find_bundle(folder: Path) -> Path:
    """Return the bundle folder in or under ``folder``.

    Raises:
        UsageError: there is none; says what there is instead.
    """
    for candidate in (folder, folder / storage.ADAPTER):
        if (candidate / BUNDLE).exists():
            return candidate
    if not folder.exists():
        raise UsageError(
            f"There is no folder {folder}.", hint="Give the run folder that `textlora fit` or `textlora train` made."
        )
    if (folder / storage.DATASET).exists():
        raise UsageError(
            f"{folder} has data but no trained classifier yet.", hint=f"Run `textlora train {folder}` first."
        )
    raise UsageError(
        f"{folder} holds no classifier of textlora.",
        hint="Give the run folder that `textlora fit` or `textlora train` made.",
    )


def read_bundle(folder: Path) -> Bundle:
    """Read the description of the classifier in ``folder``.

    Raises:
        UsageError: it is missing or damaged.
    """
    bundle = storage.read_noun(folder / BUNDLE, Bundle, made_by="train")
    _check_decision(folder / BUNDLE, bundle)
    return bundle


def _check_decision(path: Path, bundle: Bundle) -> None:
    if not 0 < bundle.temperature < np.inf:
        raise UsageError(
            f"{path} is damaged: the temperature is {bundle.temperature:g}, expected a number above 0.",
            hint="Run `textlora train` again.",
        )
    if bundle.decision and bundle.decision.positive not in bundle.label_names:
        raise UsageError(
            f"{path} is damaged: a threshold for {bundle.decision.positive!r}, which is no label.",
            hint="Run `textlora train` again.",
        )
    if bundle.thresholds and len(bundle.thresholds) != len(bundle.label_names):
        raise UsageError(
            f"{path} is damaged: {len(bundle.thresholds)} thresholds for {len(bundle.label_names)} labels.",
            hint="Run `textlora train` again.",
        )


def source_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a bundle's own files: weights, labels and decision."""
    return storage.fingerprint([storage.file_fingerprint(folder / name) for name in (BUNDLE, WEIGHTS)])


def exports_of(run: Path, folder: Path | None = None) -> Exports | None:
    """Return the exports that were made of a run's classifier as it is now, or None.

    Args:
        run: the run folder.
        folder: its bundle.

    Raises:
        UsageError: their file is damaged.
    """
    file, source = run / storage.EXPORTS, folder or run / storage.ADAPTER
    if not file.exists() or not (source / WEIGHTS).exists():
        return None
    known = storage.read_noun(file, Exports, made_by="export")
    return known if known.source == source_fingerprint(source) else None


def find_base(bundle: Bundle, folder: Path) -> Path:
    """Return the base model's folder of the bundle in ``folder``.

    A local one that is not where it was is looked for beside the run folder: both may have moved together.

    Raises:
        ResourceError: it is in neither place, or cannot be downloaded.
    """
    if bundle.revision != "local":
        revision = None if bundle.revision == "embedded" else bundle.revision
        return models.model_folder(bundle.base_model, revision)[0]
    known = Path(bundle.base_model)
    run = folder.absolute().parent if folder.name == storage.ADAPTER else folder.absolute()
    beside = run.parent / known.name
    for candidate in (known, beside):
        if candidate.is_dir():
            return models.model_folder(str(candidate))[0]
    raise ResourceError(
        f"The base model of this classifier, {known}, is not there, nor {beside}.",
        hint="Put the encoder's folder back, or beside the run folder under the same name.",
    )


def base_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a base model's weight files."""
    files = sorted(folder.glob("*.safetensors"))
    return storage.fingerprint([part for file in files for part in (file.name, storage.file_fingerprint(file))])


def check_base(base: Path, bundle: Bundle) -> None:
    """Compare a base model's weights with those that the classifier was trained on.

    Raises:
        ResourceError: they are others.
    """
    if base_fingerprint(base) != bundle.base_fingerprint:
        raise ResourceError(
            f"The weights of the base model {bundle.base_model!r} are not the ones the classifier was trained on.",
            hint="Restore the original base model, or train again.",
        )


def make_bundle(
    plan: Plan, base: models.BaseInfo, dataset: Dataset, *, attention: str, budget: int | None = None
) -> Bundle:
    """Collect what must travel with the weights.

    Args:
        plan: what was trained.
        base: the base model.
        dataset: what it was trained on.
        attention: the kernel to predict with.
        budget: tokens per micro-batch where memory ran out or is limited.
    """
    settings = plan.settings
    policy = LengthPolicy.of_settings(settings.text, max_length=base.max_length)
    return Bundle(
        base_model=base.name if base.revision != "local" else str(base.folder.resolve()),
        revision=base.revision,
        base_fingerprint=base_fingerprint(base.folder),
        label_names=dataset.label_names,
        task=dataset.task,
        policy=policy.policy,
        max_length=policy.max_length,
        head_tokens=policy.head_tokens,
        window_overlap=policy.window_overlap,
        max_windows=policy.max_windows,
        precision=settings.compute.precision or "fp32",
        attention=attention,
        bits=settings.quantization.bits,
        textlora_version=__version__,
        text_column=dataset.info.text_column,
        tokens_per_micro_batch=budget,
    )
