"""The loss section of a plan: weights from the data, and what does not fit the task."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tests.conftest import QUICK
from tests.test_planning import grounds, resolve
from textlora import planning, settings
from textlora.errors import UsageError

COUNTS = (1400, 708, 294, 855)
NAMES = ("anger", "joy", "optimism", "sadness")
TWEETS = {"train": sum(COUNTS), "classes": 4, "label_names": NAMES, "class_counts": COUNTS}
SEVERAL = TWEETS | {"task": "multi_label"}


def problems(on=TWEETS, **assignments):
    with pytest.raises(UsageError) as error:
        resolve(grounds(**on), **assignments)
    assert error.value.message == "These settings do not fit together:"
    return list(error.value.problems)


def test_automatic_weights_are_scikit_learns_balanced_ones():
    values, reasons = resolve(grounds(**TWEETS), loss__class_weights="auto")
    rows = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=rows)
    assert values["loss.class_weights"] == pytest.approx(dict(zip(NAMES, expected, strict=True)), abs=1e-4)
    assert np.mean([list(values["loss.class_weights"].values())[row] for row in rows]) == pytest.approx(1, abs=1e-4)
    assert reasons["loss.class_weights"] == ("set on the command line: training rows / (classes × rows of the class)")


def test_in_multi_label_data_they_are_rows_without_over_rows_with():
    values, reasons = resolve(grounds(**SEVERAL), loss__class_weights="auto")
    assert values["loss.class_weights"] == {"anger": 1.3264, "joy": 3.6003, "optimism": 10.0782, "sadness": 2.8094}
    assert reasons["loss.class_weights"].endswith("training rows without the label / rows with it")


def test_without_being_asked_nothing_is_weighted():
    values, reasons = resolve(grounds(**TWEETS))
    assert (values["loss.class_weights"], reasons["loss.class_weights"]) == ("none", "default")
    assert values["training.best_metric"] == "accuracy"


def test_multi_label_checkpoints_are_chosen_by_f1_unless_somebody_says_otherwise():
    values, reasons = resolve(grounds(**SEVERAL))
    assert values["training.best_metric"] == "f1_macro"
    assert reasons["training.best_metric"] == (
        "accuracy counts only rows with all labels right, which says little of each label"
    )
    assert resolve(grounds(**SEVERAL), training__best_metric="accuracy")[0]["training.best_metric"] == "accuracy"
    assert resolve(grounds(**SEVERAL), recipe="stock")[0]["training.best_metric"] == "loss"


def test_unknown_classes_in_the_weights():
    assert problems(loss__class_weights={"joi": 2.0, "anger": 1.0, "xylophone": 3.0}) == [
        "loss.class_weights names 'joi' (set on the command line), which is no label. Did you mean 'joy'? "
        "Labels: anger, joy, optimism, sadness.",
        "loss.class_weights names 'xylophone' (set on the command line), which is no label. "
        "Labels: anger, joy, optimism, sadness.",
    ]


def test_smoothing_and_focus_contradict_each_other():
    assert problems(loss__name="focal", loss__label_smoothing=0.1) == [
        "loss.label_smoothing is 0.1 (set on the command line) and loss.name focal: the one pulls sure answers back, "
        "the other ignores them; choose one of the two."
    ]


def test_a_gamma_without_focal_loss():
    assert problems(loss__focal_gamma=3.0) == [
        "loss.focal_gamma is 3.0 (set on the command line), but loss.name is cross_entropy; add loss.name=focal."
    ]


def test_sampling_needs_one_label_a_row():
    assert problems(SEVERAL, loss__sampling="balanced") == [
        "loss.sampling is 'balanced' (set on the command line), but rows have several labels, which cannot all be drawn "
        "equally often; use loss.class_weights=auto."
    ]


def test_sampling_and_weights_count_twice():
    assert problems(loss__sampling="balanced", loss__class_weights="auto") == [
        "loss.sampling is 'balanced' (set on the command line) and loss.class_weights are given: rare classes would "
        "count twice; choose one of the two."
    ]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("loss.focal_gamma=-1", "loss.focal_gamma is -1, expected greater than or equal to 0."),
        ("loss.label_smoothing=1", "loss.label_smoothing is 1, expected less than 1."),
        ("loss.name=hinge", "loss.name is 'hinge', expected 'cross_entropy' or 'focal'."),
        (
            "loss.class_weights={joy=0}",
            "loss.class_weights is {'joy': 0}, expected none, auto, or a table of numbers above 0 such as {joy = 2.0, anger = 0.5}.",
        ),
        (
            "loss.class_weights=balanced",
            "loss.class_weights is 'balanced', expected none, auto, or a table of numbers above 0 such as {joy = 2.0, anger = 0.5}.",
        ),
    ],
)
def test_values_that_cannot_be(assignment, expected):
    with pytest.raises(UsageError) as error:
        settings.build(settings.parse_assignments([assignment]))
    assert list(error.value.problems) == [expected]


@pytest.fixture
def weighted(toy_dataset, tiny_model, machine):
    chosen = QUICK | {"loss.class_weights": "auto"}
    return planning.plan(toy_dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)


def test_the_plan_file_holds_numbers_and_is_read_back(weighted, tmp_path):
    path = tmp_path / "plan.toml"
    planning.save_plan(path, weighted)
    assert 'class_weights = {"negative" = 1.0, "positive" = 1.0}' in path.read_text(encoding="utf-8")
    again = planning.load_plan(path)
    assert again == weighted
    assert dict(name_value[:2] for name_value in again.rows())["loss.class_weights"] == "negative 1, positive 1"


def test_auto_in_an_edited_plan_file_is_not_taken_for_numbers(weighted, toy_dataset, tmp_path):
    path = tmp_path / "plan.toml"
    planning.save_plan(path, weighted)
    text = path.read_text(encoding="utf-8").replace('{"negative" = 1.0, "positive" = 1.0}', '"auto"')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        planning.check_plan(planning.load_plan(path), toy_dataset)
    assert list(error.value.problems) == [
        "loss.class_weights is 'auto' (edited in plan.toml), which training cannot resolve; `textlora plan` makes numbers of it."
    ]


def test_many_weights_are_shown_cut():
    weights = {f"label{number}": 1.0 + number / 8 for number in range(9)}
    assert settings.show("loss.class_weights", weights) == (
        "label0 1, label1 1.12, label2 1.25, label3 1.38, label4 1.5, label5 1.62 and 3 more"
    )
