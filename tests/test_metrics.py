"""Every figure against scikit-learn, the intervals against theory, the corners by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import sklearn.metrics as reference

from textlora import metrics

NAMES = {2: ("no", "yes"), 4: ("a", "b", "c", "d")}


def problem(classes, *, rows=400, seed=0, ties=False, skew=False):
    """A random problem that a classifier solves half-way; with ties and rare classes on request."""
    random = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1) ** (2.0 if skew else 0.0)
    y_true = random.choice(classes, size=rows, p=shares / shares.sum())
    logits = random.normal(size=(rows, classes))
    logits[np.arange(rows), y_true] += 1.0
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y_true, probabilities


def sklearn_scores(y_true, probabilities):
    y_pred, classes = probabilities.argmax(1), probabilities.shape[1]
    binary = classes == 2
    ranked = {
        "roc_auc": reference.roc_auc_score(y_true, probabilities[:, 1] if binary else probabilities, multi_class="ovr"),
        "average_precision": reference.average_precision_score(
            y_true, probabilities[:, 1] if binary else probabilities
        ),
        "log_loss": reference.log_loss(y_true, y_proba=probabilities),
    }
    macro = {"average": "macro", "zero_division": 0}
    return ranked | {
        "accuracy": reference.accuracy_score(y_true, y_pred),
        "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred),
        "precision_macro": reference.precision_score(y_true, y_pred, **macro),
        "recall_macro": reference.recall_score(y_true, y_pred, **macro),
        "f1_macro": reference.f1_score(y_true, y_pred, **macro),
        "mcc": reference.matthews_corrcoef(y_true, y_pred),
    }


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_score_equals_scikit_learns(classes, ties, skew, seed):
    y_true, probabilities = problem(classes, ties=ties, skew=skew, seed=seed)
    expected = sklearn_scores(y_true, probabilities)
    found = metrics.point_scores(y_true, probabilities)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_each_class_equal_scikit_learns(classes, ties):
    y_true, probabilities = problem(classes, ties=ties, skew=True)
    expected = reference.precision_recall_fscore_support(y_true, probabilities.argmax(1), zero_division=0)
    found = metrics.bootstrap(y_true, probabilities, label_names=NAMES[classes], resamples=20).classes
    assert tuple(scores.label for scores in found) == NAMES[classes]
    for index, scores in enumerate(found):
        values = (scores.precision.value, scores.recall.value, scores.f1.value, scores.support)
        assert values == pytest.approx([column[index] for column in expected], abs=1e-12)


def test_the_confusion_matrix_has_true_classes_in_rows():
    assert metrics.confusion_matrix([0, 0, 0, 1], [0, 1, 1, 1], classes=3).tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_scikit_learns_before_thinning(ties):
    y_true, probabilities = problem(2, ties=ties)
    positive, score = y_true == 1, probabilities[:, 1]
    x, y, _ = reference.roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_points(positive, score), (x, y), atol=1e-12)
    precision, recall, _ = reference.precision_recall_curve(positive, score)
    np.testing.assert_allclose(
        metrics.precision_recall_points(positive, score), (recall[::-1], precision[::-1]), atol=1e-12
    )


def test_thinned_curves_are_small_and_lose_no_area():
    y_true, probabilities = problem(4, rows=5000)
    roc, precision_recall = metrics.curves(y_true, probabilities, label_names=NAMES[4])
    assert [curve.label for curve in roc] == list(NAMES[4])
    for curve in (*roc, *precision_recall):
        assert 100 < len(curve.x) <= metrics.CURVE_POINTS
        assert curve.x[0] == 0
        assert curve.x[-1] == 1
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(curve.area, abs=0.005)
    assert roc[2].area == pytest.approx(reference.roc_auc_score(y_true == 2, probabilities[:, 2]), abs=1e-12)


def test_two_classes_have_one_curve_for_the_last_label():
    roc, precision_recall = metrics.curves(*problem(2), label_names=NAMES[2])
    assert [curve.label for curve in (*roc, *precision_recall)] == ["yes", "yes"]


def test_validation_scores():
    y_true, probabilities = problem(4, skew=True)
    expected = sklearn_scores(y_true, probabilities)
    found = metrics.validation_scores(y_true, probabilities)
    assert found == pytest.approx(
        {"accuracy": expected["accuracy"], "f1_macro": expected["f1_macro"], "loss": expected["log_loss"]}, abs=1e-12
    )


def test_the_interval_of_the_accuracy_is_the_normal_one_on_many_rows():
    y_true, probabilities = problem(2, rows=20_000)
    accuracy = metrics.bootstrap(y_true, probabilities, label_names=NAMES[2], resamples=1000).metrics["accuracy"]
    half = 1.96 * math.sqrt(accuracy.value * (1 - accuracy.value) / 20_000)
    assert accuracy.low == pytest.approx(accuracy.value - half, abs=half / 8)
    assert accuracy.high == pytest.approx(accuracy.value + half, abs=half / 8)


def test_the_two_ways_of_resampling_agree_with_a_plain_loop():
    y_true, probabilities = problem(4, rows=200)
    found = metrics.bootstrap(y_true, probabilities, label_names=NAMES[4], resamples=2000, seed=1).metrics
    random = np.random.default_rng(2)
    draws = [random.integers(0, 200, 200) for _ in range(1000)]
    loop = [metrics.point_scores(y_true[rows], probabilities[rows]) for rows in draws]
    for name, interval in found.items():
        values = np.array([scores[name] for scores in loop])
        low, high = np.percentile(values, [2.5, 97.5])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.15 * (high - low)), name


def test_intervals_enclose_their_value_and_follow_the_seed():
    first, same, other = (
        metrics.bootstrap(*problem(2), label_names=NAMES[2], resamples=200, seed=seed).metrics for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other
    assert all(interval.low < interval.value < interval.high for interval in first.values())


def test_a_class_never_predicted_has_precision_zero():
    scores = metrics.bootstrap([0, 0, 0, 1], np.tile([0.9, 0.1], (4, 1)), label_names=NAMES[2], resamples=100)
    assert (scores.classes[1].precision.value, scores.classes[1].recall.value, scores.classes[1].f1.value) == (0, 0, 0)
    assert scores.metrics["mcc"].value == 0
    assert scores.metrics["roc_auc"].value == 0.5
    assert scores.metrics["accuracy"].value == 0.75


def test_a_rare_class_gives_finite_intervals_although_some_resamples_lack_it():
    y_true, probabilities = problem(4, rows=30)
    y_true[:] = np.arange(30) % 2
    y_true[0] = 3  # one row only; class 2 has none
    scores = metrics.bootstrap(y_true, probabilities, label_names=NAMES[4], resamples=300)
    json.dumps(asdict(scores), allow_nan=False)
    assert scores.metrics["balanced_accuracy"].value == pytest.approx(
        reference.balanced_accuracy_score(y_true, probabilities.argmax(1)), abs=1e-12
    )
    one_vs_rest = [reference.roc_auc_score(y_true == index, probabilities[:, index]) for index in (0, 1, 3)]
    assert scores.metrics["roc_auc"].value == pytest.approx(np.mean(one_vs_rest), abs=1e-12)
    assert [curve.label for curve in metrics.curves(y_true, probabilities, label_names=NAMES[4])[0]] == ["a", "b", "d"]


def test_rows_of_one_class_have_no_ranking_scores():
    scores = metrics.bootstrap(
        [1, 1, 1], np.array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]]), label_names=NAMES[2], resamples=50
    )
    assert "roc_auc" not in scores.metrics
    assert "average_precision" not in scores.metrics
    assert scores.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert metrics.curves([1, 1], np.array([[0.2, 0.8], [0.6, 0.4]]), label_names=NAMES[2]) == ((), ())


def test_a_certain_and_wrong_row_has_a_finite_loss():
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.row_losses([1, 1], certain) == pytest.approx([-math.log(np.finfo(float).eps), 0], abs=1e-12)
    assert metrics.point_scores([1, 1], certain)["log_loss"] == pytest.approx(
        reference.log_loss([1, 1], y_proba=certain, labels=[0, 1]), abs=1e-12
    )


def test_the_advantage_is_paired():
    # Both right on the same 80 rows, we alone on 10, they alone on none: clearly better, although
    # the two accuracies' own intervals (0.9 and 0.8 of 100 rows) overlap.
    ours, theirs = np.arange(100) < 90, np.arange(100) < 80
    found = metrics.advantage(ours, theirs)
    assert found.value == pytest.approx(0.1)
    assert 0.03 < found.low < found.high < 0.18
    assert metrics.advantage(theirs, theirs) == metrics.Interval(0, 0, 0)
    swapped = metrics.advantage(theirs, ours)
    assert swapped.value == pytest.approx(-0.1)
    assert swapped.high < 0


def test_wilson_gives_the_published_example_and_is_honest_at_the_ends():
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    assert metrics.wilson(81, 263) == metrics.Interval(
        81 / 263, pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5)
    )
    assert metrics.wilson(0, 20) == metrics.Interval(0, 0, pytest.approx(0.1611, abs=5e-5))
    assert metrics.wilson(20, 20) == metrics.Interval(1, pytest.approx(1 - 0.1611, abs=5e-5), 1)


def test_the_bootstrap_is_fast_enough_for_a_large_test_split():
    import time

    y_true, probabilities = problem(2, rows=25_000)
    started = time.perf_counter()
    metrics.bootstrap(y_true, probabilities, label_names=NAMES[2])
    assert time.perf_counter() - started < 15  # about 1 s on one core
