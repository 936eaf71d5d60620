"""Every figure against scikit-learn, the intervals against theory, the corners by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy import stats

from textlora import metrics, ranking
from textlora.confusion import confusion_matrix
from textlora.intervals import f1_from_overlap, wilson
from textlora.resampling import Units

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
    found = metrics.scores(y_true, probabilities, label_names=NAMES[classes], resamples=20).classes
    assert tuple(scores.label for scores in found) == NAMES[classes]
    for index, scores in enumerate(found):
        values = (scores.precision.value, scores.recall.value, scores.f1.value, scores.support)
        assert values == pytest.approx([column[index] for column in expected], abs=1e-12)


def test_the_confusion_matrix_has_true_classes_in_rows():
    assert confusion_matrix([0, 0, 0, 1], [0, 1, 1, 1], classes=3).tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_scikit_learns_before_thinning(ties):
    y_true, probabilities = problem(2, ties=ties)
    positive, score = y_true == 1, probabilities[:, 1]
    x, y, _ = reference.roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(ranking.roc_points(positive, score), (x, y), atol=1e-12)
    precision, recall, _ = reference.precision_recall_curve(positive, score)
    np.testing.assert_allclose(
        ranking.precision_recall_points(positive, score), (recall[::-1], precision[::-1]), atol=1e-12
    )


def test_thinned_curves_are_small_and_lose_no_area():
    y_true, probabilities = problem(4, rows=5000)
    roc, precision_recall = metrics.curves(y_true, probabilities, label_names=NAMES[4])
    assert [curve.label for curve in roc] == list(NAMES[4])
    for curve in (*roc, *precision_recall):
        assert 100 < len(curve.x) <= ranking.CURVE_POINTS
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


def test_accuracy_and_the_figures_of_a_class_have_wilson_intervals():
    y_true, probabilities = problem(4, skew=True)
    found, predicted = (
        metrics.scores(y_true, probabilities, label_names=NAMES[4], resamples=20),
        probabilities.argmax(1),
    )
    assert found.metrics["accuracy"] == wilson(int((y_true == predicted).sum()), 400)
    for place, scores in enumerate(found.classes):
        had, given = y_true == place, predicted == place
        assert scores.recall == wilson(int((had & given).sum()), int(had.sum()))
        assert scores.precision == wilson(int((had & given).sum()), int(given.sum()))
        assert scores.f1 == f1_from_overlap(wilson(int((had & given).sum()), int((had | given).sum())))


CORRECTED = ("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "mcc", "roc_auc", "average_precision", "log_loss")  # fmt: skip


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_agrees_with_a_plain_loop(grouped):
    """Rows or groups drawn one by one, scored by the functions above, percentiles corrected by the textbook."""
    y_true, probabilities = problem(4, rows=200)
    numbers = np.arange(200) // 4 if grouped else np.arange(200)
    units = Units.of(numbers, 200)
    found = metrics.scores(y_true, probabilities, label_names=NAMES[4], units=units, resamples=2000, seed=1).metrics
    random, count = np.random.default_rng(2), 50 if grouped else 200
    draws = [
        np.concatenate([np.flatnonzero(numbers == unit) for unit in random.integers(0, count, count)])
        for _ in range(800)
    ]
    loop = [metrics.point_scores(y_true[rows], probabilities[rows]) for rows in draws]
    wider = stats.t(count - 1).ppf(0.975) / 1.96 * math.sqrt(count / (count - 1))
    for name in CORRECTED:
        values, value = np.array([scores[name] for scores in loop]), found[name].value
        shift = stats.norm.ppf((values < value).mean())
        low, high = np.quantile(values, stats.norm.cdf(2 * shift + np.array([-1.96, 1.96])))
        expected = value - wider * (value - low), value + wider * (high - value)
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=0.15 * (high - low)), name


def test_intervals_enclose_their_value_and_follow_the_seed():
    first, same, other = (
        metrics.scores(*problem(2), label_names=NAMES[2], resamples=200, seed=seed).metrics for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other
    assert all(interval.low < interval.value < interval.high for interval in first.values())


def test_a_class_never_predicted_has_precision_zero():
    scores = metrics.scores([0, 0, 0, 1], np.tile([0.9, 0.1], (4, 1)), label_names=NAMES[2], resamples=100)
    assert (scores.classes[1].precision.value, scores.classes[1].recall.value, scores.classes[1].f1.value) == (0, 0, 0)
    assert scores.metrics["mcc"].value == 0
    assert scores.metrics["roc_auc"].value == 0.5
    assert scores.metrics["accuracy"].value == 0.75


def test_a_rare_class_gives_finite_intervals_although_some_resamples_lack_it():
    y_true, probabilities = problem(4, rows=30)
    y_true[:] = np.arange(30) % 2
    y_true[0] = 3  # one row only; class 2 has none
    scores = metrics.scores(y_true, probabilities, label_names=NAMES[4], resamples=300)
    json.dumps(asdict(scores), allow_nan=False)
    assert scores.metrics["balanced_accuracy"].value == pytest.approx(
        reference.balanced_accuracy_score(y_true, probabilities.argmax(1)), abs=1e-12
    )
    one_vs_rest = [reference.roc_auc_score(y_true == index, probabilities[:, index]) for index in (0, 1, 3)]
    assert scores.metrics["roc_auc"].value == pytest.approx(np.mean(one_vs_rest), abs=1e-12)
    assert [curve.label for curve in metrics.curves(y_true, probabilities, label_names=NAMES[4])[0]] == ["a", "b", "d"]


def test_rows_of_one_class_have_no_ranking_scores():
    scores = metrics.scores(
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


def test_the_bootstrap_is_fast_enough_for_a_large_test_split():
    import time

    y_true, probabilities = problem(2, rows=25_000)
    started = time.perf_counter()
    metrics.scores(y_true, probabilities, label_names=NAMES[2])
    assert time.perf_counter() - started < 15  # about 1 s on one core
