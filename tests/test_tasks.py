"""The table of tasks, label cells, thresholds, and multi-label scores against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as reference

from textlora import intervals, multilabel_metrics, thresholds
from textlora.label_cells import as_list, form_of, items
from textlora.tasks import TASKS, above_thresholds, label_matrix, most_probable, sigmoid
from textlora.types import Split


@pytest.fixture(scope="module")
def answers():
    """300 rows with 0 to 4 of four labels, probabilities that know something, and decisions."""
    random = np.random.default_rng(5)
    truth = random.random((300, 4)) < (0.5, 0.3, 0.1, 0.03)
    probabilities = np.round(expit(1.5 * truth - 1 + random.normal(size=truth.shape)), 2)
    return truth, above_thresholds(probabilities, (0.5, 0.4, 0.3, 0.5)), probabilities


class TestTable:
    def test_probabilities_and_decisions(self):
        logits = np.array([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0], [-800.0, 800.0, 0.0]])
        single, multi = TASKS["single_label"], TASKS["multi_label"]
        np.testing.assert_allclose(single.probabilities(logits).sum(axis=1), 1)
        np.testing.assert_allclose(multi.probabilities(logits), expit(logits), rtol=1e-14)
        assert single.decide(single.probabilities(logits), ()).tolist() == [
            [False, True, False],
            [True, False, False],
            [False, True, False],
        ]
        assert multi.decide(multi.probabilities(logits), ()).tolist() == [
            [True, True, False],
            [True, True, True],
            [False, True, True],
        ]
        assert multi.decide(multi.probabilities(logits), (0.9, 0.1, 0.5)).tolist()[0] == [False, True, False]

    def test_no_rows(self):
        for rules in TASKS.values():
            assert rules.decide(rules.probabilities(np.zeros((0, 3))), ()).shape == (0, 3)

    def test_sigmoid_does_not_overflow(self):
        with np.errstate(all="raise", under="ignore"):
            assert sigmoid(np.array([[-1e5, 1e5]])).tolist() == [[0.0, 1.0]]

    def test_the_first_of_equals_wins(self):
        assert most_probable(np.array([[0.4, 0.4, 0.2]])).tolist() == [[True, False, False]]

    def test_label_matrix_of_both_tasks(self):
        assert label_matrix([1, 0], 3).tolist() == [[False, True, False], [True, False, False]]
        assert label_matrix([(0, 2), ()], 3).tolist() == [[True, False, True], [False, False, False]]

    def test_class_counts_of_both_tasks(self):
        assert Split(("a", "b"), ("x", "y"), (1, 1)).class_counts(3) == (0, 2, 0)
        assert Split(("a", "b"), ("x", "y"), ((0, 2), ())).class_counts(3) == (1, 0, 1)


class TestLabelCells:
    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            (["a", "b"], ["a", "b"]),
            (np.array(["a", "b"]), ["a", "b"]),
            ('["a", "b, c"]', ["a", "b, c"]),
            ("['a', \"it's\"]", ["a", "it's"]),
            (" [] ", []),
            ("[1, 2]", [1, 2]),
            ("a", None),
            ("[a, b]", None),
            ('[["a"]]', None),
            ("[__import__('os')]", None),
            ({"a": 1}, None),
            (3, None),
        ],
    )
    def test_lists(self, cell, expected):
        assert as_list(cell) == expected

    def test_the_form_is_that_of_most_filled_cells(self):
        assert form_of(["", None, "['a']", "['b', 'c']", "d"]) == "list"
        assert form_of(["a", "b", "[c]"]) == "one"
        assert form_of(["a", "b|c"], "|") == "separated"
        assert form_of([["a"], ["b"]], "|") == "list"
        assert form_of([]) == "one"

    def test_items_of_a_cell(self):
        assert items("a| b|", "separated", "|") == ["a", " b", ""]
        assert items(7, "separated", "|") == [7]
        assert items(float("nan"), "list", None) == items("  ", "separated", "|") == []
        assert items("a", "list", None) is None


def f1(had, given):
    return 2 * (had & given).sum() / (had.sum() + given.sum())


class TestThresholds:
    def test_they_have_the_best_f1_that_any_threshold_has(self, answers):
        truth, _, probabilities = answers
        for place, cut in enumerate(thresholds.fit(truth, probabilities)):
            had, scores = truth[:, place], probabilities[:, place]
            tried = [f1(had, scores >= other) for other in [*np.unique(scores), 1.1]]
            found = reference.f1_score(had, scores >= cut, zero_division=0)
            assert found == pytest.approx(max(tried), abs=1e-12)

    def test_they_lie_between_two_rows(self):
        truth = np.array([[True]] * 6 + [[False]] * 4)
        probabilities = np.array([[0.9, 0.8, 0.7, 0.7, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]]).T
        assert thresholds.fit(truth, probabilities) == (pytest.approx(0.5),)

    def test_of_equally_good_ones_the_nearest_to_a_half_is_taken(self):
        # 5 of 5 and 6 of 7: giving the label to the first five or to seven rows is equally good.
        truth = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0, 1]], bool).T
        probabilities = np.array([[0.99, 0.98, 0.97, 0.96, 0.95, 0.5, 0.4, 0.3, 0.2, 0.1]]).T
        scores = [2 * truth[:n].sum() / (n + 6) for n in range(1, 11)]
        assert scores.index(max(scores)) == 4
        assert thresholds.fit(truth, probabilities) == (pytest.approx(0.725),)

    def test_few_rows_keep_a_half(self):
        truth = np.array([[True]] * 4 + [[False]] * 20)
        assert thresholds.fit(truth, np.linspace(0.3, 0.01, 24)[:, None]) == (0.5,)
        assert thresholds.fit(np.zeros((9, 2), bool), np.full((9, 2), 0.1)) == (0.5, 0.5)

    def test_equal_probabilities_are_given_together(self):
        truth = np.array([[True]] * 5 + [[False]] * 5)
        cut = thresholds.fit(truth, np.full((10, 1), 0.2))
        assert above_thresholds(np.full((10, 1), 0.2), cut).all()

    def test_neighbouring_numbers_still_part(self):
        low = 0.3
        high = float(np.nextafter(low, 1))
        truth = np.array([[True]] * 5 + [[False]] * 5)
        probabilities = np.array([[high]] * 5 + [[low]] * 5)
        assert (above_thresholds(probabilities, thresholds.fit(truth, probabilities)) == truth).all()


class TestMultiLabelScores:
    def test_they_are_scikit_learns(self, answers):
        truth, chosen, probabilities = answers
        found = multilabel_metrics.point_scores(truth, chosen, probabilities)
        expected = {
            "accuracy": reference.accuracy_score(truth, chosen),
            "hamming_loss": reference.hamming_loss(truth, chosen),
            "roc_auc": reference.roc_auc_score(truth, probabilities),
            "average_precision": reference.average_precision_score(truth, probabilities),
            "log_loss": np.mean([reference.log_loss(truth[:, k], probabilities[:, k]) for k in range(4)]),
        }
        for average in ("micro", "macro"):
            scores = reference.precision_recall_fscore_support(truth, chosen, average=average, zero_division=0)
            expected |= {
                f"{name}_{average}": value for name, value in zip(("precision", "recall", "f1"), scores, strict=False)
            }
        assert found == pytest.approx(expected, abs=1e-12)

    def test_each_class_is_scikit_learns(self, answers):
        truth, chosen, probabilities = answers
        scores = multilabel_metrics.scores(truth, chosen, probabilities, label_names="abcd", resamples=50)
        expected = reference.precision_recall_fscore_support(truth, chosen, zero_division=0)
        for place, found in enumerate(scores.classes):
            values = [found.precision.value, found.recall.value, found.f1.value, found.support]
            np.testing.assert_allclose(values, [column[place] for column in expected], atol=1e-12)
            assert all(
                figure.low <= figure.value <= figure.high for figure in (found.precision, found.recall, found.f1)
            )
        assert set(scores.metrics) == set(multilabel_metrics.point_scores(truth, chosen, probabilities))

    def test_intervals_are_those_of_rows_drawn_again(self, answers):
        truth, chosen, probabilities = answers
        found = multilabel_metrics.scores(truth, chosen, probabilities, label_names="abcd", resamples=2000, seed=3)
        random, drawn = np.random.default_rng(4), []
        for _ in range(2000):
            rows = random.integers(0, 300, 300)
            drawn.append(np.mean([f1(truth[rows, place], chosen[rows, place]) for place in range(4)]))
        figure = found.metrics["f1_macro"]
        np.testing.assert_allclose([figure.low, figure.high], np.percentile(drawn, [2.5, 97.5]), atol=0.015)

    def test_confusions_are_scikit_learns(self, answers):
        truth, chosen, _ = answers
        expected = reference.multilabel_confusion_matrix(truth, chosen)
        assert multilabel_metrics.confusions(truth, chosen).tolist() == expected.tolist()

    def test_shares_of_answers_know_that_the_answers_of_a_row_belong_together(self, answers):
        truth, chosen, probabilities = answers
        found = multilabel_metrics.scores(truth, chosen, probabilities, label_names="abcd", resamples=50).metrics
        assert found["accuracy"] == intervals.wilson(int((truth == chosen).all(axis=1).sum()), 300)
        rows = np.repeat(np.arange(300), 4)
        wrong = (truth != chosen).ravel()
        assert found["hamming_loss"] == intervals.ratio(wrong, np.ones(1200), rows)
        overlap = intervals.ratio((truth & chosen).ravel(), (truth | chosen).ravel(), rows)
        assert found["f1_micro"] == intervals.f1_from_overlap(overlap)

    def test_a_label_without_rows_has_no_curve_and_no_ranking_score(self, answers):
        truth, chosen, probabilities = answers
        truth = truth & [True, True, True, False]
        roc, precision_recall = multilabel_metrics.curves(truth, probabilities, label_names="abcd")
        assert [curve.label for curve in roc] == [curve.label for curve in precision_recall] == ["a", "b", "c"]
        assert roc[1].area == pytest.approx(reference.roc_auc_score(truth[:, 1], probabilities[:, 1]))
        found = multilabel_metrics.point_scores(truth, chosen, probabilities)
        assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth[:, :3], probabilities[:, :3]))

    def test_validation_scores_are_those_at_the_thresholds_that_fit(self, answers):
        truth, _, probabilities = answers
        chosen = above_thresholds(probabilities, thresholds.fit(truth, probabilities))
        found = multilabel_metrics.validation_scores(truth.astype(float), probabilities)
        assert found == {
            "accuracy": pytest.approx(reference.accuracy_score(truth, chosen)),
            "f1_macro": pytest.approx(reference.f1_score(truth, chosen, average="macro")),
            "f1_micro": pytest.approx(reference.f1_score(truth, chosen, average="micro")),
        }
