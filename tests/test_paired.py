"""Differences of two methods on the same rows: against scikit-learn, plain loops, and what they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as reference

from textlora import intervals, paired, significance
from textlora.paired import Difference
from textlora.resampling import Units
from textlora.types import Interval


def one_hot(labels, classes=3):
    return np.eye(classes, dtype=bool)[labels]


def answers(seed=0, rows=240, classes=3):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    first, second = (
        np.where(random.random(rows) < share, truth, random.integers(0, classes, rows)) for share in (0.8, 0.5)
    )
    return truth, first, second


def test_the_difference_of_accuracy_is_tangos_with_mcnemars_test():
    truth, first, second = answers()
    found = paired.accuracy_difference(truth == first, truth == second, Units(240))
    assert found.interval == intervals.paired_difference(truth == first, truth == second)
    assert found.p_value == significance.mcnemar(truth == first, truth == second)
    assert (found.figure, found.rows, found.groups, found.verdict) == ("accuracy", 240, 0, "better")
    assert paired.accuracy_difference(truth == second, truth == first, Units(240)).verdict == "worse"


@pytest.mark.parametrize("grouped", [False, True])
def test_the_difference_of_macro_f1_agrees_with_plain_loops(grouped):
    truth, first, second = answers()
    numbers = np.arange(240) // (4 if grouped else 1)
    units = Units.of(numbers, 240)
    found = paired.f1_difference(*map(one_hot, (truth, first, second)), units=units, resamples=2000)

    def difference(ours, theirs, rows=slice(None)):
        scores = [reference.f1_score(truth[rows], given[rows], average="macro") for given in (ours, theirs)]
        return scores[0] - scores[1]

    assert found.interval.value == pytest.approx(difference(first, second), abs=1e-12)
    random, count = np.random.default_rng(5), numbers[-1] + 1
    places = [np.flatnonzero(numbers == number) for number in range(count)]
    drawn = [difference(first, second, np.concatenate([places[one] for one in random.integers(0, count, count)])) for _ in range(300)]  # fmt: skip
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert found.groups == (60 if grouped else 0)


def test_the_randomisation_test_exchanges_answers():
    truth, first, second = answers(1, rows=60)
    second = np.where(np.arange(60) < 50, first, second)  # they differ on few rows, so that p is not small
    found = paired.f1_difference(*map(one_hot, (truth, first, second)), units=Units(60), resamples=4000)
    random, larger = np.random.default_rng(6), 0
    for _ in range(500):
        coins = random.random(60) < 0.5
        scores = [
            reference.f1_score(truth, np.where(coins, *pair), average="macro")
            for pair in ((first, second), (second, first))
        ]
        larger += abs(scores[0] - scores[1]) >= abs(found.interval.value) - 1e-12
    assert found.p_value == pytest.approx(larger / 500, abs=0.06)


def test_the_same_answers_differ_by_nothing_but_not_for_certain():
    truth, first, _ = answers()
    same = paired.f1_difference(*map(one_hot, (truth, first, first)), units=Units(240), resamples=50)
    assert (same.interval.value, same.p_value, same.rows_needed) == (0, 1, None)
    assert -0.05 < same.interval.low < 0 < same.interval.high < 0.05
    assert same.verdict == "unknown"
    large = paired.f1_difference(
        *(one_hot(np.tile(one, 50)) for one in (truth, first, first)), units=Units(12_000), resamples=50
    )
    assert large.verdict == "equal"


def test_labels_without_rows_and_rows_with_several_labels():
    truth = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]] * 10, bool)
    given = truth.copy()
    given[::4, 1] = False
    found = paired.f1_difference(truth, truth, given, units=Units(40), resamples=200)
    expected = 2 / 3 - reference.f1_score(truth, given, average="macro", zero_division=0)
    assert found.interval.value == pytest.approx(expected, abs=1e-12)
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("interval", "p_value", "verdict"),
    [
        (Interval(0.03, 0.01, 0.05), 0.003, "better"),
        (Interval(-0.03, -0.05, -0.01), 0.003, "worse"),
        (Interval(0.03, 0.01, 0.05), 0.06, "unknown"),
        (Interval(0.03, -0.01, 0.07), 0.04, "unknown"),
        (Interval(0.001, -0.009, 0.009), 0.8, "equal"),
        (Interval(0.005, 0.001, 0.009), 0.01, "better"),
    ],
)
def test_the_verdict_asks_test_and_interval(interval, p_value, verdict):
    assert Difference("accuracy", interval, p_value, 500).verdict == verdict


def test_another_p_value_decides_anew():
    found = Difference("accuracy", Interval(0.03, 0.01, 0.05), 0.03, 500)
    assert (found.verdict, replace(found, p_value=0.06).verdict) == ("better", "unknown")


def test_rows_needed_would_show_the_difference_in_eighty_of_a_hundred_experiments():
    random, shares = np.random.default_rng(0), (0.10, 0.06)  # one alone right, the other alone right
    found = Difference("accuracy", intervals.tango(20, 12, 200), 0.2, 200)
    rows = found.rows_needed
    counts = random.multinomial(rows, [*shares, 1 - sum(shares)], size=2000)
    shown = sum(intervals.tango(ours, theirs, rows).low > 0 for ours, theirs, _ in counts[:300].tolist())
    assert shown / 300 == pytest.approx(0.8, abs=0.08)
    assert Difference("accuracy", Interval(0.0, -0.1, 0.1), 1.0, 200).rows_needed is None


@pytest.mark.parametrize(("p_value", "shown"), [(0.0004, "p < 0.001"), (0.012, "p = 0.012"), (0.5, "p = 0.5"), (1.0, "p = 1")])  # fmt: skip
def test_p_values_are_shown_as_fine_as_anybody_needs(p_value, shown):
    assert paired.shown_p(p_value) == shown
