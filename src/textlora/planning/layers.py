"""The layers of values over each other: command line > plan file > recipe > defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textlora import settings
from textlora.planning.grounds import Choice, Choices
from textlora.planning.plan_file import META, one_line, plan_settings, read_document
from textlora.settings import Settings


def gather(
    assignments: Mapping[str, Any], *, recipe: str = "default", plan_file: Path | None = None
) -> tuple[str, Choices]:
    """Return the recipe's name and every setting as it is before the automatic decisions.

    Raises:
        UsageError: there is no such recipe, or a layer has unknown or impossible values.
    """
    choices = {name: Choice(value, "default", "default") for name, value in settings.flatten(Settings()).items()}
    document = read_document(plan_file) if plan_file else {}
    if recipe == "default":
        recipe = str(document.get(META, {}).get("recipe", recipe))
    values, reasons = settings.recipe(recipe)
    for name, value in settings.check_part(values, where=f"the recipe {recipe!r}").items():
        choices[name] = Choice(value, one_line(reasons[name]), "recipe")
    if plan_file:
        for name, value in plan_settings(document, plan_file).items():
            choices[name] = Choice(value, f"from {plan_file.name}", "plan file")
    for name, value in settings.check_part(assignments, where="--set").items():
        choices[name] = Choice(value, "set on the command line", "command line")
    return recipe, _forget_other_revision(choices)


def _forget_other_revision(choices: Choices) -> Choices:
    """Drop a plan file's revision when the command line names another base model."""
    model, revision = choices["model.base_model"], choices["model.revision"]
    if model.source == "command line" and revision.source == "plan file":
        return choices | {"model.revision": Choice(None, "default", "default")}
    return choices
