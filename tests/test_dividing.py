"""Rows divided into folds: labels in their shares, groups and near-duplicates whole, everything told that cannot be."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from tests.conftest import WORDS
from tests.test_multilabel import texts_and_labels
from textlora.errors import DataError, UsageError
from textlora.preparation import crossing, prepare
from textlora.preparation.crossing import fold_dataset, make_folds
from textlora.preparation.dividing import divide, labelled
from textlora.preparation.views import Picked
from textlora.settings import build

EVEN = [0.2] * 5


def alone(rows):
    return np.arange(rows, dtype=np.int32)


def counts(labels, parts, size=5):
    return np.array([np.bincount(np.array(labels)[parts == place], minlength=max(labels) + 1) for place in range(size)])


class TestDivide:
    @pytest.mark.parametrize("seed", range(5))
    def test_free_rows_are_even_to_one_row_in_every_label_and_in_all(self, seed):
        labels = random.Random(seed).choices(range(4), weights=[8, 4, 2, 1], k=203)
        parts = divide(labelled(labels), alone(203), EVEN, seed)
        found = counts(labels, parts)
        assert (found.max(axis=0) - found.min(axis=0)).max() <= 1
        assert found.sum(axis=1).max() - found.sum(axis=1).min() <= 1

    def test_the_seed_decides(self):
        labels = [0, 1] * 50
        first, again, other = (divide(labelled(labels), alone(100), EVEN, seed) for seed in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).any()

    @pytest.mark.parametrize("seed", range(5))
    def test_units_stay_whole_and_folds_are_as_even_as_scikit_learns(self, seed):
        draw = random.Random(seed)
        units = np.array([draw.choice([n, n, n // 7, n // 40]) for n in range(400)], np.int32)
        labels = [draw.choices((0, 1), weights=(3, 1 + unit % 2))[0] for unit in units.tolist()]
        parts = divide(labelled(labels), units, EVEN, seed)
        assert all(len(set(parts[units == unit].tolist())) == 1 for unit in set(units.tolist()))
        theirs = np.zeros(400, int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for number, (_, held) in enumerate(splitter.split(labels, labels, units)):
            theirs[held] = number
        wanted = np.bincount(labels) / 5
        ours_off, theirs_off = (np.abs(counts(labels, found) - wanted).max() for found in (parts, theirs))
        assert ours_off <= max(1.0, theirs_off)

    def test_a_giant_unit_leaves_the_others_even(self):
        units = np.array([0] * 200 + list(range(1, 201)), np.int32)
        labels = [n % 2 for n in range(400)]
        sizes = sorted(Counter(divide(labelled(labels), units, EVEN, 0).tolist()).values())
        assert sizes == [50, 50, 50, 50, 200]

    def test_every_label_is_in_every_part_as_far_as_there_are_units(self):
        units = np.array([number // 4 for number in range(80)], np.int32)
        labels = [
            2 if unit in (1, 3, 5, 7, 9) and row % 4 == 0 else unit % 2 for row, unit in enumerate(units.tolist())
        ]
        found = counts(labels, divide(labelled(labels), units, EVEN, 3))
        assert found.min() > 0

    def test_uneven_shares(self):
        labels = [n % 3 for n in range(300)]
        parts = divide(labelled(labels), alone(300), [0.89, 0.11], 0)
        assert counts(labels, parts, 2).tolist() == [[89, 89, 89], [11, 11, 11]]

    def test_rows_with_several_labels(self):
        _, names = texts_and_labels(400)
        order = ["joy", "anger", "fear"]
        labels = [tuple(order.index(name) for name in row) for row in names]
        units = np.array([n if n % 3 else n // 30 * 30 for n in range(400)], np.int32)
        parts = divide(labelled(labels), units, EVEN, 0)
        assert all(len(set(parts[units == unit].tolist())) == 1 for unit in set(units.tolist()))
        for label in range(3):
            found = np.bincount(parts[[label in row for row in labels]], minlength=5)
            assert found.max() - found.min() <= 0.35 * found.mean()


def frame(rows, *, label=lambda n: n % 2, **columns):
    draw = random.Random(5)
    data = {
        "text": [f"{' '.join(draw.choices(WORDS, k=12))} {n}" for n in range(rows)],
        "label": [f"l{label(n)}" for n in range(rows)],
    }
    return pd.DataFrame(data | {name: [value(n) for n in range(rows)] for name, value in columns.items()})


def prepared(data, folder, **named):
    return prepare(data, out=folder, settings=build({"data.near_duplicates": 0, **named}))


def refused(kind, dataset, number):
    with pytest.raises(kind) as error:
        make_folds(dataset, number)
    return str(error.value)


class TestFolds:
    def test_each_row_is_held_out_once_and_never_seen_by_its_training(self, tmp_path):
        dataset = prepared(frame(200), tmp_path)
        folds = make_folds(dataset, 4).folds
        rows = len(dataset.train) + len(dataset.validation)
        assert sorted(np.concatenate([fold.held_out for fold in folds]).tolist()) == list(range(rows))
        for fold in folds:
            assert sorted(np.concatenate(list(fold.parts().values())).tolist()) == list(range(rows))
            # As many rows choose the checkpoint, in proportion, as in the run itself.
            assert len(fold.validation) == round((rows - len(fold.held_out)) * len(dataset.validation) / rows)

    def test_the_test_split_takes_no_part(self, tmp_path):
        dataset = prepared(frame(200), tmp_path)
        found = fold_dataset(dataset, make_folds(dataset, 4).folds[1], number=2, of=4, folder=tmp_path / "2")
        ids = {row for split in found.splits().values() for row in split.ids}
        assert not ids & set(dataset.test.ids)
        assert ids == {*dataset.train.ids, *dataset.validation.ids}
        assert found.info.split_counts["test"] == found.test.class_counts(2)
        assert found.fingerprint != dataset.fingerprint
        assert [row.text for row in found.train][:3] == list(found.train.texts[:3])

    def test_groups_stay_whole_in_folds_and_in_their_validation_parts(self, tmp_path):
        dataset = prepared(frame(300, author=lambda n: f"a{n % 37}"), tmp_path, **{"data.group_column": "author"})
        groups = [*dataset.train.groups, *dataset.validation.groups]
        for fold in make_folds(dataset, 5).folds:
            seen = [{groups[place] for place in places.tolist()} for places in fold.parts().values()]
            assert sum(map(len, seen)) == len(set.union(*seen))

    def test_near_duplicates_stay_together(self, tmp_path):
        data = frame(120)
        data["text"] = [f"{data['text'][n // 3 * 3]} {'again ' * (n % 3)}" for n in range(120)]
        data["label"] = [f"l{n // 3 % 2}" for n in range(120)]
        dataset = prepare(data, out=tmp_path)
        found = [*dataset.train.clusters, *dataset.validation.clusters]
        assert len(set(found)) < 60
        for fold in make_folds(dataset, 4).folds:
            seen = [{found[place] for place in places.tolist()} for places in fold.parts().values()]
            assert sum(map(len, seen)) == len(set.union(*seen))

    def test_a_group_larger_than_a_fold_is_told(self, tmp_path):
        data = frame(300, author=lambda n: "big" if n % 3 == 0 else f"a{n}")
        dataset = prepared(data, tmp_path, **{"data.group_column": "author"})
        division = make_folds(dataset, 5)
        sizes = sorted(len(fold.held_out) for fold in division.folds)
        assert division.notes == (
            f"The largest unit that stays whole (groups of 'author' and near-duplicates) has 100 rows, more than the "
            f"{sum(sizes) / 5:,.0f} of an even fold: the folds have {sizes[0]} to 100 rows.",
        )
        assert sizes[-2] - sizes[0] <= 1

    def test_even_folds_need_no_words(self, tmp_path):
        assert make_folds(prepared(frame(200), tmp_path), 5).notes == ()

    def test_a_fold_without_one_of_several_labels_is_told(self, tmp_path):
        data = frame(120)
        data["label"] = ["a|b" if n % 2 else "a" for n in range(117)] + ["rare|b"] * 3
        dataset = prepared(data, tmp_path, **{"data.label_separator": "|"})
        notes = make_folds(dataset, 4).notes
        assert notes
        assert all("holds no row with the label 'rare'." in note for note in notes)


class TestRefused:
    def test_fewer_rows_of_a_label_than_folds(self, tmp_path):
        dataset = prepared(frame(100, label=lambda n: 2 if n < 5 else n % 2), tmp_path)
        assert refused(DataError, dataset, 5) == (
            "5 folds need 5 rows of every label among the training and validation rows; some have fewer:\n"
            "  - the label 'l2' has 4\n"
            "Take --folds 4, add rows, or name the labels that count with --labels."
        )

    def test_a_group_that_spans_everything(self, tmp_path):
        data = frame(90, author=lambda n: "all" if n < 80 else f"t{n // 5}")
        dataset = prepared(data, tmp_path, **{"data.group_column": "author"})
        assert refused(DataError, dataset, 3).startswith(
            "The training and validation rows are 2 units that stay whole (groups of 'author' and near-duplicates); 3 folds need 3 at least.\n"
        )
        assert refused(DataError, dataset, 2).startswith(
            "The training and validation rows are 2 units that stay whole (groups of 'author' and near-duplicates); 2 folds need 3 at least.\n"
        )

    def test_one_label_in_a_fold(self, tmp_path):
        # Each author writes one label only, and of one label there are two authors.
        data = frame(120, label=lambda n: int(n % 12 < 2), author=lambda n: f"a{n % 12}" if n < 96 else f"t{n % 12}")
        dataset = prepared(data, tmp_path, **{"data.group_column": "author"})
        message = refused(DataError, dataset, 5)
        assert message.startswith("These folds cannot be used:\n")
        assert "the held-out part has rows of one label only, 'l0'" in message
        assert message.endswith("take another number of them, a finer column with --group, or add rows.")

    def test_rows_in_time(self, tmp_path):
        dataset = prepared(frame(100, day=lambda n: n), tmp_path, **{"data.time_column": "day"})
        assert refused(UsageError, dataset, 5) == (
            "The rows are split by the time 'day': folds would learn from rows that are newer than those they are scored on.\n"
            "Leave out --folds, or leave out --time to split by label."
        )


def test_views_read_what_is_asked_for():
    view = Picked([("a", "b", "c"), ("d",), ("e", "f")], np.array([5, 0, 3]))
    assert (list(view), view[0], view[-1], view[1:]) == (["f", "a", "d"], "f", "d", ("a", "d"))
    assert len(view) == 3
    assert crossing.USED == ("train", "validation")
