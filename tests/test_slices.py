"""Parts of the data: which there are, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from textlora import intervals, significance, slices
from textlora.resampling import Units
from textlora.slices import Part
from textlora.types import Slice, Split


def split(rows=12, **columns):
    names = tuple(map(str, range(rows)))
    return Split(names, names, (0,) * rows, **columns)


def found(rows, tokens, whole=None, **labels):
    return {(part.kind, part.name): np.flatnonzero(part.chosen).tolist() for part in slices.parts(rows, labels, np.array(tokens), whole)}  # fmt: skip


def test_a_text_on_the_edge_belongs_to_the_shorter_range():
    assert found(split(4), [64, 65, 512, 513]) == {
        ("length", "0–64"): [0],
        ("length", "65–128"): [1],
        ("length", "257–512"): [2],
        ("length", "over 512"): [3],
    }


def test_every_kind_of_part():
    rows = split(
        6,
        groups=("ann", "bob", "ann", "cat", "bob", "ann"),
        near_duplicates=(True, False, True, False, False, False),
        slices={"shop": ("x", "", "y", "x", "x", "y")},
    )
    labels = {"no": np.array([1, 1, 0, 0, 0, 0], bool), "never": np.zeros(6, bool)}
    assert found(rows, [9, 9, 9, 9, 9, 99], whole=64, **labels) == {
        ("length", "0–64"): [0, 1, 2, 3, 4],
        ("length", "65–128"): [5],
        ("truncated", "yes"): [5],
        ("truncated", "no"): [0, 1, 2, 3, 4],
        ("label", "no"): [0, 1],
        ("near_duplicate", "yes"): [0, 2],
        ("near_duplicate", "no"): [1, 3, 4, 5],
        ("group", "ann"): [0, 2, 5],
        ("group", "bob"): [1, 4],
        ("column:shop", "x"): [0, 3, 4],
        ("column:shop", "y"): [2, 5],
    }


def test_only_the_largest_groups_and_the_most_frequent_values():
    names = [str(number) for number in range(30) for _ in range(number + 1)]
    rows = split(len(names), groups=tuple(names), slices={"city": tuple(names)})
    parts = list(found(rows, [9] * len(names)))
    assert [name for kind, name in parts if kind == "group"] == [str(number) for number in range(29, 21, -1)]
    assert [name for kind, name in parts if kind == "column:city"] == [str(number) for number in range(29, 17, -1)]


def test_parts_of_which_there_is_nothing_to_tell_are_not_there():
    rows = split(3, near_duplicates=(False,) * 3)
    assert list(found(rows, [9] * 3, whole=64)) == [("length", "0–64")]


def parts_of(*masks):
    return [Part("label", str(place), np.asarray(mask, bool)) for place, mask in enumerate(masks)]


def test_a_worse_part_is_found_by_a_corrected_test():
    right = np.r_[np.ones(160), np.zeros(10), np.ones(15), np.zeros(15)].astype(bool)
    worse, rest = np.arange(200) >= 170, np.arange(200) < 60
    one, two = slices.judge(parts_of(worse, rest), right, Units(200))
    p_values = [stats.fisher_exact([[15, 15], [160, 10]]).pvalue, stats.fisher_exact([[60, 0], [115, 25]]).pvalue]
    assert (one.p_value, two.p_value) == pytest.approx(significance.holm(p_values), abs=1e-12)
    assert (one.verdict, two.verdict) == ("worse", "better")
    assert one.accuracy == intervals.wilson(15, 30)
    assert (one.rows, one.rest) == (30, 160 / 170)


def test_few_rows_cannot_tell_and_many_rows_show_no_difference():
    right = np.arange(4000) % 10 != 0
    few, many = np.arange(4000) < 12, np.arange(4000) >= 2000
    assert [part.verdict for part in slices.judge(parts_of(few, many), right, Units(4000))] == ["unknown", "same"]


def test_two_halves_and_equal_parts_are_one_test():
    right = np.r_[np.ones(80), np.zeros(9), np.ones(11)].astype(bool)
    half = np.arange(100) < 50
    alone = slices.judge(parts_of(half), right, Units(100))
    together = slices.judge(parts_of(half, ~half, half), right, Units(100))
    assert [part.p_value for part in together] == [alone[0].p_value] * 3
    assert [part.verdict for part in together] == ["better", "worse", "better"]


def test_all_rows_are_no_part():
    (whole,) = slices.judge(parts_of(np.ones(9)), np.ones(9, bool), Units(9))
    assert (whole.rest, whole.p_value, whole.verdict) == (None, None, "")


def test_groups_count_as_one_draw_but_a_group_speaks_for_itself():
    numbers = np.repeat(np.arange(20), 20)
    right = np.repeat(np.arange(20) % 4 != 0, 20)
    units, odd = Units.of(numbers, 400), numbers < 10
    as_rows, as_groups = (slices.judge(parts_of(odd), right, drawn)[0] for drawn in (Units(400), units))
    assert as_groups.p_value > as_rows.p_value
    assert as_groups.accuracy.low < as_rows.accuracy.low
    group = Part("group", "0", numbers == 0, grouped=False)
    (one,) = slices.judge([group], right, units)
    assert (one.verdict, one.accuracy) == ("worse", intervals.wilson(0, 20))


def test_parts_that_are_equal_are_called_worse_in_at_most_five_of_a_hundred_evaluations():
    """Of twenty parts one would be worse by chance alone in nearly every second evaluation."""
    random, alarms = np.random.default_rng(2), 0
    for _ in range(100):
        right, labels = random.random(600) < 0.9, random.integers(0, 20, 600)
        parts = parts_of(*(labels == label for label in range(20)))
        alarms += any(part.verdict in ("worse", "better") for part in slices.judge(parts, right, Units(600)))
    assert alarms / 100 <= 0.08


@pytest.mark.parametrize(
    ("kind", "name", "title"),
    [
        ("length", "over 512", "texts of over 512 tokens"),
        ("truncated", "yes", "texts of which a part was not seen"),
        ("truncated", "no", "texts seen whole"),
        ("near_duplicate", "yes", "rows with near-duplicates"),
        ("label", "joy", "label “joy”"),
        ("group", "ann", "group “ann”"),
        ("column:shop", "x", "shop “x”"),
    ],
)
def test_titles(kind, name, title):
    assert slices.title(Slice(name, 5, intervals.wilson(1, 5), kind)) == title
