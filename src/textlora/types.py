"""The nouns: frozen, JSON-able, without torch.

    rows -> Dataset -> Plan -> Run -> Evaluation -> report
                               └──> Classifier -> Prediction

Derived values are properties and are never stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from textlora.decision import Abstention, Calibration, Decision, Trust
from textlora.interval import Interval as Interval  # noqa: PLC0414 - one of the nouns
from textlora.settings import Policy, Settings, flatten, show

Task = Literal["single_label", "multi_label"]
Label = int | tuple[int, ...]
"""The label of a row as an index into the label names; in multi-label data all of its labels, in order."""
SPLIT_NAMES = ("train", "validation", "test")
SLICE = "column:"
"""What stands before the name of a kept column in the files of a split."""


def headline_of(task: Task) -> str:
    """Return the name of the metric by which classifiers of a task are compared."""
    return "f1_macro" if task == "multi_label" else "accuracy"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text; ``label`` is an index into ``Dataset.label_names``, or several in multi-label data."""

    id: str
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split as parallel columns, in the order of the source file.

    The columns of prepared data read from the disk what is asked for: go through them or take
    slices, rather than making lists of them.

    Attributes:
        groups: which group each row belongs to, where ``--group`` named a column; a row without a
            value is a group of its own.
        near_duplicates: which rows have a near-duplicate somewhere in the data, where any row has.
        leaked: which rows of a given file have a near-duplicate in training.
        clusters: the number of each row's cluster of near-duplicates, where any row is in one; a row that is
            in none has a number of its own.
        slices: the columns that ``data.slice_columns`` keeps, by name; empty cells are ``""``.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[Label]
    groups: Sequence[str] | None = None
    near_duplicates: Sequence[bool] | None = None
    leaked: Sequence[bool] | None = None
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clusters: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Refuse columns of different length."""
        columns = (self.ids, self.texts, self.labels, *self.annotations().values())
        if len({len(column) for column in columns}) > 1:
            raise ValueError("the columns of a split differ in length")

    def annotations(self) -> dict[str, Sequence[str] | Sequence[bool] | Sequence[int]]:
        """Return the columns that not every split has, by name, where they are there."""
        found: dict[str, Sequence[str] | Sequence[bool] | Sequence[int] | None] = {
            "group": self.groups,
            "near_duplicate": self.near_duplicates,
            "leaked": self.leaked,
            "cluster": self.clusters,
        }
        kept = {f"{SLICE}{name}": column for name, column in self.slices.items()}
        return {name: column for name, column in found.items() if column is not None} | kept

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Example]:
        """Yield the rows one by one."""
        for row in zip(self.ids, self.texts, self.labels, strict=True):
            yield Example(*row)

    def class_counts(self, classes: int) -> tuple[int, ...]:
        """Return how many rows each of ``classes`` classes has."""
        counts: Counter[int] = Counter()
        for label in self.labels:
            counts.update((label,) if isinstance(label, int) else label)
        return tuple(counts[label] for label in range(classes))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the data stage noticed and the user should know.

    Attributes:
        kind: short stable name, for instance ``"duplicate"`` or ``"label_typo"``.
        level: ``"info"`` for facts, ``"warning"`` for what may hurt the result.
        message: one sentence for a person.
        count: rows concerned.
    """

    kind: str
    level: Literal["info", "warning"]
    message: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Exact accounting of the source rows: ``read == unsampled + quarantined + kept``.

    ``quarantined`` counts the rows by reason; ``unsampled`` are rows a sample left out.
    """

    read: int
    unsampled: int
    kept: int
    quarantined: Mapping[str, int] = field(default_factory=dict)

    @property
    def quarantined_total(self) -> int:
        """Rows that were read and set aside, all reasons together."""
        return sum(self.quarantined.values())


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """How long the kept texts are, in tokens with the special ones, before any cut.

    Attributes:
        base_model: whose tokenizer counted.
        max_length: the encoder's limit in tokens.
        quantiles: tokens at the 0, 10, 25, 50, 75, 90, 95, 99 and 100 percent quantile.
        mean: mean tokens per text, uncut.
        mean_cut: mean tokens per text after the cut to ``max_length``.
        rows_cut: texts longer than ``max_length``.
        tokens_cut_share: share of all tokens that the cut removes, 0 to 1.
        histogram: rows per bin of 32 tokens, the last bin open.
        rows_by_tokens: texts of each length; empty where files of older versions do not have it.
    """

    base_model: str
    max_length: int
    quantiles: tuple[int, ...]
    mean: float
    mean_cut: float
    rows_cut: int
    tokens_cut_share: float
    histogram: tuple[int, ...]
    rows_by_tokens: Mapping[int, int] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What ``dataset.json`` holds: everything about the data but the rows themselves."""

    source: str
    text_column: str
    label_column: str
    task: Task
    label_names: tuple[str, ...]
    seed: int
    counts: RowCounts
    split_counts: Mapping[str, tuple[int, ...]]
    """Rows of each class in each split, ``{"train": (8, 8), ...}``."""
    findings: tuple[Finding, ...]
    token_lengths: TokenLengths | None
    fingerprint: str
    options: Mapping[str, str | int | float | bool | tuple[str, ...] | None] = field(default_factory=dict)
    """The options that ``prepare`` was called with, to repeat it."""
    split_sha256: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each split's file, to see without reading the rows that they are the same."""
    split_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split in multi-label data, where a row counts for several classes or for none."""

    def rows_in(self, split: str) -> int:
        """Return the number of rows of a split."""
        return self.split_rows.get(split, sum(self.split_counts[split]))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Prepared data: three splits without a shared text, and what was found on the way."""

    folder: Path
    info: DatasetInfo
    train: Split
    validation: Split
    test: Split

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label names; their order fixes the class indices."""
        return self.info.label_names

    @property
    def task(self) -> Task:
        """``single_label`` or ``multi_label``; decided once, in ``prepare``."""
        return self.info.task

    @property
    def fingerprint(self) -> str:
        """SHA-256 over splits, texts, labels and label names."""
        return self.info.fingerprint

    def splits(self) -> dict[str, Split]:
        """Return the splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts and measured rates of the machine that a plan was made for.

    Rates are in GFLOP/s of a matrix product on all threads, by precision: ``"fp32"``,
    ``"fp32_onednn"``, ``"bf16"`` on the CPU, ``"gpu_fp32"``, ``"gpu_fp16"``, ``"gpu_bf16"`` on the
    GPU. ``gpu_capability`` is CUDA's; an Apple GPU has none.
    """

    processor: str
    cores: int
    memory_gb: float
    available_memory_gb: float
    gpu: str | None
    gpu_memory_gb: float | None
    gpu_capability: tuple[int, int] | None
    features: tuple[str, ...]
    rates: Mapping[str, float]
    platform: str
    gpu_available_memory_gb: float | None = None
    """What other processes leave of a CUDA GPU's memory, where that is known."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one layer in a pass over one micro-batch: once, by token and by pair of tokens.

    A text of T tokens has T * T pairs.
    """

    pass_seconds: float
    token_seconds: float
    pair_seconds: float


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a token costs on a machine, measured on a small model. Bytes and seconds.

    Attributes:
        train: a forward and a backward pass.
        validate: a forward pass beside training.
        predict: a forward pass on all cores at once, in the time of one.
        runtime_bytes: resident memory with all libraries and no model.
        kept_token_bytes: held for the backward pass, by token and layer; ``kept_pair_bytes`` by pair.
        passing_token_bytes: needed for a moment beside it, by token; ``passing_pair_bytes`` by pair.
        row_kernel_bytes: what the libraries keep for every further number of rows in a micro-batch;
            ``text_kernel_bytes`` for every further group of texts that attention works on together.
        import_seconds: to import all libraries.
        disturbed: whether other processes were computing meanwhile, so that times may be off.
    """

    train: Cost
    validate: Cost
    predict: Cost
    runtime_bytes: float
    kept_token_bytes: float
    kept_pair_bytes: float
    passing_token_bytes: float
    passing_pair_bytes: float
    row_kernel_bytes: float
    text_kernel_bytes: float
    import_seconds: float
    disturbed: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """What ``fit`` will take. Seconds, GB (10**9 bytes).

    ``memory_gb`` is the peak of the whole job's resident memory on the host, ``train_memory_gb`` that of
    training. ``gpu_memory_gb`` is the peak on a CUDA GPU, CUDA's context included, and
    ``train_gpu_memory_gb`` what PyTorch reserves of it in training, which is what can be measured; both are 0
    where none is used, and an Apple GPU shares the host's memory. The terms of each figure are in
    ``…_by_term``; ``docs/planning.md`` explains them. ``rehearsed`` says whether they rest on passes of a model
    with these shapes on this machine, or on rough rates; ``disturbed`` whether others were computing meanwhile.
    """

    train_seconds: float
    evaluate_seconds: float
    memory_gb: float
    disk_gb: float
    total_parameters: int
    trainable_parameters: int
    tokens_per_epoch: int
    steps: int
    report_seconds: float = 0.0
    train_memory_gb: float = 0.0
    rehearsed: bool = False
    disturbed: bool = False
    seconds_by_term: Mapping[str, float] = field(default_factory=dict)
    memory_by_term: Mapping[str, float] = field(default_factory=dict)
    disk_by_term: Mapping[str, float] = field(default_factory=dict)
    gpu_memory_gb: float = 0.0
    train_gpu_memory_gb: float = 0.0
    gpu_memory_by_term: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights_gb(self) -> float:
        """The weights, wherever training keeps them."""
        return (self.gpu_memory_by_term or self.memory_by_term)["weights"]

    @property
    def seconds(self) -> float:
        """Training, evaluation and report together."""
        return self.train_seconds + self.evaluate_seconds + self.report_seconds


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to train on the same data, and what it takes. Seconds, GB.

    ``how`` is the option that chooses it; empty for what textlora does not do.
    """

    name: str
    how: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Plan:
    """Every setting resolved, with a reason for each automatic value.

    ``reasons`` maps dotted names (``"lora.r"``) to a sentence. Nothing in ``settings`` is
    ``"auto"`` any more.
    """

    settings: Settings
    reasons: Mapping[str, str]
    recipe: str
    dataset_fingerprint: str
    classes: int
    machine: Machine
    estimate: Estimate
    alternatives: tuple[Alternative, ...] = ()

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, value and reason of every setting, as text."""
        values = flatten(self.settings)
        return [(name, show(name, value), self.reasons.get(name, "default")) for name, value in values.items()]

    def __str__(self) -> str:
        """Return every value with its reason, and the estimate."""
        rows, estimate = self.rows(), self.estimate
        wide, wider = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [f"{name:<{wide}}  {value:<{wider}}  {reason}".rstrip() for name, value, reason in rows]
        share = estimate.trainable_parameters / max(1, estimate.total_parameters)
        return "\n".join(
            [
                f"Plan by the recipe {self.recipe!r} for {self.machine.processor}, {self.machine.cores} cores",
                *lines,
                f"trained: {estimate.trainable_parameters:,} of {estimate.total_parameters:,} parameters ({share:.1%}) in {estimate.steps:,} steps",
                f"estimate: {estimate.train_seconds:,.0f} s to train, {estimate.evaluate_seconds:,.0f} s to evaluate, "
                f"{estimate.memory_gb:.1f} GB of memory, {estimate.disk_gb:.2f} GB of disk",
            ]
        )


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
    """The most that fitted, where memory ran out in training. It changes no answer, hence no fingerprint."""
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


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class; ``support`` is its number of rows."""

    label: str
    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """How often one label was given rightly, missed, and given wrongly, in multi-label data.

    ``threshold`` is the probability from which it is given.
    """

    label: str
    found: int
    missed: int
    wrong: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve (x false, y true positive rate) or a PR curve (x recall, y precision)."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    area: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The share of right rows in a part of them, held against the rest.

    Attributes:
        name: what the rows have in common: a range of tokens, a label, a group, a value, ``yes`` or ``no``.
        rows: how many they are.
        accuracy: share of them that is right, in multi-label data with all labels.
        kind: ``length``, ``truncated``, ``label``, ``near_duplicate``, ``group``, or ``column:`` and the name of a kept column.
        rest: the same share of the other rows; None where there are none.
        p_value: of the test that the two are equal, corrected for the number of parts.
        verdict: ``worse`` or ``better`` where the test says so; ``unknown`` where the part has too few
            rows to tell; else ``same``. Empty where nothing was tested.
    """

    name: str
    rows: int
    accuracy: Interval
    kind: str = "length"
    rest: float | None = None
    p_value: float | None = None
    verdict: Literal["worse", "better", "same", "unknown", ""] = ""


