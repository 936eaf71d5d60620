"""Settings: names, checks, help texts, --set, recipes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from textlora import settings
from textlora.errors import UsageError
from textlora.settings import LoraSettings, Settings, TrainingSettings

HINT = "`textlora plan --settings` lists every setting with its meaning."


def refused(call) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call()
    return caught.value


def test_every_setting_has_a_meaning_that_ends_like_a_sentence():
    for name, default, meaning in settings.setting_rows():
        assert meaning.endswith((".", "…")), name
        assert default, name


def test_flatten_and_build_are_inverse():
    changed = Settings(seed=7, lora=LoraSettings(r=4, target_modules=("q_lin",)), training=TrainingSettings(epochs=0.5))
    assert settings.build(settings.flatten(changed)) == changed
    assert list(settings.flatten(changed)) == settings.setting_names()


def test_nest_and_flatten_toml_are_inverse():
    flat = {"seed": 1, "lora.r": 16, "lora.lora_alpha": 2.0}
    assert settings.nest(flat) == {"seed": 1, "lora": {"r": 16, "lora_alpha": 2.0}}
    assert settings.flatten_toml(settings.nest(flat)) == flat


def test_later_layers_win():
    assert settings.merge({"a": 1, "b": 1}, {"b": 2}, {"c": 3}) == {"a": 1, "b": 2, "c": 3}


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lora.r=16", "lora.r", 16),
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        (" training.trunk_dropout = true ", "training.trunk_dropout", True),
        ("text.policy=head+tail", "text.policy", "head+tail"),
        ('text.policy="head"', "text.policy", "head"),
        ("tracking=tensorboard, wandb,", "tracking", ["tensorboard", "wandb"]),
        ("tracking=", "tracking", []),
        ('lora.target_modules=["q_lin"]', "lora.target_modules", ["q_lin"]),
        ("model.base_model=a=b", "model.base_model", "a=b"),
        # Looks like a number, a date, a boolean; is a name.
        ("model.revision=2024", "model.revision", "2024"),
        ("model.revision=2024-01-01", "model.revision", "2024-01-01"),
        ("model.revision=1e5", "model.revision", "1e5"),
        ("model.base_model=true", "model.base_model", "true"),
        ("compute.device=auto", "compute.device", None),
        ("data.sample=auto", "data.sample", None),
        ("model.base_model=auto", "model.base_model", "auto"),
    ],
)
def test_assignments(text, name, value):
    flat = settings.parse_assignments([text])
    assert flat == {name: value}
    assert type(flat[name]) is type(value)
    settings.build(flat)


def test_the_last_assignment_wins():
    assert settings.parse_assignments(["lora.r=1", "lora.r=2"]) == {"lora.r": 2}


def test_all_wrong_assignments_at_once():
    error = refused(lambda: settings.parse_assignments(["lora.rr=1", "lora.r", "epochs=2", "nothing.like=it"]))
    assert str(error) == (
        "Cannot use --set:\n"
        "  - There is no setting 'lora.rr'. Did you mean 'lora.r'?\n"
        "  - 'lora.r' has no '='; write NAME=VALUE, for instance lora.r=16.\n"
        "  - There is no setting 'epochs'. Did you mean 'training.epochs'?\n"
        "  - There is no setting 'nothing.like'.\n"
        f"{HINT}"
    )


def test_all_wrong_values_at_once():
    flat = {"lora.r": 0, "lora.x": 1, "text.policy": "middle", "training.epochs": "many", "training.batch_size": 2.5}
    error = refused(lambda: settings.build(flat, where="plan.toml"))
    assert str(error) == (
        "Wrong values in plan.toml:\n"
        "  - There is no setting 'lora.x'. Did you mean 'lora.r'?\n"
        "  - text.policy is 'middle', expected 'head', 'tail', 'head+tail' or 'windows'.\n"
        "  - lora.r is 0, expected greater than or equal to 1.\n"
        "  - training.epochs is 'many', expected a valid number, unable to parse string as a number.\n"
        "  - training.batch_size is 2.5, expected a valid integer, got a number with a fractional part.\n"
        f"{HINT}"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lora.r", True, "something else than true or false"),
        ("training.epochs", False, "something else than true or false"),
        ("lora.lora_alpha", float("inf"), "a finite number"),
        ("training.weight_decay", float("nan"), "a finite number"),
        ("tracking", 5, "a valid tuple"),
        ("model.base_model", "", "a text of at least 1 character"),
        ("compute.device", "gpu", "'cpu', 'cuda' or 'mps'"),
    ],
)
def test_values_that_are_none(name, value, expected):
    error = refused(lambda: settings.build({name: value}))
    assert error.problems == (f"{name} is {value!r}, expected {expected}.",)


def test_a_table_that_is_no_table():
    assert refused(lambda: settings.build({"lora": 3})).problems == (
        "There is no setting 'lora'. Did you mean 'lora.r'?",
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("data.sample", None, "all rows"),
        ("compute.device", None, "automatic"),
        ("tracking", (), "none"),
        ("lora.target_modules", ("q_lin", "v_lin"), "q_lin, v_lin"),
        ("training.trunk_dropout", True, "true"),
        ("training.learning_rate", 5e-05, "5e-05"),
        ("training.epochs", 3.0, "3"),
        ("text.policy", "head", "head"),
    ],
)
def test_values_as_people_read_them(name, value, shown):
    assert settings.show(name, value) == shown


# -- recipes -------------------------------------------------------------------------------------


def test_the_recipes():
    assert settings.recipe_names() == ["accurate", "default", "fast", "stock"]


@pytest.mark.parametrize("name", settings.recipe_names())
def test_a_recipe_is_valid_and_has_a_reason_for_each_value(name):
    values, reasons = settings.recipe(name)
    settings.build(values, where=name)
    assert set(reasons) == set(values)
    assert all(reasons.values())


def test_an_unknown_recipe():
    error = refused(lambda: settings.recipe("Stok"))
    assert str(error) == "There is no recipe 'Stok'. Did you mean 'stock'?\nRecipes: accurate, default, fast, stock."
