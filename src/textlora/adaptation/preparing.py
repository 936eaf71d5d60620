"""What an adaptation begins with: texts as pieces, the model, and a plan whose cost is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora import encoder, hardware, models, storage
from textlora.adaptation import folders
from textlora.adaptation import model as masked_model
from textlora.adaptation.corpus import OpenCorpus, Progress, open_or_build
from textlora.adaptation.deciding import decide, head_steps, piece_length
from textlora.adaptation.estimating import GB, Costs, measure, planned_steps, steps_per_epoch
from textlora.adaptation.folders import Place
from textlora.adaptation.masking import Masking
from textlora.adaptation.nouns import AdaptationPlan
from textlora.adaptation.settings import AdaptationSettings, build, flatten
from textlora.adaptation.sources import Source
from textlora.adaptation.steps import Passes
from textlora.bundles import base_fingerprint
from textlora.errors import ResourceError, UsageError
from textlora.models import BaseInfo
from textlora.settings import ModelSettings
from textlora.tokenization import TextTokenizer
from textlora.windows import LengthPolicy

# A promise about time is kept although the prediction may be off by so much.
MARGIN = 1.1
# Fewer steps of the encoder than that are not worth the trouble.
LEAST_STEPS = 10
LEAST_BUDGET = 512


@dataclass(frozen=True)
class Request:
    """What ``adapt`` was asked for."""

    sources: list[Source]
    info: BaseInfo
    settings: AdaptationSettings


@dataclass(frozen=True)
class Job:
    """A planned adaptation with all that it needs."""

    request: Request
    place: Place
    plan: AdaptationPlan
    corpus: OpenCorpus
    model: Any
    passes: Passes
    progress: Progress

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what is trained and how; checkpoints of another one are not gone on from."""
        plan = self.plan
        return storage.fingerprint([repr(plan.settings), str(plan.steps), str(plan.head_steps), plan.base_fingerprint])


def prepare(request: Request, place: Place, *, progress: Progress, began: float) -> Job:
    """Read the texts, load the model, and plan; an unfinished adaptation keeps its plan.

    Args:
        request: what was asked for.
        place: where it is written.
        progress: called with stage, units done, units in all or 0, and a note.
        began: when the command started, ``time.monotonic()``.

    Raises:
        DataError: the texts cannot be used.
        UsageError: settings or tokenizer do not fit.
        ResourceError: memory, disk or time are not enough, or the model cannot be read.
    """
    tokenizer = _tokenizer(request)
    corpus = open_or_build(place.work / folders.CORPUS, request.sources, tokenizer, request.settings, progress=progress)
    known = _known_plan(place, corpus)
    if known:
        settings, reasons = known.settings, dict(known.reasons)
    else:
        machine = hardware.describe_machine(storage.cache_folder())
        settings, reasons = decide(request.settings, request.info, machine, corpus)
    progress("load", 0, 1, "")
    model, fresh = masked_model.load(
        request.info.folder, attention=settings.compute.attention or "eager", seed=settings.seed
    )
    model.to(settings.compute.device or "cpu")
    passes = _passes(request.info, tokenizer, model, settings)
    progress("load", 1, 1, "")
    planner = _Planner(request, corpus, model, passes, settings, reasons)
    plan = known or planner.plan(place.work, fresh=bool(fresh), began=began)
    return Job(request, place, plan, corpus, model, passes, progress)


def _tokenizer(request: Request) -> TextTokenizer:
    info = request.info
    policy = LengthPolicy("head", piece_length(request.settings, info))
    tokenizer = TextTokenizer.load(info.folder, policy, base_model=info.name)
    if tokenizer.mask_id is None:
        raise UsageError(
            f"The tokenizer of {info.name} has no mask token, so there is nothing to put in place of a word.",
            hint="Add mask_token to its tokenizer_config.json, or take another --base-model.",
        )
    return tokenizer


def _known_plan(place: Place, corpus: OpenCorpus) -> AdaptationPlan | None:
    if not place.plan.exists():
        return None
    plan = storage.read_noun(place.plan, AdaptationPlan, made_by="adapt")
    return plan if plan.corpus.fingerprint == corpus.facts.fingerprint else None


def _passes(info: BaseInfo, tokenizer: TextTokenizer, model: Any, settings: AdaptationSettings) -> Passes:
    masking = Masking(
        probability=settings.masking.probability,
        mask_id=tokenizer.mask_id or 0,
        special_ids=tuple(tokenizer.tokenizer.all_special_ids),
        vocabulary=min(tokenizer.largest_id + 1, info.vocabulary),
    )
    return Passes(
        masking=masking,
        pad_id=tokenizer.pad_id,
        limit=tokenizer.max_length,
        packed=encoder.runs_packed(model),
        dtype=encoder.DTYPES[settings.compute.precision or "fp32"],
    )


