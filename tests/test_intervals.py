"""Closed intervals against SciPy, against brute force, and by hand at the ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy import optimize, stats

from textlora import intervals
from textlora.types import Interval


@pytest.mark.parametrize("rows", [1, 2, 7, 20, 263, 25_000])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.93, 1])
def test_wilson_is_scipys(rows, share):
    hits = round(share * rows)
    expected = stats.binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    found = intervals.wilson(hits, rows)
    assert (found.value, found.low, found.high) == pytest.approx((hits / rows, expected.low, expected.high), abs=1e-12)


def test_wilson_gives_the_published_example_and_is_honest_at_the_ends():
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    assert intervals.wilson(81, 263) == Interval(
        81 / 263, pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5)
    )
    assert intervals.wilson(0, 20) == Interval(0, 0, pytest.approx(0.1611, abs=5e-5))
    assert intervals.wilson(20, 20) == Interval(1, pytest.approx(1 - 0.1611, abs=5e-5), 1)
    assert intervals.wilson(0, 0) == Interval(0, 0, 1), "without a row it could be anything"


def test_a_ratio_of_single_rows_is_wilsons():
    hits, totals = np.array([1, 0, 1, 1, 0, 0]), np.array([1, 1, 1, 1, 1, 0])
    assert intervals.ratio(hits, totals) == intervals.wilson(3, 5)
    assert intervals.ratio([], []) == Interval(0, 0, 1)
    assert intervals.ratio([0, 0], [0, 0], np.array([0, 1])) == Interval(0, 0, 1)


def grouped(seed, units=12, most=9):
    random = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(units), random.integers(1, most, units))
    hits = random.random(len(numbers)) < np.repeat(random.random(units), np.bincount(numbers))
    return hits, numbers


@pytest.mark.parametrize("seed", range(5))
def test_a_ratio_of_grouped_rows_is_wilsons_with_the_effective_number_of_rows(seed):
    """Every step written out, with nothing but sums over the groups and Wilson's formula."""
    hits, numbers = grouped(seed)
    rows, groups = len(hits), [np.flatnonzero(numbers == number) for number in range(12)]
    share = sum(hits) / rows
    squares = sum((sum(hits[group]) - share * len(group)) ** 2 for group in groups)
    variance = 12 / 11 * squares / rows**2
    effect = max(1, variance / (share * (1 - share) / rows))
    kish = rows**2 / sum(len(group) ** 2 for group in groups)
    quantile = stats.t(kish - 1).ppf(0.975)
    # Moved towards the effect of equal rows, with the weight of a fifth of a group.
    effect = (kish * effect + 0.2 * rows / kish) / (kish + 0.2)
    effective = rows / effect
    # The ends solve |share - p| = t * sqrt(p (1 - p) / n), as Wilson's do.
    roots = np.roots(
        [1 + quantile**2 / effective, -2 * share - quantile**2 / effective, share**2]
    )  # fmt: skip
    found = intervals.ratio(hits, np.ones(rows), numbers)
    assert (found.value, found.low, found.high) == pytest.approx((share, *sorted(roots.real)), abs=1e-9)


def test_rows_of_a_group_that_are_all_alike_count_as_one():
    hits, numbers = np.repeat([1, 0, 1, 1, 0, 1, 1, 1], 25), np.repeat(np.arange(8), 25)
    quantile = stats.t(7).ppf(0.975)
    narrow = intervals.wilson(150, 200)
    found = intervals.ratio(hits, np.ones(200), numbers)
    # The variance of eight groups is estimated with 7 degrees of freedom: 7 rows' worth.
    alone = intervals.wilson(0.75 * 7 * (1.96 / quantile) ** 2, 7 * (1.96 / quantile) ** 2)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-3)
    assert found.high - found.low > 4 * (narrow.high - narrow.low)


def test_without_a_mistake_groups_count_as_so_many_rows():
    numbers = np.repeat(np.arange(10), 30)
    found = intervals.ratio(np.ones(300), np.ones(300), numbers)
    assert found.high == found.value == 1
    assert found.low < intervals.wilson(10, 10).low < intervals.wilson(300, 300).low
    assert intervals.ratio(np.zeros(300), np.ones(300), numbers).high == pytest.approx(1 - found.low, abs=1e-12)


def test_one_group_alone_says_next_to_nothing():
    found = intervals.ratio([1, 1, 0, 1], np.ones(4), np.zeros(4, int))
    assert found.low < 0.05
    assert found.high > 0.95


