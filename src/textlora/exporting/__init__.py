"""``export``: the trained classifier in other tools' formats, none of them without proof that it answers alike.

merging     adapters into weights, temperature into the head
onnx_file   weights to ONNX, in fp32 or in 8 bits
first_token the last layer for the row that the head reads
gate        the export beside the classifier, on texts of the run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from textlora import engines, models, storage
from textlora.bundles import BUNDLE, exports_of, find_bundle, read_bundle, source_fingerprint
from textlora.classifier import Classifier
from textlora.errors import TrainingError, UsageError, did_you_mean
from textlora.exporting import gate, merging, onnx_file
from textlora.exports import FORMATS, Exported, Exports, Parity
from textlora.tokenization import TextTokenizer
from textlora.types import Bundle
from textlora.windows import LengthPolicy

__all__ = ["FORMATS", "Exported", "export"]

INT8 = "onnx-int8"
OURS = (BUNDLE, "model.onnx", "model.onnx.data")


def export(
    folder: Path,
    *,
    to: str = "hf",
    out: Path | None = None,
    tolerance: float | None = None,
    progress: gate.Tell | None = None,
) -> Exported:
    """Write the classifier for other tools; nothing is written unless it answers as the classifier does.

    ``hf``         a merged Hugging Face folder: ``pipeline("text-classification", folder)`` loads it without PEFT
    ``onnx``       ``model.onnx`` in fp32, with configuration and tokenizer
    ``onnx-int8``  the same with products in 8 bits

    All of them open with ``Classifier.from_pretrained``, which cuts long texts, applies thresholds and abstains as
    before. In every format the temperature is folded into the last layer of the head, so that other tools give
    calibrated probabilities.

    Args:
        folder: a run folder or a bundle.
        to: the format.
        out: target folder; ``export/FORMAT`` in ``folder`` by default.
        tolerance: points of accuracy that ``onnx-int8`` may lose at most; 0.3 by default.
        progress: called with stage, texts done, their number and a note.

    Raises:
        UsageError: unknown format, no classifier in ``folder``, ``out`` holds other files, or 8 bits are asked
            for without data to compare on.
        ResourceError: the base model is missing or is another one than in training, or packages for ONNX are.
        TrainingError: the export answers otherwise than the classifier.
    """
    path, bundle, allowed = _checked(folder, to, tolerance)
    target = out or folder / storage.EXPORT / to
    _check_target(target)
    run = path.parent if path.name == storage.ADAPTER else path
    found = gate.sample(run, most=gate.ROWS[to])
    if to == INT8 and not found.labels:
        raise UsageError(
            f"{path} lies beside no data that 8 bits could be judged on.",
            hint="Export from the run folder with its data as it was trained, or choose --to onnx.",
        )
    tokenizer = TextTokenizer.load(path, LengthPolicy.of_bundle(bundle), base_model=bundle.base_model)
    model, drift = merging.merge(path, bundle, tokenizer, target)
    storage.make_folder(target.parent)
    with storage.atomic_folder(target) as temporary:
        _write(model, temporary, to)
        del model
        _write_rest(tokenizer, bundle, to, temporary)
        exact = _in_fp32(path, bundle, tokenizer) if to != INT8 else None
        parity = _compared(path, temporary, found, exact=exact, tell=progress)
        refusals = gate.refusals(parity, to, tolerance=allowed)
        parity = replace(parity, tolerance=allowed if to == INT8 else None, refusals=refusals)
        size = sum(file.stat().st_size for file in temporary.iterdir())
        made = Exported(target, to, parity.largest, drift, parity, size)
        _note(run, path, made)
        if refusals:
            raise _refused(made)
    return made


def _checked(folder: Path, to: str, tolerance: float | None) -> tuple[Path, Bundle, float]:
    """Return the bundle's folder, the bundle, and the loss allowed as a share."""
    if to not in FORMATS:
        raise UsageError(
            f"There is no export format {to!r}.{did_you_mean(to, FORMATS)}", hint=f"Formats: {', '.join(FORMATS)}."
        )
    if tolerance is not None and to != INT8:
        raise UsageError(f"A tolerance of accuracy holds for {INT8} alone; {to} is held to the logits.")
    if tolerance is not None and not 0 < tolerance <= 100:  # noqa: PLR2004 - points
        raise UsageError(f"The tolerance is {tolerance:g}, expected points of accuracy, above 0 and at most 100.")
    path = find_bundle(folder)
    bundle = read_bundle(path)
    if bundle.format != "adapter":
        raise UsageError(f"{path} is an export already, in the format {bundle.format}.", hint="Give the run folder.")
    if to != "hf":
        onnx_file.check_packages()
    return path, bundle, gate.TOLERANCE if tolerance is None else tolerance / 100


def _check_target(target: Path) -> None:
    """Let only a new or empty folder or an older export be replaced, nothing else of the user's."""
    found = sorted(storage.make_folder(target).iterdir()) if target.exists() else []
    known: Sequence[str] = (*models.FILES, *OURS)
    foreign = [file.name for file in found if not any(fnmatch(file.name, pattern) for pattern in known)]
    if foreign:
        raise UsageError(
            f"{target} holds {foreign[0]}, which an export would replace.", hint="Choose a new or an empty folder."
        )


def _write(model: Any, folder: Path, to: str) -> None:
    if to == "hf":
        merging.save(model, folder)
    else:
        onnx_file.write(model, folder, int8=to == INT8)


def _compared(
    path: Path, written: Path, found: gate.Sample, *, exact: Classifier | None, tell: gate.Tell | None
) -> Parity:
    original, opened = (Classifier.from_pretrained(folder, device="cpu") for folder in (path, written))
    return gate.judge(original, opened, found, exact=exact, tell=tell)


def _write_rest(tokenizer: TextTokenizer, bundle: Bundle, to: str, folder: Path) -> None:
    """Write the tokenizer, and the bundle that says what the weights are now."""
    tokenizer.tokenizer.model_max_length = bundle.max_length
    tokenizer.save(folder)
    # An export is carried away: a folder of this machine would tell others nothing.
    name = Path(bundle.base_model).name if bundle.revision == "local" else bundle.base_model
    whole = replace(
        bundle, base_model=name, format=to, precision="fp32", bits=None, folded_temperature=bundle.temperature
    )
    storage.write_noun(folder / BUNDLE, whole)


def _in_fp32(path: Path, bundle: Bundle, tokenizer: TextTokenizer) -> Classifier | None:
    """Return the adapters over the base model in fp32, where the classifier computes otherwise."""
    if bundle.precision == "fp32" and bundle.bits is None:
        return None
    plain = replace(bundle, precision="fp32", bits=None)
    return Classifier(engines.load(path, plain, tokenizer, device="cpu"), tokenizer, plain)


def _note(run: Path, path: Path, made: Exported) -> None:
    """Keep in the run folder how the export answered, for the report."""
    if (run / storage.RUN).exists():
        known = exports_of(run, path) or Exports(source_fingerprint(path))
        storage.write_noun(run / storage.EXPORTS, known.with_one(made))


def _refused(made: Exported) -> TrainingError:
    found = made.parity
    hint = ""
    if found is not None and made.format == INT8:
        hint = (
            f"Nothing was written. Choose --to onnx, which is exact, compare on more rows (a larger test split), "
            f"or allow a larger loss: --tolerance {gate.least_tolerance(found):g} would have passed."
        )
    return TrainingError(
        f"The export {made.format} does not answer as the classifier does:",
        problems=found.refusals if found else (),
        hint=hint or "Nothing was written. Please report this with the base model's name.",
    )