@dataclass
class _Planner:
    """What a plan is made from; settings and reasons are filled in on the way."""

    request: Request
    corpus: OpenCorpus
    model: Any
    passes: Passes
    settings: AdaptationSettings
    reasons: dict[str, str]

    def plan(self, folder: Path, *, fresh: bool, began: float) -> AdaptationPlan:
        """Measure, fit into memory, time and disk, and return the plan."""
        head, self.reasons["head.steps"] = head_steps(self.settings, fresh=fresh)
        self._set("head.steps", head)
        costs = self._within_memory(head)
        steps = _within_time(costs, began)
        estimate = costs.estimate(steps)
        _check_disk(folder, estimate.disk_gb)
        return AdaptationPlan(
            base_model=self.request.info.name,
            base_fingerprint=base_fingerprint(self.request.info.folder),
            architecture=type(self.model).__name__,
            parameters=costs.parameters,
            fresh_head=fresh,
            packed=self.passes.packed,
            corpus=self.corpus.facts,
            settings=self.settings,
            reasons=self.reasons,
            steps=steps,
            head_steps=head,
            epochs=(steps - head) / steps_per_epoch(self.settings, self.corpus),
            estimate=estimate,
        )

    def _set(self, name: str, value: Any) -> None:
        self.settings = build(flatten(self.settings) | {name: value})

    def _within_memory(self, head: int) -> Costs:
        """Return the costs with micro-batches that fit into the free memory."""
        parameters = sum(weight.numel() for weight in self.model.parameters())
        while True:
            measured = measure(self.model, self.corpus, self.passes, self.settings)
            costs = Costs(self.settings, self.corpus, measured, parameters, head)
            needed, free = costs.estimate(head).memory_gb - measured.resident / GB, hardware.memory()[1] / GB
            if needed <= free or self.settings.compute.device != "cpu":
                return costs
            budget = (self.settings.compute.tokens_per_micro_batch or 0) // 2
            if self.request.settings.compute.tokens_per_micro_batch or budget < LEAST_BUDGET:
                raise _too_large(costs, needed, free)
            self._set("compute.tokens_per_micro_batch", budget)
            self.reasons["compute.tokens_per_micro_batch"] = (
                f"{budget:,} tokens, to fit into {free:.1f} GB of free memory"
            )


def _too_large(costs: Costs, needed: float, free: float) -> ResourceError:
    return ResourceError(
        f"The adaptation takes about {needed:.1f} GB of memory more, and {free:.1f} GB are free.",
        problems=[f"{name}: {value:.2f} GB" for name, value in costs.estimate(0).memory_by_term.items()],
        hint="Close other programs, or take less: --set text.max_length=128, "
        "--set compute.tokens_per_micro_batch=512, or a smaller --base-model.",
    )


def _within_time(costs: Costs, began: float) -> int:
    """Return the most steps that end within the limit, at most those that were asked for.

    Raises:
        ResourceError: there are too few of them.
    """
    head, limit = costs.head_steps, costs.settings.limits.minutes
    wanted = planned_steps(costs.settings, costs.corpus, head)
    if limit is None:
        return wanted
    passed = time.monotonic() - began
    low, high = head, wanted
    while low < high:
        middle = (low + high + 1) // 2
        fits = passed + MARGIN * costs.estimate(middle).seconds <= 60 * limit
        low, high = (middle, high) if fits else (low, middle - 1)
    if low - head < min(LEAST_STEPS, wanted - head):
        needed = (passed + MARGIN * costs.estimate(head + LEAST_STEPS).seconds) / 60
        raise ResourceError(
            f"{limit:g} minutes are not enough: {LEAST_STEPS} steps of the encoder take about {needed:.1f} minutes in all.",
            hint="Raise --time-limit, or take smaller steps: --set training.batch_size=16, --set head.steps=50.",
        )
    return low


def _check_disk(folder: Path, needed: float) -> None:
    free = hardware.free_disk_gb(folder)
    if needed > free:
        raise ResourceError(
            f"The adaptation takes {needed:.1f} GB of disk with its checkpoints, and {folder.parent} has {free:.1f} GB free.",
            hint="Free some space, or choose a folder on another disk with --out.",
        )


def make_info(base_model: str | None) -> BaseInfo:
    """Return the base model's shapes and folder.

    Raises:
        ResourceError, UsageError: as ``models.base_info``.
    """
    return models.base_info(base_model or ModelSettings().base_model)
