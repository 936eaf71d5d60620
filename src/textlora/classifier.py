"""``Classifier``: the one public object with weights. Predict, save, load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import allocation, deciding, engines, explanation, storage, windows
from textlora.bundles import BUNDLE, find_bundle, read_bundle
from textlora.errors import UsageError
from textlora.memory import Budget, Pass
from textlora.tokenization import TextTokenizer, Tokenized
from textlora.types import Bundle, Explanation, Prediction
from textlora.windows import LengthPolicy

Progress = Callable[[int, int], None]
Probabilities = NDArray[np.float64]

# Texts sorted by length together; enough for tight micro-batches, little enough to hold.
BLOCK = 2_048


class Classifier:
    """A fine-tuned text classifier.

    Args:
        model: encoder with adapters and head, in the order of ``bundle.label_names``; a torch module, or
            an ``Engine`` around something else that computes logits.
        tokenizer: cuts texts as in training.
        bundle: everything else that must travel with the weights.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, bundle: Bundle) -> None:
        self.engine = engines.wrap(model, bundle, tokenizer)
        self.tokenizer = tokenizer
        self.bundle = bundle
        self._budget: Budget | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> Classifier:
        """Load a run folder, a saved bundle or an export.

        Exports in ONNX load neither torch nor transformers.

        Args:
            folder: ``runs/reviews``, its ``adapter`` folder, what ``save_pretrained`` or ``textlora export`` wrote.
            device: ``cpu``, ``cuda`` or ``mps``; by default the fastest there is.

        Raises:
            UsageError: there is no classifier in the folder, its description is damaged, or ONNX is asked to
                compute on another device than the processor.
            ResourceError: its base model is missing or is another one than in training, or weights are damaged.
        """
        allocation.keep_freed_memory()
        path = find_bundle(Path(folder))
        bundle = read_bundle(path)
        tokenizer = TextTokenizer.load_saved(path, LengthPolicy.of_bundle(bundle), base_model=bundle.base_model)
        return cls(engines.load(path, bundle, tokenizer, device=device), tokenizer, bundle)

    @property
    def model(self) -> Any:
        """What computes the logits, in the terms of the library that does it: a torch module for an adapter."""
        return self.engine.model

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.engine.device

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
        return storage.fingerprint([repr(self.bundle), *self.engine.weights()])

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
        with self.engine.ready():
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
            batches = [rows[batch] for batch in self.engine.cut(lengths[rows], self.budget.tokens)]
            # Several at once need the memory of several.
            together = len(batches) > 1 and not self.budget.events
            results = self._results([[block.ids[row] for row in batch] for batch in batches], together=together)
            for batch in batches:
                under_way.holds(len(batch), self.engine.tokens(lengths[batch]), alone=not together)
                logits[batch] = next(results)
                waiting[batch] = False
                tell(len(waiting) - int(waiting.sum()))

        self.budget.run(work, stage="prediction")

    def _results(self, batches: Sequence[Sequence[Any]], *, together: bool) -> Iterator[Probabilities]:
        """Yield the logits of each micro-batch; ``together`` computes them side by side where that is faster."""
        pieces = [partial(self._batch_logits, batch) for batch in batches]
        return self.engine.together(pieces) if together else (piece() for piece in pieces)

    @property
    def budget(self) -> Budget:
        """Tokens per micro-batch: what suits the device, less where memory has run out."""
        if self._budget is None:
            usual = self.engine.usual_tokens
            self._budget = Budget(min(usual, self.bundle.tokens_per_micro_batch or usual))
        return self._budget

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

    def _batch_logits(self, ids: Sequence[Any]) -> Probabilities:
        pieces, counts = windows.split_all(ids, self.max_length)
        return windows.pool(self.engine.logits(pieces), counts) * self.bundle.folded_temperature

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the bundle: weights, tokenizer, labels, length policy, decision. Whole or not at all.

        Raises:
            UsageError: the folder holds other files, which saving would replace.
            ResourceError: the folder cannot be written.
        """
        target = Path(folder)
        _check_target(target)
        storage.make_folder(target.parent)
        with storage.atomic_folder(target) as temporary:
            self.engine.save(temporary)
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
