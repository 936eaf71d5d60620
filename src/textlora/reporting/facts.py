"""What a report says, worked out once for the page, the Markdown file and the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora import memory, settings
from textlora.exports import Exports
from textlora.repeated import Folds, Seeds
from textlora.reporting import judgement, wording
from textlora.reporting.judgement import Verdict
from textlora.slices import title
from textlora.types import Baseline, Dataset, Evaluation, Interval, Plan, Run, Slice
from textlora.windows import QUANTILES, LengthPolicy, loss

MATRIX_CLASSES = 12
CONFUSIONS = 10


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the plan."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A predicted value beside the measured one."""

    what: str
    predicted: str
    measured: str
    ratio: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows of one label that were taken for another."""

    label: str
    predicted: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The nouns of a finished run, and what follows from them."""

    dataset: Dataset
    plan: Plan
    run: Run
    evaluation: Evaluation
    seeds: Seeds | None = None
    folds: Folds | None = None
    exports: Exports | None = None

    @property
    def source(self) -> str:
        """Name of the data file without its folder."""
        return Path(self.dataset.info.source).name or self.dataset.info.source

    @property
    def title(self) -> str:
        """What is classified, and where it comes from."""
        return f"{self.dataset.info.label_column} in {self.source}"

    @property
    def base_model(self) -> str:
        """The base model's name, with what ``embedded`` stands for."""
        name = self.run.base_model
        return "embedded (all-MiniLM-L6-v2)" if name == "embedded" else name

    @property
    def accuracy(self) -> Interval:
        """The share of rows with all right."""
        return self.evaluation.metrics["accuracy"]

    @property
    def several(self) -> bool:
        """Whether a row can have several labels."""
        return self.evaluation.task == "multi_label"

    @property
    def headline(self) -> Interval:
        """The figure that says most."""
        return self.evaluation.metrics[self.evaluation.headline]

    @property
    def headline_name(self) -> str:
        """What the headline figure is, within a sentence."""
        return "macro F1" if self.several else "accuracy"

    @property
    def headline_words(self) -> str:
        """What the headline figure says of the rows."""
        rows, split = wording.rows(self.evaluation.rows), self.evaluation.split
        if not self.several:
            return f"of {rows} classified correctly in the {split} split"
        right = wording.percent(self.accuracy.value)
        return f"F1, mean of the labels, on {rows} of the {split} split; {right} of them have all labels right"

    @property
    def metric_names(self) -> Mapping[str, tuple[str, str]]:
        """Name and meaning of each metric, the most telling first."""
        return wording.MULTI_LABEL_METRICS if self.several else wording.METRICS

    @property
    def ranking_note(self) -> str:
        """What ROC-AUC and average precision rank by."""
        names = self.evaluation.label_names
        binary = len(names) == 2 and not self.several  # noqa: PLR2004 - two classes have one positive label
        by = f"rank the rows by “{names[-1]}”" if binary else "are the mean over each label against the rest"
        return f"ROC-AUC and average precision {by}."

    # --- judgement ---

    @property
    def baselines(self) -> list[Baseline]:
        """The cheap methods, the strongest first."""
        return sorted(self.evaluation.baselines, key=lambda baseline: -baseline.metrics[self.evaluation.headline].value)

    @property
    def verdicts(self) -> list[Verdict]:
        """One sentence per baseline."""
        return [judgement.against(self.evaluation, baseline) for baseline in self.baselines]

    @property
    def certainty(self) -> list[str]:
        """What the interval rests on, and what was done against leaks."""
        return judgement.certainty(self.evaluation, self.dataset.info)

    @property
    def cautions(self) -> list[str]:
        """What a reader should keep in mind before trusting the headline."""
        return judgement.cautions(self.evaluation)

    @property
    def columns(self) -> list[tuple[str, Mapping[str, Interval]]]:
        """What stands beside the classifier's own scores: the same without leaked rows, and the baselines."""
        leak = self.evaluation.leakage
        clean = [("Without leaked rows", leak.others)] if leak and leak.others else []
        return [*clean, *((baseline.name, baseline.metrics) for baseline in self.baselines)]

    @property
    def weak_spots(self) -> list[str]:
        """Where the classifier fails, each claim only where a test or an interval carries it."""
        return judgement.weak_spots(self.evaluation)

    @property
    def parts(self) -> list[tuple[str, Slice, str]]:
        """Each part of the rows other than by length: its name, its scores, and the verdict in words."""
        return [(title(part), part, judgement.PARTS[part.verdict]) for part in self.evaluation.slices]

    @property
    def confusions(self) -> list[Confusion]:
        """The most frequent pairs of label and wrong prediction."""
        names, matrix = self.evaluation.label_names, self.evaluation.confusion
        if self.several:
            return []
        pairs = [
            Confusion(names[i], names[j], rows, rows / sum(matrix[i]))
            for i in range(len(names))
            for j, rows in enumerate(matrix[i])
            if i != j and rows
        ]
        return sorted(pairs, key=lambda pair: -pair.rows)[:CONFUSIONS]

    @property
    def matrix_fits(self) -> bool:
        """Whether there is a confusion matrix, small enough to be read as a table."""
        return not self.several and len(self.evaluation.label_names) <= MATRIX_CLASSES

    # --- data ---

    @property
    def balance(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """Each label with its rows and its share in each split."""
        counts = self.dataset.info.split_counts
        totals = {name: max(1, self.dataset.info.rows_in(name)) for name in counts}
        return [
            (label, [(column[index], column[index] / totals[name]) for name, column in counts.items()])
            for index, label in enumerate(self.dataset.label_names)
        ]

    @property
    def length_cut(self) -> int | None:
        """Tokens after which this run cuts a text."""
        policy = self._length_policy
        return policy.whole() if policy else None

    @property
    def _length_policy(self) -> LengthPolicy | None:
        text, lengths = self.plan.settings.text, self.dataset.info.token_lengths
        limit = text.max_length or (lengths.max_length if lengths else None)
        return LengthPolicy.of_settings(text, max_length=limit) if limit else None

    @property
    def length_told(self) -> str:
        """How much of a text the classifier sees."""
        policy = self._length_policy
        if policy is None:
            return f"Texts are cut to the encoder's limit of tokens ({self.plan.settings.text.policy})."
        if policy.policy == "windows":
            windows = f"up to {policy.max_windows} windows of {policy.max_length} tokens"
            return f"Texts are seen in {windows}, whose logits are averaged; of longer ones parts are left out."
        return f"Texts are cut to {policy.max_length} tokens ({policy.policy})."

    @property
    def cut_told(self) -> str:
        """What this run's policy loses of the data's texts; empty where that is not known."""
        policy, lengths = self._length_policy, self.dataset.info.token_lengths
        if policy is None or lengths is None:
            return ""
        found = loss(policy, lengths, rows=self.dataset.info.counts.kept)
        return f"In this run text.policy = {policy.policy} with {policy.max_length} tokens: {found}."

    @property
    def quantiles(self) -> list[tuple[str, int]]:
        """Share of the texts, and the tokens that so many do not exceed."""
        lengths = self.dataset.info.token_lengths
        if lengths is None:
            return []
        names = {0.0: "shortest", 0.5: "median", 1.0: "longest"}
        return [
            (names.get(share, f"{share * 100:.0f}{wording.NBSP}%"), tokens)
            for share, tokens in zip(QUANTILES, lengths.quantiles, strict=True)
        ]

    # --- plan and cost ---

    @property
    def plan_groups(self) -> dict[str, list[Setting]]:
        """The whole plan by section; settings without a section come first, under ``general``."""
        groups: dict[str, list[Setting]] = {}
        for name, value in settings.flatten(self.plan.settings).items():
            section = name.partition(".")[0] if "." in name else "general"
            reason = self.plan.reasons.get(name, "default of the setting")
            groups.setdefault(section, []).append(Setting(name, wording.setting(value), reason))
        return groups

    @property
    def measured(self) -> list[Measured]:
        """What the plan predicted beside what the run took."""
        estimate, run = self.plan.estimate, self.run
        return [
            _measured("Training time", estimate.train_seconds, run.stage_seconds or run.seconds, wording.duration),
            _measured("Scoring time", estimate.evaluate_seconds, self.evaluation.seconds, wording.duration),
            _measured(
                "Peak memory", estimate.train_memory_gb or estimate.memory_gb, run.peak_memory_gb, wording.gigabytes
            ),
            *self._measured_on_gpu,
            _measured("Optimiser steps", estimate.steps, run.steps, wording.count),
            _measured("Trained parameters", estimate.trainable_parameters, run.trainable_parameters, wording.count),
        ]

    @property
    def _measured_on_gpu(self) -> list[Measured]:
        """The same for the GPU's memory, where a CUDA GPU was used; CUDA's own context is in neither figure."""
        run = self.run
        if not run.peak_gpu_memory_gb:
            return []
        return [_measured("Peak GPU memory", run.predicted_gpu_memory_gb, run.peak_gpu_memory_gb, wording.gigabytes)]

    @property
    def gpu_peak(self) -> str:
        """The most that PyTorch reserved of a CUDA GPU."""
        return wording.gigabytes(self.run.peak_gpu_memory_gb)

    @property
    def summary(self) -> list[tuple[str, str]]:
        """The run in a dozen lines."""
        run = self.run
        return [
            ("Base model", self.base_model),
            ("Architecture", run.architecture),
            ("Recipe", f"{run.recipe}, seed {run.seed}"),
            (
                "Trained share",
                f"{run.trainable_share:.2%} ({run.trainable_parameters:,} of {run.total_parameters:,} parameters)".replace(
                    "%", f"{wording.NBSP}%"
                ),
            ),
            ("Epochs", f"{run.epochs:g} ({run.steps:,} steps{', stopped early' if run.stopped_early else ''})"),
            ("Kept checkpoint", f"step {run.best_step:,}, {self._best()}"),
            (
                "Final training loss",
                f"{run.final_training_loss:.4f} (mean of the whole training {run.mean_training_loss:.4f})",
            ),
            (
                "Training time",
                f"{wording.duration(run.seconds)} ({wording.duration(run.cpu_seconds)} of processor time)",
            ),
            ("Speed", f"{run.tokens_per_second:,.0f} tokens per second"),
            ("Peak memory", wording.gigabytes(run.peak_memory_gb)),
            *([("Peak GPU memory", self.gpu_peak)] if run.peak_gpu_memory_gb else []),
            *(
                (f"Memory ran out, {number}", memory.describe(event))
                for number, event in enumerate(run.memory_events, 1)
            ),
            ("Saved and reloaded", f"largest difference of a logit {run.reload_difference:.1e}"),
        ]

    def _best(self) -> str:
        name = self.plan.settings.training.best_metric
        shown = wording.percent(self.run.best_metric) if name != "loss" else f"{self.run.best_metric:.4f}"
        return f"validation {name.replace('_', ' ')} {shown}"

    @property
    def machine(self) -> list[tuple[str, str]]:
        """The machine that the plan was made for."""
        machine = self.plan.machine
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in machine.rates.items())
        gpu = f"{machine.gpu} ({machine.gpu_memory_gb or 0:.0f}{wording.NBSP}GB)" if machine.gpu else "none"
        return [
            ("Processor", f"{machine.processor}, {machine.cores} cores"),
            ("Memory", wording.gigabytes(machine.memory_gb)),
            ("GPU", gpu),
            ("Measured GFLOP/s", rates or "not measured"),
            ("Platform", machine.platform),
        ]

    @property
    def fingerprints(self) -> list[tuple[str, str]]:
        """What identifies the data, the plan and the weights."""
        return [
            ("Data", self.dataset.fingerprint),
            ("Plan", self.run.plan_fingerprint),
            ("Classifier", self.evaluation.run_fingerprint),
        ]

    def history(self, key: str) -> tuple[list[float], list[float]]:
        """Return steps and finite values of one entry of the training history."""
        found = [(entry["step"], entry[key]) for entry in self.run.history if _has(entry, key)]
        return [step for step, _ in found], [value for _, value in found]


def _has(entry: Mapping[str, Any], key: str) -> bool:
    return "step" in entry and isinstance(entry.get(key), int | float) and math.isfinite(entry[key])


def _measured(what: str, predicted: float, measured: float, write: Any) -> Measured:
    return Measured(what, write(predicted), write(measured), wording.times(measured, predicted))
