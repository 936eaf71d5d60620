"""Tests of differences against SciPy and against counting all cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from textlora import significance


@pytest.mark.parametrize(("ours", "theirs"), [(12, 5), (0, 7), (6, 6), (1, 0), (0, 0), (310, 250)])
def test_mcnemar_is_the_binomial_test_of_the_rows_they_disagree_on(ours, theirs):
    first = np.r_[np.ones(ours), np.zeros(theirs), np.ones(20)].astype(bool)
    second = np.r_[np.zeros(ours), np.ones(theirs), np.ones(20)].astype(bool)
    expected = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1
    assert significance.mcnemar(first, second) == pytest.approx(expected, abs=1e-12)
    assert significance.mcnemar(second, first) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_a_sign_flip_counts_all_choices_of_signs(seed):
    differences = np.random.default_rng(seed).integers(-4, 5, 11)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=11)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()))
    assert significance.sign_flip(differences) == pytest.approx(expected, abs=1e-12)


def test_groups_change_sides_as_a_whole():
    first, second = np.repeat([True, True, True, False], 25), np.repeat([False, False, False, False], 25)
    assert significance.mcnemar(first, second) < 1e-20
    assert significance.mcnemar(first, second, np.repeat(np.arange(4), 25)) == 2 * 0.5**3
    assert significance.mcnemar(first, second, np.zeros(100, int)) == 1, "one group tells nothing"


def test_two_shares_of_rows_are_fishers_test():
    right, wrong = np.array([True] * 30 + [False] * 10), np.array([True] * 55 + [False] * 4)
    expected = stats.fisher_exact([[30, 10], [55, 4]]).pvalue
    assert significance.two_shares((right, None), (wrong, None)) == pytest.approx(expected, abs=1e-12)


def test_two_shares_of_groups_of_one_row_are_the_score_test():
    right, wrong = np.array([True] * 30 + [False] * 10), np.array([True] * 55 + [False] * 4)
    found = significance.two_shares((right, np.arange(40)), (wrong, np.arange(59)))
    # n / (n - 1) is the effect of groups of one row; a fifth of a group says that it is 1.
    rows = np.array([size / ((size * size / (size - 1) + 0.2) / (size + 0.2)) for size in (40, 59)])
    shares = np.array([0.75, 55 / 59])
    pooled = (rows * shares).sum() / rows.sum()
    distance = (shares[1] - shares[0]) / np.sqrt(pooled * (1 - pooled) * (1 / rows).sum())
    assert found == pytest.approx(2 * stats.t(39).sf(distance), abs=1e-12)


def test_groups_make_a_difference_less_sure():
    random = np.random.default_rng(0)
    numbers = np.repeat(np.arange(30), 20)
    right = np.repeat(random.random(30) < 0.8, 20)
    halves = numbers < 15
    rows = significance.two_shares((right[halves], None), (right[~halves], None))
    groups = significance.two_shares((right[halves], numbers[halves]), (right[~halves], numbers[~halves]))
    assert groups > 10 * rows
    alike = np.ones(300, bool)
    assert significance.two_shares((alike, numbers[halves]), (alike, numbers[~halves])) == 1


def test_a_clustered_test_rejects_a_true_hypothesis_in_five_of_a_hundred_cases():
    random, rejected = np.random.default_rng(1), 0
    for _ in range(400):
        numbers = np.repeat(np.arange(40), 8)
        luck = np.where(random.random(320) < 0.5, random.random(40)[numbers], random.random(320))
        right, halves = luck < 0.85, numbers < 20
        p_value = significance.two_shares((right[halves], numbers[halves]), (right[~halves], numbers[~halves]))
        rejected += p_value < 0.05
    assert 0.02 < rejected / 400 < 0.08


def test_holm():
    # Each p-value is multiplied by the number of tests that are left when its turn comes.
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02), abs=1e-12)
    assert significance.holm([0.7, 0.6]) == (1, 1)
    assert significance.holm([0.02]) == (0.02,)
    assert significance.holm([]) == ()


@pytest.mark.parametrize("seed", range(4))
def test_holm_rejects_what_stepping_down_by_hand_rejects(seed):
    p_values = np.random.default_rng(seed).random(8) ** 3
    rejected = set()
    for place, number in enumerate(np.argsort(p_values)):
        if p_values[number] > 0.05 / (8 - place):
            break
        rejected.add(int(number))
    assert {number for number, p_value in enumerate(significance.holm(p_values)) if p_value <= 0.05} == rejected
