"""Folds: equal shares of every label, and what belongs together in one of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from textlora.preparation.folding import assign_folds
from textlora.preparation.grouped import LabelledRows
from textlora.preparation.label_sets import LabelSets


def labelled(classes: list[int] | np.ndarray) -> LabelledRows:
    return LabelledRows(np.asarray(classes, np.int32))


def table(folds: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Rows of each label (C,) in each fold, (K, C)."""
    return np.stack([np.bincount(classes[folds == fold], minlength=classes.max() + 1) for fold in range(count)])


class TestFreeRows:
    @pytest.mark.parametrize("folds", [2, 3, 5, 10])
    def test_no_count_is_more_than_a_row_off(self, folds):
        classes = np.random.default_rng(0).choice(4, 997, p=[0.6, 0.3, 0.08, 0.02]).astype(np.int32)
        found = table(assign_folds(labelled(classes), None, folds, seed=1), classes, folds)
        assert (found.max(axis=0) - found.min(axis=0)).max() <= 1
        assert np.ptp(found.sum(axis=1)) <= 1

    def test_a_label_with_one_row_for_each_fold(self):
        classes = np.array([0] * 20 + [1] * 5, np.int32)
        assert table(assign_folds(labelled(classes), None, 5, seed=0), classes, 5)[:, 1].tolist() == [1] * 5

    def test_the_seed_decides(self):
        rows = labelled([0, 1] * 50)
        first, again, other = (assign_folds(rows, None, 5, seed=seed) for seed in (3, 3, 4))
        assert first.tolist() == again.tolist() != other.tolist()


class TestUnits:
    def units(self, count: int, seed: int = 0) -> np.ndarray:
        """Rows in units of one to six; each stands for its first row."""
        generator = np.random.default_rng(seed)
        found: list[int] = []
        while len(found) < count:
            found += [len(found)] * int(generator.integers(1, 7))
        return np.array(found[:count], np.int32)

    def test_a_unit_is_in_one_fold(self):
        units = self.units(600)
        classes = np.random.default_rng(1).integers(0, 3, 600).astype(np.int32)
        folds = assign_folds(labelled(classes), units, 5, seed=2)
        assert all(len(set(folds[units == unit])) == 1 for unit in np.unique(units))

    def test_labels_are_as_even_as_scikit_learn_makes_them(self):
        units = self.units(600)
        classes = np.random.default_rng(1).integers(0, 3, 600).astype(np.int32)
        ours = table(assign_folds(labelled(classes), units, 5, seed=2), classes, 5)
        theirs = np.zeros(600, np.int8)
        splits = StratifiedGroupKFold(5, shuffle=True, random_state=2).split(units, classes, units)
        for fold, (_, rows) in enumerate(splits):
            theirs[rows] = fold
        assert np.ptp(ours, axis=0).max() <= max(3, np.ptp(table(theirs, classes, 5), axis=0).max())

    def test_single_rows_fill_up_what_units_left(self):
        """One unit holds a third of a label: the other folds get its single rows."""
        units = np.array([0] * 20 + list(range(20, 100)), np.int32)
        classes = np.array([1] * 20 + [1] * 40 + [0] * 40, np.int32)
        found = table(assign_folds(labelled(classes), units, 5, seed=0), classes, 5)
        assert sorted(found[:, 1].tolist()) == [10, 10, 10, 10, 20]


class TestSeveralLabels:
    def test_every_label_has_its_share_in_each_fold(self):
        generator = np.random.default_rng(5)
        members = [(), (0,), (1,), (0, 1), (2,), (1, 2)]
        rows = LabelledRows(generator.integers(0, len(members), 600).astype(np.int32), LabelSets(members))
        folds = assign_folds(rows, None, 4, seed=0)
        counts = np.stack([rows.counts(folds == fold) for fold in range(4)])
        assert np.abs(counts - counts.mean(axis=0)).max() <= 3  # the last column counts the rows
