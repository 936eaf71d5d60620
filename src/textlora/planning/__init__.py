"""Every setting decided once, with a reason: from the data, the machine, the recipe or the user.

Command line > plan file > recipe > defaults; what none of them fixes is decided here. After the
plan nothing is automatic any more. ``plan.toml`` keeps it in a form that can be read and edited.

    layers: gather what was said -> deciding: the rest -> checking: does it fit -> estimating
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textlora import hardware, models, rehearsal, settings, storage
from textlora.errors import ResourceError, UsageError
from textlora.planning.alternatives import FULL, alternatives, full_settings
from textlora.planning.checking import check
from textlora.planning.deciding import prediction_attention, resolve
from textlora.planning.estimating import estimate
from textlora.planning.grounds import Choice, Grounds, lengths_of, make_grounds, measure_lengths
from textlora.planning.layers import gather
from textlora.planning.limits import keep_limits
from textlora.planning.plan_file import load_plan, read_plan_settings, save_plan
from textlora.planning.usual import compute_settings
from textlora.settings import Settings
from textlora.types import Alternative, Dataset, Machine, Plan, Rehearsal

# Seconds of training from which on a rehearsal of some ten seconds pays.
WORTH_SECONDS = 20.0

__all__ = [
    "FULL",
    "check_plan",
    "compare",
    "compute_settings",
    "describe_plan",
    "full_settings",
    "load_plan",
    "plan",
    "plan_fingerprint",
    "prediction_attention",
    "read_plan_settings",
    "save_plan",
]


def plan(
    dataset: Dataset,
    *,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    plan_file: Path | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Decide every setting for a data set and a machine.

    Args:
        dataset: from ``prepare``.
        base_model: hub id, local folder or ``embedded``; the same as ``model.base_model``.
        recipe: name of a recipe; a plan file's own recipe wins over ``"default"``.
        assignments: settings by dotted name, for instance ``{"lora.r": 8}``.
        plan_file: a ``plan.toml``, whole or in part.
        machine: where training will run; this machine by default.

    Raises:
        UsageError: unknown, impossible or contradictory values, all together.
        ResourceError: the base model or the device is not there.
    """
    given = _fold_base_model(base_model, assignments or {})
    recipe, choices = gather(given, recipe=recipe, plan_file=plan_file)
    info = models.base_info(choices["model.base_model"].value, choices["model.revision"].value)
    here = machine is None
    machine = machine or hardware.describe_machine(storage.cache_folder())
    grounds = make_grounds(dataset, info, machine, lengths_of(dataset, info))
    chosen, reasons = resolve(choices, grounds, small_data=recipe != "stock")
    terms = rehearsed_terms(chosen, grounds) if here else None
    try:
        within, given_way = keep_limits(chosen, choices, grounds, terms)
    except ResourceError:
        # Rough figures are no reason to refuse.
        if terms is not None or not here:
            raise
        terms = rehearsed_terms(chosen, grounds, always=True)
        within, given_way = keep_limits(chosen, choices, grounds, terms)
    return Plan(
        settings=within,
        reasons={**reasons, **given_way},
        recipe=recipe,
        dataset_fingerprint=dataset.fingerprint,
        classes=grounds.classes,
        machine=machine,
        estimate=estimate(within, grounds, terms),
    )


def compare(plan: Plan, dataset: Dataset) -> tuple[Alternative, ...]:
    """Return what the alternatives to a plan would take on this machine; may rehearse full fine-tuning first."""
    chosen = plan.settings
    info = models.base_info(chosen.model.base_model, chosen.model.revision)
    return alternatives(chosen, make_grounds(dataset, info, plan.machine, lengths_of(dataset, info)), rehearsed_terms)


def rehearsed_terms(
    chosen: Settings, grounds: Grounds, *, full: bool = False, always: bool = False
) -> Rehearsal | None:
    """Return what a rehearsal of the plan measured here, or None where the job is over before it would pay.

    With ``always`` it takes place in any case.

    It is rehearsed without quantization: what codes cost beside is arithmetic.
    """
    if not always and estimate(chosen, grounds).train_seconds < WORTH_SECONDS:
        return None
    return rehearsal.rehearse(specification(chosen, grounds, full=full), cache=storage.cache_folder())


def specification(chosen: Settings, grounds: Grounds, *, full: bool = False) -> rehearsal.Specification:
    """Return what a rehearsal must know of a plan."""
    compute = chosen.compute
    return rehearsal.Specification(
        folder=str(grounds.info.folder),
        classes=grounds.classes,
        device=compute.device or "cpu",
        precision=compute.precision or "fp32",
        attention=compute.attention or "eager",
        prediction_attention=prediction_attention(chosen, grounds.machine),
        packed=compute.engine == "packed",
        adapted=not full,
        r=chosen.lora.r,
        target_modules=chosen.lora.target_modules or grounds.info.linear_names,
        budget=compute.tokens_per_micro_batch or grounds.info.max_length * chosen.training.batch_size,
        max_length=chosen.text.max_length or grounds.info.max_length,
    )


def _fold_base_model(base_model: str | None, assignments: Mapping[str, Any]) -> dict[str, Any]:
    name = "model.base_model"
    if base_model is None:
        return dict(assignments)
    if assignments.get(name, base_model) != base_model:
        raise UsageError(
            f"The base model is {base_model!r}, but {name} is set to {assignments[name]!r}.", hint="Name it once."
        )
    return {**assignments, name: base_model}


def check_plan(plan: Plan, dataset: Dataset, *, path: Path | None = None) -> None:
    """Refuse a plan that was made for other data, or that cannot be carried out here.

    Args:
        plan: the plan to be carried out.
        dataset: the data it shall be carried out on.
        path: the plan's file, for the message; ``plan.toml`` beside the data by default.

    Raises:
        UsageError: the fingerprints differ, or edited values do not fit together.
        ResourceError: the planned base model or device is not there.
    """
    if plan.dataset_fingerprint == dataset.fingerprint:
        _check_edits(plan, dataset)
        return
    plan_file, data_file = path or dataset.folder / storage.PLAN, dataset.folder / storage.DATASET
    raise UsageError(
        f"{plan_file} was made for other data ({plan.dataset_fingerprint[:12]}…) than {data_file} describes ({dataset.fingerprint[:12]}…).",
        hint=f"Plan again for these data: textlora plan {dataset.folder} --plan {plan_file} --overwrite",
    )


def _check_edits(plan: Plan, dataset: Dataset) -> None:
    """Check the plan's values as if they had just been asked for: they may have been edited."""
    values = settings.flatten(plan.settings)
    chosen = {name: Choice(value, plan.reasons.get(name, "default"), "plan file") for name, value in values.items()}
    info = models.base_info(values["model.base_model"], values["model.revision"])
    machine = hardware.describe_machine(probe=False)
    # No check looks at the lengths, so the texts need not be counted again.
    check(chosen, make_grounds(dataset, info, machine, (measure_lengths([1], info), None)))


def plan_fingerprint(plan: Plan) -> str:
    """Return the SHA-256 over all settings; reasons, machine and estimate do not count."""
    return storage.fingerprint(f"{name}={value!r}" for name, value in settings.flatten(plan.settings).items())


def describe_plan(plan: Plan) -> list[tuple[str, str, str]]:
    """Return name, value and reason of every setting, for a table."""
    return plan.rows()