@dataclass(frozen=True, slots=True)
class Leakage:
    """What near-duplicates of training rows among the scored rows do to the scores.

    Attributes:
        rows: how many of the scored rows are leaked.
        accuracy: on the leaked rows alone.
        others: all metrics on the other rows, by name as in ``Evaluation``; empty where all rows are leaked.
    """

    rows: int
    accuracy: Interval
    others: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text, and what the decision is without it.

    Attributes:
        start: its first character.
        end: the character behind its last.
        weight: log(p / (1 - p)) of the label with the whole text minus the same without the span:
            above zero it spoke for the label, below against it. Weights do not add up: of two words
            that say the same, each can be spared.
        probability: p of the label without the span.
    """

    start: int
    end: int
    weight: float
    probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which parts of a text carried a decision.

    Attributes:
        text: the whole text.
        label: whose probability is explained.
        probability: what the whole text has.
        spans: in the order of the text, without overlap.
        complete: whether each word was left out on its own; in a long text only those of the
            strongest passages are, and the other spans are passages.
    """

    text: str
    label: str
    probability: float
    spans: tuple[Span, ...]
    complete: bool = True

    @property
    def strongest(self) -> tuple[Span, ...]:
        """The spans, those with the largest weights first, whether for or against the label."""
        return tuple(sorted(self.spans, key=lambda span: -abs(span.weight)))

    def words(self, span: Span) -> str:
        """Return the text of a span."""
        return self.text[span.start : span.end]

    def without(self, *spans: Span) -> str:
        """Return the text without some spans, which for one of them has its ``probability``."""
        return without(self.text, [(span.start, span.end) for span in spans])