def test_groups_of_very_unequal_size_count_as_few():
    assert intervals.effective([5, 5, 5, 5]) == 4
    assert intervals.effective([997, 1, 1, 1]) == pytest.approx(1, abs=0.01)
    giant = np.repeat(np.arange(31), [300, *[1] * 30])
    hits = np.random.default_rng(0).random(330) < 0.8
    one, many = intervals.ratio(hits, np.ones(330), giant), intervals.ratio(hits, np.ones(330), np.arange(330))
    assert one.high - one.low > 4 * (many.high - many.low)


def test_several_answers_a_row_are_grouped_by_the_row():
    hits, totals = np.array([3, 0, 3, 3, 0, 3] * 5), np.full(30, 3)
    alone = intervals.wilson(20, 30)
    found = intervals.ratio(hits, totals)
    assert found.value == pytest.approx(2 / 3)
    # Answers that are all right or all wrong together: 30 rows' worth, not 90.
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_f1_from_overlap(seed):
    random = np.random.default_rng(seed)
    had, given = random.random((2, 60)) < 0.4
    overlap = intervals.ratio(had & given, had | given)
    found = intervals.f1_from_overlap(overlap)
    assert found.value == pytest.approx(reference.f1_score(had, given), abs=1e-12)
    for end, share in ((found.low, overlap.low), (found.high, overlap.high)):
        assert end / (2 - end) == pytest.approx(share, abs=1e-12)


def likelihood_score(difference, only_first, only_second, rows):
    """Tango's statistic with the likeliest shares under the difference found by a search."""
    lowest, highest = max(0.0, -difference), (1 - difference) / 2
    both = rows - only_first - only_second

    def loss(share):
        return -(
            only_first * np.log(max(share + difference, 1e-300))
            + only_second * np.log(max(share, 1e-300))
            + both * np.log(max(1 - 2 * share - difference, 1e-300))
        )

    share = optimize.minimize_scalar(loss, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-13}).x
    return (only_first - only_second - rows * difference) / np.sqrt(rows * (2 * share + difference - difference**2))


@pytest.mark.parametrize("counts", [(12, 5, 60), (40, 20, 160), (3, 9, 44), (1, 1, 30), (7, 2, 25_000), (30, 10, 40)])
def test_tango_ends_where_the_score_test_does_not_reject_yet(counts):
    found = intervals.tango(*counts)
    assert found.value == (counts[0] - counts[1]) / counts[2]
    assert likelihood_score(found.low, *counts) == pytest.approx(intervals.NORMAL_975, abs=1e-5)
    assert likelihood_score(found.high, *counts) == pytest.approx(-intervals.NORMAL_975, abs=1e-5)
    mirrored = intervals.tango(counts[1], counts[0], counts[2])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_tango_is_honest_where_the_two_never_disagree():
    square = intervals.NORMAL_975**2
    found = intervals.tango(0, 0, 50)
    assert (found.value, found.high) == (0, pytest.approx(square / (50 + square), abs=1e-12))
    assert found.low == -found.high
    whole = intervals.tango(20, 0, 20)
    assert (whole.value, whole.high) == (1, 1)
    assert whole.low < 0.9


def test_a_paired_difference_of_rows_is_tangos():
    first, second = np.arange(100) < 90, np.arange(100) < 80
    assert intervals.paired_difference(first, second) == intervals.tango(10, 0, 100)


def test_a_paired_difference_of_groups_is_wider_where_they_change_sides_together():
    first, second = np.zeros((2, 200), bool)
    first[:40], second[40:60] = True, True
    rows = intervals.paired_difference(first, second)
    groups = intervals.paired_difference(first, second, np.repeat(np.arange(20), 10))
    assert groups.value == rows.value == 0.1
    assert groups.low < 0 < rows.low
    ones = intervals.paired_difference(first, second, np.arange(200))
    # Groups of one row: only Student's t and n - 1 tell it from rows.
    assert (ones.low, ones.high) == pytest.approx((rows.low, rows.high), abs=0.003)
    same = intervals.paired_difference(first, first, np.repeat(np.arange(20), 10))
    assert same.low < intervals.tango(0, 0, 20).low


def test_shares_and_differences_stay_within_their_bounds():
    for only_first, only_second in itertools.product(range(6), range(6)):
        found = intervals.tango(only_first, only_second, 10)
        assert -1 <= found.low <= found.value <= found.high <= 1
