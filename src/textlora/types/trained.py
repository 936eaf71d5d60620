"""The nouns of training: the run, and the bundle that travels with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textlora.decision import Abstention, Calibration, Decision
from textlora.settings import Policy
from textlora.types.data import Task


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """Memory ran out, and the work went on in smaller micro-batches.

    Attributes:
        step: the optimiser step that was under way; 0 outside of training.
        stage: ``training``, ``validation``, ``frozen layers`` or ``prediction``.
        kind: ``memory`` or ``GPU memory``.
        message: first line of the error.
        before: tokens per micro-batch that were too many; 0 is no limit.
        after: tokens per micro-batch from then on.
    """

    step: int
    stage: str
    kind: str
    message: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run, as ``run.json`` keeps it. Seconds, GB (10**9 bytes).

    ``history`` holds Trainer's log entries in order: ``step``, ``epoch`` and ``loss`` +
    ``learning_rate`` for training, or ``eval_loss``, ``eval_accuracy``, … for validation.
    ``final_training_loss`` is the mean over the last tenth of the steps, ``mean_training_loss``
    over all of them (what Trainer calls ``train_loss``). ``memory_events`` are in the order they happened.
    """

    folder: Path
    base_model: str
    architecture: str
    recipe: str
    seed: int
    label_names: tuple[str, ...]
    history: tuple[Mapping[str, float], ...]
    epochs: float
    steps: int
    best_step: int
    best_metric: float
    final_training_loss: float
    mean_training_loss: float
    total_parameters: int
    trainable_parameters: int
    seconds: float
    cpu_seconds: float
    peak_memory_gb: float
    tokens_per_second: float
    reload_difference: float
    stopped_early: bool
    versions: Mapping[str, str]
    dataset_fingerprint: str
    plan_fingerprint: str
    command: str = ""
    bits: int | None = None
    """Bits of the quantized base weights, or None."""
    drift: Drift | None = None
    """What full-precision base weights would change, where they were quantized in training."""
    memory_events: tuple[MemoryEvent, ...] = ()
    stage_seconds: float = 0.0
    """Seconds of the whole stage: tokenizing, training, saving and the reload in a fresh process. What an
    earlier process did before a resume is not in it."""
    predicted_seconds: float = 0.0
    """What the plan said that the stage would take."""
    predicted_memory_gb: float = 0.0
    """The same for its peak of memory."""
    peak_gpu_memory_gb: float = 0.0
    """The most that PyTorch had reserved of a CUDA GPU; 0 where none was used."""
    predicted_gpu_memory_gb: float = 0.0
    """What the plan said of that."""

    @property
    def trainable_share(self) -> float:
        """Share of the parameters that was trained, 0 to 1."""
        return self.trainable_parameters / self.total_parameters


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the answers move when quantized base weights are replaced by the full-precision ones.

    Attributes:
        split: where the compared texts come from.
        texts: how many were compared.
        largest: largest absolute difference of a logit.
        mean: mean absolute difference of the logits.
        flipped: texts that get another label.
        accuracy: share of right labels with the quantized base, as trained.
        accuracy_full: the same with the full-precision base.
    """

    split: str
    texts: int
    largest: float
    mean: float
    flipped: int
    accuracy: float
    accuracy_full: float

    def __str__(self) -> str:
        """Return the drift as one sentence."""
        return (
            f"on {self.texts:,} {self.split} texts logits move by {self.mean:.2g} on average, {self.largest:.2g} at most; "
            f"{self.flipped:,} {'label changes' if self.flipped == 1 else 'labels change'}, accuracy {self.accuracy:.4f} -> {self.accuracy_full:.4f}"
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a saved classifier needs besides its weights and tokenizer; ``textlora.json``.

    Attributes:
        base_model: hub id, folder or ``embedded``.
        revision: the hub commit, ``local`` or ``embedded``.
        base_fingerprint: SHA-256 of the base model's weights.
        policy: what is kept of long texts (``head``, ``tail``, ``head+tail``, ``windows``).
        max_length: tokens per forward pass, special ones included.
        head_tokens: tokens from the start under ``head+tail``.
        precision: arithmetic of the frozen part in training, and so in prediction.
        attention: attention kernel.
        textlora_version: the version that saved it.
    """

    base_model: str
    revision: str
    base_fingerprint: str
    label_names: tuple[str, ...]
    task: Task
    policy: Policy
    max_length: int
    head_tokens: int
    precision: str
    attention: str
    textlora_version: str
    bits: int | None = None
    """Bits of the quantized base weights that it was trained over, or None."""
    drift: Drift | None = None
    """What full-precision base weights change, where it was trained over quantized ones."""
    text_column: str = ""
    """Name of the text column in the training file, the first guess for files to score."""
    window_overlap: int = 0
    """Tokens that neighbouring windows share at least, under ``windows``."""
    max_windows: int = 1
    """Windows of a text at most, under ``windows``."""
    tokens_per_micro_batch: int | None = field(default=None, repr=False)
    """The most in a prediction, where memory ran out in training or is limited. It changes no answer, hence no fingerprint."""
    thresholds: tuple[float, ...] = ()
    """Probability from which each class is given in multi-label data, in the order of the names; 0.5 without any."""
    thresholds_goal: str = "f1"
    """What these were fitted for."""
    calibration: Calibration | None = None
    """How the temperature was chosen, where one was looked for."""
    decision: Decision | None = None
    """The threshold between two labels, where one was fitted; the most probable label is given without any."""
    abstention: Abstention | None = None
    """When the classifier says that it is not sure; never without it."""
    format: str = field(default="adapter", repr=False)
    """What the weights beside it are: ``adapter``, to be put onto the base model, or whole ones, one of ``exports.FORMATS``."""
    folded_temperature: float = field(default=1.0, repr=False)
    """What the last layer of whole weights is divided by already; logits are multiplied by it to be as they were."""

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities; 1 changes nothing."""
        return self.calibration.temperature if self.calibration else 1.0
