"""The nouns of the plan: the machine, what a job takes, and the plan itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from textlora.settings import Settings, flatten, show


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
            ``text_kernel_bytes`` for every further number of texts, ``group_kernel_bytes`` for every further
            group of texts that attention works on together, ``first_kernel_bytes`` beside the first of each.
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
    group_kernel_bytes: float
    first_kernel_bytes: float
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
