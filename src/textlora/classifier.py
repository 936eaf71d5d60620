"""``Classifier``: the one public object with weights. Predict, save, load."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textlora import __version__, allocation, deciding, encoder, explanation, models, storage, windows
from textlora.batching import micro_batches, packed_batches, padded_tokens
from textlora.encoder import EncoderSpec
from textlora.errors import ResourceError, TextloraWarning, TrainingError, UsageError
from textlora.extras import QLORA
from textlora.memory import Budget, Pass
from textlora.tasks import label_matrix
from textlora.threads import side_by_side
from textlora.tokenization import TextTokenizer, Tokenized
from textlora.types import Bundle, Dataset, Drift, Explanation, Plan, Prediction, Split
from textlora.windows import LengthPolicy

BUNDLE = "textlora.json"
Progress = Callable[[int, int], None]
Probabilities = NDArray[np.float64]

# Texts sorted by length together; enough for tight micro-batches, little enough to hold.
BLOCK = 2_048
# Enough for the drift's size; its accuracies are rough.
DRIFT_TEXTS = 500
TOKENS_PER_MICRO_BATCH = {"cpu": 4_096, "mps": 8_192, "cuda": 65_536}


class Classifier:
    """A fine-tuned text classifier.

    Args:
        model: encoder with adapters and head, in the order of ``bundle.label_names``.
        tokenizer: cuts texts as in training.
        bundle: everything else that must travel with the weights.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, bundle: Bundle) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bundle = bundle
        encoder.use_kernel(model, bundle.attention)
        self._budget: Budget | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> Classifier:
        """Load a run folder or a saved bundle.

        Args:
            folder: ``runs/reviews``, its ``adapter`` folder, or what ``save_pretrained`` wrote.
            device: ``cpu``, ``cuda`` or ``mps``; by default the fastest there is.

        Raises:
            UsageError: there is no classifier in the folder, or its description is damaged.
            ResourceError: its base model is missing or is another one than in training.
        """
        allocation.keep_freed_memory()
        path = find_bundle(Path(folder))
        bundle = storage.read_noun(path / BUNDLE, Bundle, made_by="train")
        _check_thresholds(path / BUNDLE, bundle)
        base = find_base(bundle, path)
        check_base(base, bundle)
        tokenizer = TextTokenizer.load_saved(path, LengthPolicy.of_bundle(bundle), base_model=bundle.base_model)
        bits = usable_bits(bundle)
        spec = EncoderSpec(base, bundle.label_names, bundle.precision, bundle.attention, bits=bits, task=bundle.task)
        model = encoder.load_for_prediction(spec, path)
        return cls(model.to(device or best_device(quantized=bits is not None)).eval(), tokenizer, bundle)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label names; column j of the probabilities belongs to name j."""
        return self.bundle.label_names

    @property
    def max_length(self) -> int:
        """Tokens per forward pass, special ones included."""
        return self.tokenizer.max_length

    @property
    def whole_length(self) -> int:
        """Tokens up to which a text is seen whole; longer texts are cut by the bundle's policy."""
        return self.tokenizer.policy.whole(self.tokenizer.specials)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the trained weights and the bundle."""
        state = encoder.trained_weights(self.model)
        weights = [
            part for name in sorted(state) for part in (name, state[name].detach().float().cpu().numpy().tobytes())
        ]
        return storage.fingerprint([repr(self.bundle), *weights])

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]:
        """Return label and probabilities of each text, in order.

        Args:
            texts: any strings; long ones are cut by the bundle's policy and marked ``truncated``.
            progress: called with the texts done and the number of texts.

        Raises:
            ResourceError: memory ran out, and smaller micro-batches did not help.
        """
        logits, truncated = self._forward(_as_list(texts), progress)
        probabilities = self.probabilities(logits)
        chosen, candidates = self.decide(probabilities), deciding.candidates(probabilities, self.bundle)
        rows = zip(probabilities, chosen, candidates, truncated, strict=True)
        return [self._prediction(row, given, left, truncated=bool(cut)) for row, given, left, cut in rows]

    def predict_proba(self, texts: Sequence[str], *, progress: Progress | None = None) -> Probabilities:
        """Return the probabilities (N, C) of each text, in the order of ``label_names``.

        They sum to 1 in each row; in multi-label data each one stands on its own.
        """
        return self.probabilities(self._forward(_as_list(texts), progress)[0])

    def logits(self, texts: Sequence[str], *, progress: Progress | None = None) -> Probabilities:
        """Return the head's raw outputs (N, C), before the temperature; under ``windows`` their mean over a text."""
        return self._forward(_as_list(texts), progress)[0]

    def probabilities(self, logits: Probabilities) -> Probabilities:
        """Turn what ``logits`` returns (N, C) into what ``predict_proba`` returns (N, C)."""
        return deciding.probabilities_of(logits, self.bundle)

    def explain(
        self,
        texts: Sequence[str],
        *,
        label: str | None = None,
        top_k: int | None = None,
        forwards: int = explanation.FORWARDS,
    ) -> list[Explanation]:
        """Return which words carried the decision on each text, found by leaving them out.

        Args:
            texts: any strings.
            label: whose probability is explained; by default the one that each text is given, in
                multi-label data its most probable one.
            top_k: keep only so many spans with the largest weights; all by default.
            forwards: texts at most that are classified to explain one; a text with more words is
                searched from its strongest passages to their words.

        Raises:
            UsageError: no such label, ``top_k`` below 1 or ``forwards`` below 4.
            ResourceError: memory ran out, and smaller micro-batches did not help.
        """
        given = _as_list(texts, "explain")
        chosen: str | list[int] | None = label
        if label is None and self.bundle.decision:
            chosen = self.decide(self.predict_proba(given)).argmax(1).tolist()
        return explanation.explain(
            self.predict_proba, given, self.label_names, label=chosen, top_k=top_k, forwards=forwards
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text before any cut, special ones included."""
        return self.tokenizer.count(texts)

    def decide(self, probabilities: Probabilities) -> NDArray[np.bool_]:
        """Return which labels each row of probabilities (N, C) is given, (N, C); exactly one unless multi-label."""
        return deciding.decide(probabilities, self.bundle)

    def _prediction(
        self, row: Probabilities, given: NDArray[np.bool_], left: NDArray[np.bool_], *, truncated: bool
    ) -> Prediction:
        """Return the answer on a text from its probabilities, the labels given and those not ruled out, each (C,)."""
        labels, candidates = self._named(row, given), self._named(row, left)
        probabilities = {name: float(value) for name, value in zip(self.label_names, row, strict=True)}
        several = self.bundle.task == "multi_label"
        return Prediction(
            label=labels[0] if labels else "",
            probability=float(row.max()) if several else probabilities[labels[0]],
            probabilities=probabilities,
            truncated=truncated,
            labels=candidates,
            abstains=labels != candidates,
        )

    def _named(self, row: Probabilities, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        """Return the names of chosen labels, the most probable first."""
        places = np.flatnonzero(chosen)
        # Stable: the first of equals.
        return tuple(self.label_names[place] for place in places[np.argsort(-row[places], kind="stable")])

    def _forward(self, texts: list[str], progress: Progress | None) -> tuple[Probabilities, NDArray[np.bool_]]:
        logits = np.zeros((len(texts), len(self.label_names)))
        truncated = np.zeros(len(texts), dtype=bool)
        with encoder.arithmetic(self.bundle.precision):
            for start, block in self._tokenized(texts):
                rows = slice(start, start + len(block.ids))
                truncated[rows] = block.truncated
                self._work_off(block, logits[rows], partial(_tell_from, progress, start, len(texts)))
        return logits, truncated

    def _work_off(self, block: Tokenized, logits: Probabilities, tell: Callable[[int], None]) -> None:
        """Fill in the logits (N, C) of a block; what is done stays done when memory runs out."""
        lengths = block.lengths
        waiting = np.ones(len(lengths), dtype=bool)

        def work(under_way: Pass) -> None:
            rows = np.flatnonzero(waiting)
            batches = [rows[batch] for batch in self._cut(lengths[rows])]
            # Several at once need the memory of several.
            together = len(batches) > 1 and not self.budget.events
            results = self._results([[block.ids[row] for row in batch] for batch in batches], together=together)
            for batch in batches:
                under_way.holds(len(batch), self._tokens(lengths[batch]), alone=not together)
                logits[batch] = next(results)
                waiting[batch] = False
                tell(len(waiting) - int(waiting.sum()))

        self.budget.run(work, stage="prediction")

    def _results(self, batches: Sequence[Sequence[Any]], *, together: bool) -> Iterator[Probabilities]:
        """Yield the logits of each micro-batch; ``together`` computes them side by side on a CPU."""
        pieces = [partial(self._batch_logits, batch) for batch in batches]
        return side_by_side(pieces, on=self.model.device.type) if together else (piece() for piece in pieces)

    @property
    def budget(self) -> Budget:
        """Tokens per micro-batch: what suits the device, less where memory has run out."""
        if self._budget is None:
            usual = TOKENS_PER_MICRO_BATCH[self.model.device.type]
            self._budget = Budget(min(usual, self.bundle.tokens_per_micro_batch or usual))
        return self._budget

    def _tokens(self, lengths: NDArray[np.int64]) -> int:
        if encoder.runs_packed(self.model):
            return int(lengths.sum())
        return padded_tokens(lengths, self.max_length)

    def _tokenized(self, texts: list[str]) -> Iterator[tuple[int, Tokenized]]:
        """Yield the first index and the ids of each block; the next is tokenized while one is computed."""

        def encode(start: int) -> Tokenized:
            return self.tokenizer.encode(texts[start : start + BLOCK])

        if not texts:
            return
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = ahead.submit(encode, 0)
            for start in range(0, len(texts), BLOCK):
                block = coming.result()
                if start + BLOCK < len(texts):
                    coming = ahead.submit(encode, start + BLOCK)
                yield start, block

    def _cut(self, lengths: NDArray[np.int64]) -> list[list[int]]:
        if encoder.runs_packed(self.model):
            return packed_batches(lengths, self.budget.tokens)
        return micro_batches(lengths, self.budget.tokens, limit=self.max_length)

    def _batch_logits(self, ids: Sequence[Any]) -> Probabilities:
        pieces, counts = windows.split_all(ids, self.max_length)
        inputs = encoder.collate(
            pieces, self.tokenizer.pad_id, limit=self.max_length, packed_rows=encoder.runs_packed(self.model)
        )
        device = self.model.device
        moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
        with torch.inference_mode():
            output = self.model(**moved).logits
        return windows.pool(np.asarray(output.double().cpu().numpy()), counts)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the bundle: adapter, head, tokenizer, labels, length policy. Whole or not at all.

        Raises:
            UsageError: the folder holds other files, which saving would replace.
            ResourceError: the folder cannot be written.
        """
        target = Path(folder)
        _check_target(target)
        storage.make_folder(target.parent)
        with storage.atomic_folder(target) as temporary:
            # PEFT noted the cache path of this machine; others need the name.
            encoder.save_adapter(self.model, temporary, base_model=self.bundle.base_model)
            self.tokenizer.save(temporary)
            storage.write_noun(temporary / BUNDLE, self.bundle)
        return target


def _tell_from(progress: Progress | None, start: int, total: int, done: int) -> None:
    if progress:
        progress(start + done, total)


def _as_list(texts: Sequence[str], method: str = "predict") -> list[str]:
    if isinstance(texts, str):
        raise UsageError(f"{method} takes a list of texts, and got one text.", hint=f'Write {method}(["…"]).')
    found = list(texts)
    wrong = [f"text {index} is {type(text).__name__}" for index, text in enumerate(found) if not isinstance(text, str)]
    if wrong:
        raise UsageError("Every text must be a string:", problems=wrong[:5])
    return found


def _check_target(target: Path) -> None:
    """Let only a new or empty folder or an older bundle be replaced."""
    if target.exists() and any(storage.make_folder(target).iterdir()) and not (target / BUNDLE).exists():
        raise UsageError(
            f"{target} holds other files, which saving would replace.", hint="Choose a new or an empty folder."
        )


def _check_thresholds(path: Path, bundle: Bundle) -> None:
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


def best_device(*, quantized: bool = False) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``, the first there is; quantized weights stay off Apple GPUs."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not quantized else "cpu"


def usable_bits(bundle: Bundle) -> int | None:
    """Return the bits to quantize the base weights to, as in training where that can be done here.

    Without bitsandbytes the full-precision weights have to serve, and a warning says what that changes.
    """
    if bundle.bits is None or not QLORA.obstacle:
        return bundle.bits
    known = f" In training that was measured: {bundle.drift}." if bundle.drift else ""
    warnings.warn(
        f"The classifier was trained over {bundle.bits}-bit base weights, but {QLORA.obstacle}; "
        f"the full-precision weights are used instead.{known} For the same answers as in training: {QLORA.command}",
        TextloraWarning,
        stacklevel=3,
    )
    return None


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


def measure_drift(quantized: Classifier, full: Classifier, split: Split, *, name: str) -> Drift:
    """Compare the answers over quantized base weights with those over full-precision ones.

    Args:
        quantized: the classifier as trained.
        full: the same over the full-precision base weights, merged or not.
        split: rows to compare on; at most ``DRIFT_TEXTS`` of them, evenly spread.
        name: the split's name.
    """
    rows = range(0, len(split), -(-len(split) // DRIFT_TEXTS))
    texts = [split.texts[row] for row in rows]
    truth = label_matrix([split.labels[row] for row in rows], len(quantized.label_names))
    before, after = quantized.logits(texts), full.logits(texts)
    moved = np.abs(after - before)
    first, second = (quantized.decide(quantized.probabilities(logits)) for logits in (before, after))
    return Drift(
        split=name,
        texts=len(texts),
        largest=float(moved.max()),
        mean=float(moved.mean()),
        flipped=int((first != second).any(axis=1).sum()),
        accuracy=float((first == truth).all(axis=1).mean()),
        accuracy_full=float((second == truth).all(axis=1).mean()),
    )


def over_full_precision(classifier: Classifier, base: Path) -> Classifier:
    """Return the classifier's adapters and head over the base model's full-precision weights."""
    bundle = classifier.bundle
    spec = EncoderSpec(base, bundle.label_names, bundle.precision, bundle.attention, task=bundle.task)
    with tempfile.TemporaryDirectory() as scratch:
        encoder.save_adapter(classifier.model, Path(scratch), base_model=bundle.base_model)
        model = encoder.load_for_prediction(spec, Path(scratch))
    return Classifier(model.to(classifier.model.device).eval(), classifier.tokenizer, bundle)


def make_bundle(
    plan: Plan, base: models.BaseInfo, dataset: Dataset, *, attention: str, budget: int | None = None
) -> Bundle:
    """Collect what must travel with the weights.

    Args:
        plan: what was trained.
        base: the base model.
        dataset: what it was trained on.
        attention: the kernel to predict with.
        budget: tokens per micro-batch that were left where memory ran out.
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


RELOAD = (
    "import sys; from textlora.classifier import answer_reload; answer_reload(sys.argv[1], sys.argv[2], sys.argv[3])"
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
        device = classifier.model.device.type
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
    loaded = Classifier.from_pretrained(folder, device=classifier.model.device.type)
    return float(np.abs(loaded.logits(texts) - classifier.logits(texts)).max(initial=0.0))
