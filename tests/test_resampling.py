"""Which rows are drawn together, and what becomes of the draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from textlora import intervals
from textlora.resampling import Doubt, Share, Units, mean_doubt, small_mean
from textlora.types import Interval, Split


def split(groups=None, clusters=None, rows=6):
    names = tuple(map(str, range(rows)))
    return Split(names, names, (0,) * rows, groups=groups, clusters=clusters)


def together(units):
    return {frozenset(np.flatnonzero(units.numbers == number).tolist()) for number in range(len(units.sizes))}


def test_groups_and_clusters_of_near_duplicates_are_drawn_together():
    assert not Units.of_split(split()).grouped
    assert together(Units.of_split(split(groups="aabbcc"))) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4, 5})}
    clusters = Units.of_split(split(clusters=(7, 1, 7, 3, 4, 5)))
    assert together(clusters) == {frozenset({0, 2}), *(frozenset({row}) for row in (1, 3, 4, 5))}
    assert clusters.sizes.sum() == 6
    joined = Units.of_split(split(groups="aabbcd", clusters=(0, 2, 2, 3, 4, 5)))
    assert together(joined) == {frozenset({0, 1, 2, 3}), frozenset({4}), frozenset({5})}


def test_groups_of_one_row_are_rows_and_one_group_shows_nothing_of_others():
    assert Units.of_split(split(groups="abcdef")) == Units(6)
    assert Units.of_split(split(groups="aaaaaa")) == Units(6, single=True)
    assert not Units.of_split(split(groups="aaaaaa")).grouped


def test_whole_groups_are_drawn():
    units = Units.of(np.array([0, 0, 0, 1, 1, 2]), 6)
    drawn = np.concatenate(list(units.weights(500, 3)))
    assert drawn.shape == (500, 6)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 3] == drawn[:, 4]).all()
    assert (drawn[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)
    np.testing.assert_array_equal(drawn, np.concatenate(list(units.weights(500, 3))))


def test_an_interval_of_normal_draws_is_the_normal_one_moved_apart_for_few_rows():
    drawn = np.random.default_rng(0).normal(0.5, 0.05, 200_000)
    found = Units(20).interval(0.5, drawn, bounds=(0, 1))
    half = 0.05 * stats.t(19).ppf(0.975) * np.sqrt(20 / 19)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.002)


def test_draws_that_are_too_low_as_often_as_the_rows_themselves_are_corrected_twice():
    """If resamples fall short of the rows by a shift, the rows fall short of the truth by as much."""
    drawn = np.random.default_rng(0).normal(0.48, 0.02, 200_000)
    found = Units(100_000).interval(0.5, drawn, bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx((0.52 - 1.96 * 0.02, 0.52 + 1.96 * 0.02), abs=0.001)


def test_what_no_resample_shows_widens_the_interval_and_bounds_hold():
    units = Units(50)
    assert units.interval(1.0, np.ones(100), bounds=(0, 1)) == Interval(1, 1, 1)
    faultless = units.interval(1.0, np.ones(100), bounds=(0, 1), doubt=Doubt(down=0.1))
    assert faultless == Interval(1, 0.9, 1)
    undefined = units.interval(0.02, np.full(9, np.nan), bounds=(0, 1), doubt=Doubt(down=0.1, up=0.2))
    assert undefined == Interval(0.02, 0, pytest.approx(0.22))


def share(value, low, high, units):
    return Share(Interval(value, low, high), units)


def test_the_doubt_of_a_mean_of_shares():
    shares = [share(1, 0.6, 1, 9), share(1, 0.9, 1, 40), share(0, 0, 0.3, 8), share(0.5, 0.2, 0.8, 10)]
    found = mean_doubt(shares, classes=4)
    assert (found.down, found.up) == pytest.approx((0.1, 0.075), abs=1e-12)
    # One share alone has a spread: n / (n - 1), and Student's t with 9 degrees of freedom.
    assert found.wider == pytest.approx(stats.t(9).ppf(0.975) / intervals.NORMAL_975 * np.sqrt(10 / 9), abs=1e-12)
    never = [share(0, 0, 1, 0), share(0.5, 0.2, 0.8, 10)]
    assert mean_doubt(never, classes=2).up == 0.5
    assert mean_doubt(never, classes=2, absent=False).up == 0


def test_a_mean_has_satterthwaites_degrees_of_freedom():
    assert small_mean([], []) == 1
    # Two equal estimates from 6 units each: 10 degrees of freedom.
    assert small_mean([2.0, 2.0], [6, 6]) == pytest.approx(
        stats.t(10).ppf(0.975) / intervals.NORMAL_975 * np.sqrt(6 / 5), abs=1e-12
    )
    variances, units = np.array([0.04, 0.01]), np.array([5, 50])
    unbiased = variances * units / (units - 1)
    freedom = unbiased.sum() ** 2 / (unbiased**2 / (units - 1)).sum()
    expected = stats.t(freedom).ppf(0.975) / intervals.NORMAL_975 * np.sqrt(unbiased.sum() / variances.sum())
    assert small_mean(variances.tolist(), units.tolist()) == pytest.approx(expected, abs=1e-12)


def test_few_groups_hardly_show_how_much_their_rows_are_alike():
    right = np.arange(200) % 10 != 0
    few, many = (Units.of(np.arange(200) // size, 200).judged(right).unsure for size in (40, 4))
    assert few > many > 1
    assert Units(200).judged(right) == Units(200)


def test_the_share_that_may_hide_is_wilsons():
    marks = np.array([True] * 12 + [False] * 8)
    assert Units(20).unseen(marks) == pytest.approx(1 - intervals.wilson(12, 12).low, abs=1e-12)
    grouped = Units.of(np.arange(20) // 4, 20)
    assert grouped.unseen(marks) > Units(20).unseen(marks)
    assert grouped.among(marks).sizes.tolist() == [4, 4, 4]


def test_a_class_without_rows_has_no_units():
    assert Units.of(np.arange(20) // 4, 20).effective(np.zeros(20, bool)) == 0
    assert Units(20).effective(np.zeros(20, bool)) == 0