def without(text: str, places: Sequence[tuple[int, int]]) -> str:
    """Return a text without some parts (start, end); of two spaces around a part, one goes too."""
    for start, end in sorted(places, reverse=True):
        before, after = text[:start], text[end:]
        if after[:1].isspace() and (not before or before[-1].isspace()):
            after = after[1:]
        elif not after and before[-1:].isspace():
            before = before[:-1]
        text = before + after
    return text


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong prediction; ``probability`` is what the model gave to ``predicted``.

    ``spans`` say which parts of the text carried it; they end where ``text`` is cut. In multi-label data
    both are about ``answer``, the surest wrong one (``joy: no``), which is empty otherwise.
    """

    id: str
    text: str
    label: str
    predicted: str
    probability: float
    spans: tuple[Span, ...] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a cheap method reaches on the same split.

    ``advantage`` is the classifier's accuracy minus this method's, compared row by row, and ``p_value``
    that of the test that there is none; in multi-label data both are of the macro F1.
    """

    name: str
    description: str
    metrics: Mapping[str, Interval]
    seconds: float
    advantage: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good the classifier is on rows it has never seen.

    ``metrics`` has ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``,
    ``f1_macro``, ``mcc``, ``roc_auc``, ``average_precision``, ``log_loss``.
    ``confusion[i][j]`` counts rows of class i that were predicted as j.

    In multi-label data ``accuracy`` counts the rows with all labels right, ``precision_micro``,
    ``recall_micro``, ``f1_micro`` and ``hamming_loss`` are there too, ``balanced_accuracy`` and ``mcc``
    are not; ``confusion`` is empty, and ``errors`` holds each label's.
    """

    split: str
    rows: int
    label_names: tuple[str, ...]
    metrics: Mapping[str, Interval]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    roc: tuple[Curve, ...]
    precision_recall: tuple[Curve, ...]
    by_length: tuple[Slice, ...]
    mistakes: tuple[Mistake, ...]
    baselines: tuple[Baseline, ...]
    seconds: float
    dataset_fingerprint: str
    run_fingerprint: str
    leakage: Leakage | None = None
    """With and without leaked rows, where a given file has any."""
    task: Task = "single_label"
    errors: tuple[LabelErrors, ...] = ()
    trust: Trust | None = None
    """What the probabilities are worth, and what was decided by them; files of older versions do not have it."""
    slices: tuple[Slice, ...] = ()
    """Parts of the rows other than by length."""
    groups: int = 0
    """How many groups of rows (``--group``, near-duplicates) counted as one draw each in intervals and tests; 0
    where each row did. 1 where all rows are of one group, which shows nothing of others: then rows counted."""

    @property
    def parts(self) -> tuple[Slice, ...]:
        """All parts of the rows that were looked at."""
        return self.by_length + self.slices

    @property
    def headline(self) -> str:
        """Name of the metric that says most of the classifier, by which it is compared."""
        return headline_of(self.task)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decision for one text. ``probabilities`` is in the order of the label names.

    In multi-label data ``labels`` holds all that were given, the most probable first, possibly none;
    ``label`` is the first of them or ``""``, and ``probability`` that of the most probable label.

    Of a classifier with an error rate ``labels`` holds all that cannot be ruled out, possibly none, and it
    ``abstains`` unless that is ``label`` alone; ``label`` is then its best guess.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]
    truncated: bool = False
    labels: tuple[str, ...] = ()
    abstains: bool = False
