"""The spread of several trainings, checked against SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from textlora.errors import UsageError
from textlora.repeated import check_seeds, seconds_of_seeds, spreads, students_interval

VALUES = (0.91, 0.93, 0.925, 0.90)


def interval(name, values):
    return students_interval(name, spreads([{name: value} for value in values])[name], len(values))


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_interval_is_students(number):
    values = VALUES[:number]
    found = interval("f1_macro", values)
    low, high = stats.t.interval(0.95, number - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-12)


def test_the_deviation_is_that_of_a_single_training():
    found = spreads([{"accuracy": value} for value in VALUES])["accuracy"]
    assert (found.mean, found.deviation) == pytest.approx((np.mean(VALUES), np.std(VALUES, ddof=1)), abs=1e-12)


def test_the_interval_of_a_share_is_one_of_shares():
    found = interval("accuracy", (0.5, 1.0))
    assert (found.low, found.high) == (0.0, 1.0)
    assert interval("mcc", (-0.5, 0.5)).low == -1.0
    assert interval("log_loss", (0.5, 3.0)).high > 10


def test_equal_trainings_have_no_spread():
    found = interval("accuracy", (0.75, 0.75, 0.75))
    assert (found.low, found.high) == (0.75, 0.75)


def test_a_metric_that_one_training_does_not_define_is_left_out():
    assert list(spreads([{"accuracy": 1.0, "roc_auc": 0.5}, {"accuracy": 0.5}])) == ["accuracy"]


@pytest.mark.parametrize("number", [1, 0, -3])
def test_one_is_not_several(number):
    with pytest.raises(UsageError) as error:
        check_seeds(number)
    assert str(error.value) == (
        f"--seeds {number} is not several: a spread needs 2 trainings at least.\n"
        "For instance --seeds 5; for one training with another seed --set seed=7."
    )


def test_cached_layers_are_computed_once(toy_plan):
    terms = {"frozen layers": 40.0, "predicting": 5.0}
    estimate = replace(toy_plan.estimate, train_seconds=100.0, seconds_by_term=terms)

    def seconds(*, cached):
        compute = toy_plan.settings.compute.model_copy(update={"prefix_cache": cached})
        settings = toy_plan.settings.model_copy(update={"compute": compute})
        return seconds_of_seeds(replace(toy_plan, estimate=estimate, settings=settings), 3)

    assert seconds(cached=False) == 3 * 105
    assert seconds(cached=True) == 40 + 3 * 65
