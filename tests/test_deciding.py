"""Temperature, thresholds by a goal, sets of labels: the mathematics against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, f1_score, log_loss, precision_score, recall_score

from textlora import thresholds
from textlora.deciding import (
    Labels,
    Wanted,
    candidates,
    conformal,
    decide,
    fit_decision,
    probabilities_of,
    problems,
    reliability,
    telling,
    temperature,
    trust,
)
from textlora.decision import Abstention, Decision
from textlora.errors import UsageError
from textlora.interval import Interval
from textlora.settings import build
from textlora.tasks import TASKS, label_matrix
from textlora.types import Bundle, Split


def drawn(rows, classes, *, sharpness=1.0, task="single_label", seed=0):
    """Logits whose labels were drawn from their own probabilities, then multiplied by ``sharpness``."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 1.5
    probabilities = TASKS[task].probabilities(logits)
    if task == "multi_label":
        truth = generator.random(logits.shape) < probabilities
    else:
        labels = (probabilities.cumsum(1) < generator.random((rows, 1))).sum(1).clip(max=classes - 1)
        truth = label_matrix(labels.tolist(), classes)
    return logits * sharpness, truth


class GivenLogits(ClassifierMixin, BaseEstimator):
    """Takes logits for features, so that scikit-learn calibrates them."""

    def __init__(self, classes):
        self.classes = classes
        self.classes_ = np.arange(classes)

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, logits, labels):
        return self

    def predict(self, logits):
        return logits.argmax(1)

    def decision_function(self, logits):
        return (logits[:, 1] - logits[:, 0]) / 2 if self.classes == 2 else logits


class TestTemperature:
    @pytest.mark.parametrize("classes", [2, 3, 7])
    @pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
    def test_equals_scikit_learns(self, classes, sharpness):
        logits, truth = drawn(400, classes, sharpness=sharpness, seed=classes)
        labels = truth.argmax(1)
        theirs = CalibratedClassifierCV(FrozenEstimator(GivenLogits(classes)), method="temperature").fit(logits, labels)
        ours = TASKS["single_label"].probabilities(logits / temperature.fit(logits, truth, "single_label"))
        np.testing.assert_allclose(ours, theirs.predict_proba(logits), atol=1e-6)

    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_no_other_temperature_has_a_lower_loss(self, task):
        logits, truth = drawn(300, 3, sharpness=2.5, task=task, seed=4)
        best = temperature.fit(logits, truth, task)
        around = best * np.exp(np.linspace(-0.5, 0.5, 201))
        losses = [temperature.row_losses(logits / each, truth, task).mean() for each in around]
        assert int(np.argmin(losses)) == 100

    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_labels_drawn_from_the_probabilities_need_the_sharpness_undone(self, task):
        logits, truth = drawn(40_000, 4, sharpness=3.0, task=task, seed=1)
        assert temperature.fit(logits, truth, task) == pytest.approx(3.0, rel=0.03)

    def test_rows_without_a_mistake_end_at_the_bound(self):
        logits, _ = drawn(50, 3)
        right = label_matrix(logits.argmax(1).tolist(), 3)
        assert temperature.fit(logits, right, "single_label") == temperature.LOWEST
        wrong = label_matrix(logits.argmin(1).tolist(), 3)
        assert temperature.fit(logits, wrong, "single_label") == temperature.HIGHEST

    def test_equal_logits_say_nothing_and_do_not_fail(self):
        truth = label_matrix([0, 1, 0], 2)
        assert temperature.LOWEST <= temperature.fit(np.zeros((3, 2)), truth, "single_label") <= temperature.HIGHEST

    def test_losses_equal_scikit_learns_and_survive_large_logits(self):
        logits, truth = drawn(200, 3, sharpness=2.0)
        found = temperature.row_losses(logits, truth, "single_label").mean()
        assert found == pytest.approx(log_loss(truth.argmax(1), TASKS["single_label"].probabilities(logits)), abs=1e-12)
        several = temperature.row_losses(logits, truth, "multi_label").mean()
        each = [log_loss(truth[:, k], TASKS["multi_label"].probabilities(logits)[:, k]) for k in range(3)]
        assert several == pytest.approx(np.mean(each), abs=1e-12)
        large = temperature.row_losses(np.array([[1e4, 0.0]]), np.array([[False, True]]), "single_label")
        assert large.tolist() == [1e4]

    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_what_there_was_without_it_comes_back(self, task):
        logits, _ = drawn(100, 3, task=task, sharpness=3.0)
        rules = TASKS[task]
        back = temperature.without(rules.probabilities(logits / 2.5), 2.5, task)
        np.testing.assert_allclose(back, rules.probabilities(logits), atol=1e-9)


class TestKeeping:
    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_an_over_confident_classifier_gets_one(self, task):
        logits, truth = drawn(400, 3, sharpness=4.0, task=task, seed=2)
        found = temperature.choose(logits, truth, task)
        assert found.verdict == "kept"
        assert found.temperature == found.fitted == temperature.fit(logits, truth, task) > 2
        assert found.gain > found.standard_error > 0
        assert str(found).startswith(f"temperature {found.fitted:.3g} kept: on 400 validation rows")

    def test_a_calibrated_one_is_left_alone(self):
        kept = 0
        for seed in range(60):
            logits, truth = drawn(200, 3, seed=seed)
            found = temperature.choose(logits, truth, "single_label", seed=seed)
            kept += found.verdict == "kept"
            if found.verdict == "no clear gain":
                assert found.temperature == 1.0 != found.fitted
        assert kept <= 15

    def test_too_few_mistakes_decide_nothing(self):
        logits, _ = drawn(60, 2)
        labels = logits.argmax(1)
        labels[:4] = 1 - labels[:4]
        found = temperature.choose(logits, label_matrix(labels.tolist(), 2), "single_label")
        assert (found.verdict, found.mistakes, found.temperature) == ("too few mistakes", 4, 1.0)
        assert str(found) == (
            "no temperature: 4 wrong answers on 60 validation rows are too few to tell how sure the classifier may be"
        )

    def test_the_gain_is_that_on_rows_held_out(self):
        logits, truth = drawn(50, 3, sharpness=2.0, seed=3)
        found = temperature.choose(logits, truth, "single_label", seed=9)
        units = np.random.default_rng(9).permutation(50) % 5
        gains = np.zeros(50)
        for fold in range(5):
            out = units == fold
            each = temperature.fit(logits[~out], truth[~out], "single_label")
            losses = [temperature.row_losses(logits[out] / t, truth[out], "single_label") for t in (1.0, each)]
            gains[out] = losses[0] - losses[1]
        assert found.gain == pytest.approx(gains.mean(), abs=1e-12)
        assert found.standard_error == pytest.approx(gains.std(ddof=1) / np.sqrt(50), abs=1e-12)

    def test_copies_of_a_group_do_not_count_as_evidence(self):
        logits, truth = drawn(40, 3, sharpness=2.0, seed=5)
        copied, labels = np.tile(logits, (5, 1)), np.tile(truth, (5, 1))
        groups = [str(row) for _ in range(5) for row in range(40)]
        alone = temperature.choose(logits, truth, "single_label", seed=1)
        together = temperature.choose(copied, labels, "single_label", groups=groups, seed=1)
        assert together.standard_error == pytest.approx(alone.standard_error, rel=1e-9)
        assert together.gain == pytest.approx(alone.gain, rel=1e-9)

    def test_one_group_leaves_nothing_to_hold_out(self):
        logits, truth = drawn(40, 3, sharpness=4.0)
        assert temperature.choose(logits, truth, "single_label", groups=["a"] * 40).verdict == "no clear gain"


def bundle(names=("no", "yes"), task="single_label", **changes):
    known = {
        "base_model": "tiny", "revision": "local", "base_fingerprint": "b", "label_names": names, "task": task,
        "policy": "head", "max_length": 64, "head_tokens": 8, "precision": "fp32", "attention": "eager",
        "textlora_version": "0",
    }  # fmt: skip
    return Bundle(**(known | changes))


def rows_of(truth, groups=None, *, several=False):
    labels = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    found = tuple(labels) if several else tuple(label[0] for label in labels)
    texts = tuple(map(str, range(len(truth))))
    return Split(texts, texts, found, groups)


class TestConformal:
    @pytest.mark.parametrize(
        ("rate", "rows"), [(0.05, 19), (0.1, 9), (0.2, 4), (0.01, 99), (0.25, 3), (0.49, 2), (0.001, 999)]
    )
    def test_the_fewest_rows_for_a_rate(self, rate, rows):
        assert conformal.rows_needed(rate) == rows
        probabilities, truth = np.full((rows, 2), 0.5), label_matrix([0] * rows, 2)
        assert conformal.fit(probabilities, truth, rate).rows == rows
        with pytest.raises(UsageError):
            conformal.fit(probabilities[1:], truth[1:], rate)

    def test_too_few_rows_say_how_many_there_must_be(self):
        with pytest.raises(UsageError) as caught:
            conformal.fit(np.full((12, 2), 0.5), label_matrix([0] * 12, 2), 0.05)
        assert str(caught.value) == (
            "An error rate of 0.05 needs at least 19 validation rows; these are 12, which are enough for a rate of 0.077."
        )
        assert conformal.rows_needed(0.077) <= 12 < conformal.rows_needed(0.076)

    def test_the_quantile_is_that_of_the_definition(self):
        logits, truth = drawn(57, 4, seed=3)
        probabilities = TASKS["single_label"].probabilities(logits)
        rule = conformal.fit(probabilities, truth, 0.1)
        scores = np.sort(1 - probabilities[truth])
        assert 1 - rule.least_probability == pytest.approx(scores[int(np.ceil(58 * 0.9)) - 1], abs=1e-15)
        assert (conformal.sets(probabilities, rule) == (probabilities >= rule.least_probability)).all()

    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize("rate", [0.05, 0.1])
    def test_coverage_is_the_stated_one_with_a_temperature_fitted_on_the_same_rows(self, classes, rate):
        logits, truth = drawn(3_000, classes, sharpness=2.0, seed=classes)
        covered, bare = [], []
        for seed in range(200):
            order = np.random.default_rng(seed).permutation(len(logits))
            fitting, new = order[:400], order[400:]
            heat = temperature.fit(logits[fitting], truth[fitting], "single_label")
            for values, found in ((logits / heat, covered), (logits, bare)):
                probabilities = TASKS["single_label"].probabilities(values)
                rule = conformal.fit(probabilities[fitting], truth[fitting], rate)
                found.append((conformal.sets(probabilities[new], rule) & truth[new]).any(axis=1).mean())
        assert np.mean(covered) == pytest.approx(1 - rate, abs=0.01)
        # The middle 95 % of the draws, widened a little by the new rows being a sample, too.
        assert np.mean([rule.coverage.low <= value <= rule.coverage.high for value in bare]) == pytest.approx(
            0.93, abs=0.05
        )
        assert np.mean(covered) == pytest.approx(np.mean(bare), abs=0.002)

    def test_a_temperature_changes_no_set_of_two_labels(self):
        logits, truth = drawn(200, 2, seed=1)
        new, _ = drawn(500, 2, seed=2)
        sets = []
        for heat in (0.4, 1.0, 3.0):
            rule = conformal.fit(TASKS["single_label"].probabilities(logits / heat), truth, 0.1)
            sets.append(conformal.sets(TASKS["single_label"].probabilities(new / heat), rule))
        assert (sets[0] == sets[1]).all()
        assert (sets[1] == sets[2]).all()

    def test_ties_make_sets_larger_never_smaller(self):
        """Probabilities of two values only: coverage may exceed the promise, and must not fall below it."""
        generator = np.random.default_rng(0)
        covered = []
        for _ in range(200):
            right = generator.random(1_100) < 0.85
            high = np.where(generator.random(1_100) < 0.5, 0.9, 0.6)
            probabilities = np.stack([high, 1 - high], axis=1)
            truth = np.stack([right, ~right], axis=1)
            rule = conformal.fit(probabilities[:100], truth[:100], 0.2)
            covered.append((conformal.sets(probabilities[100:], rule) & truth[100:]).any(axis=1).mean())
        assert np.mean(covered) >= 0.8


class TestReliability:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_brier_and_log_loss_equal_scikit_learns(self, classes):
        logits, truth = drawn(150, classes, seed=6)
        probabilities = TASKS["single_label"].probabilities(logits)
        found = reliability.measure(probabilities, truth, "single_label")
        labels = truth.argmax(1)
        theirs = brier_score_loss(labels, probabilities[:, 1] if classes == 2 else probabilities)
        assert found.brier.value == pytest.approx(theirs, abs=1e-12)
        assert found.log_loss.value == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
        assert found.brier.low < found.brier.value < found.brier.high

    def test_several_labels_are_the_mean_of_each(self):
        logits, truth = drawn(150, 3, task="multi_label", seed=6)
        probabilities = TASKS["multi_label"].probabilities(logits)
        found = reliability.measure(probabilities, truth, "multi_label")
        each = [brier_score_loss(truth[:, k], probabilities[:, k]) for k in range(3)]
        assert found.brier.value == pytest.approx(np.mean(each), abs=1e-12)
        assert sum(part.rows for part in found.bins) == 450

    def test_bins_equal_scikit_learns_where_these_hold_equally_many_rows(self):
        logits, truth = drawn(300, 2, seed=2)
        probabilities = TASKS["single_label"].probabilities(logits)
        found = reliability.measure(probabilities, truth, "single_label")
        stated, right = reliability.outcomes(probabilities, truth, "single_label")
        shares, means = calibration_curve(right, stated, n_bins=10, strategy="quantile")
        assert [part.rows for part in found.bins] == [30] * 10
        np.testing.assert_allclose([part.probability for part in found.bins], means, atol=1e-12)
        np.testing.assert_allclose([part.share.value for part in found.bins], shares, atol=1e-12)
        assert found.ece == pytest.approx(np.abs(means - shares).mean(), abs=1e-12)

    @pytest.mark.parametrize(("rows", "bins"), [(1, 1), (59, 1), (60, 2), (200, 6), (100_000, 15)])
    def test_the_number_of_bins_goes_by_the_rows(self, rows, bins):
        assert len(reliability.bin_starts(np.random.default_rng(0).random(rows))) == bins

    def test_equal_probabilities_share_a_bin_whatever_the_order(self):
        stated = np.repeat([0.55, 0.7, 0.9], [100, 150, 50])
        probabilities = np.stack([stated, 1 - stated], axis=1)
        truth = label_matrix((np.random.default_rng(1).random(300) > stated).astype(int).tolist(), 2)
        found = reliability.measure(probabilities, truth, "single_label")
        assert [part.rows for part in found.bins] == [100, 150, 50]
        order = np.random.default_rng(2).permutation(300)
        assert reliability.measure(probabilities[order], truth[order], "single_label").bins == found.bins

    def test_exact_probabilities_show_what_chance_says(self):
        inside = 0
        for seed in range(60):
            logits, truth = drawn(200, 3, seed=seed)
            found = reliability.measure(TASKS["single_label"].probabilities(logits), truth, "single_label")
            inside += found.chance.low <= found.ece <= found.chance.high
        assert inside >= 52

    def test_over_confidence_exceeds_chance_and_is_told(self):
        logits, truth = drawn(600, 3, sharpness=4.0, seed=1)
        found = reliability.measure(TASKS["single_label"].probabilities(logits), truth, "single_label")
        assert found.ece > 2 * found.chance.high
        assert telling.reliability_told(found, several=False).startswith("The probabilities are too high by ")
        exact, right = drawn(600, 3, seed=1)
        calm = reliability.measure(TASKS["single_label"].probabilities(exact), right, "single_label")
        assert telling.reliability_told(calm, several=False).startswith("The probabilities cannot be told from exact")

    def test_a_temperature_lowers_the_error_on_new_rows(self):
        logits, truth = drawn(3_000, 3, sharpness=3.0, seed=5)
        heat = temperature.fit(logits[:500], truth[:500], "single_label")
        before, after = (
            reliability.measure(TASKS["single_label"].probabilities(logits[500:] / t), truth[500:], "single_label")
            for t in (1.0, heat)
        )
        assert after.ece < before.ece / 3
        assert after.brier.high < before.brier.low
        assert after.log_loss.high < before.log_loss.low

    def test_groups_widen_the_intervals(self):
        logits, truth = drawn(100, 3, seed=5)
        probabilities, labels = np.tile(TASKS["single_label"].probabilities(logits), (4, 1)), np.tile(truth, (4, 1))
        groups = [str(row) for _ in range(4) for row in range(100)]
        alone = reliability.measure(probabilities, labels, "single_label").brier
        together = reliability.measure(probabilities, labels, "single_label", groups=groups).brier
        assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.01)


class TestFitting:
    def settings(self, **values):
        return build({f"decision.{name}": value for name, value in values.items()})

    def test_the_usual_decision_of_both_tasks(self):
        logits, truth = drawn(200, 2, sharpness=3.0)
        found = fit_decision(bundle(), logits, rows_of(truth), self.settings())
        assert found.temperature > 2
        assert (found.decision, found.abstention, found.thresholds) == (None, None, ())
        several, truth = drawn(200, 3, task="multi_label", sharpness=3.0)
        found = fit_decision(
            bundle(("a", "b", "c"), "multi_label"), several, rows_of(truth, several=True), self.settings()
        )
        expected = thresholds.fit(truth, TASKS["multi_label"].probabilities(several / found.temperature))
        assert (found.thresholds, found.thresholds_goal) == (expected, "f1")

    def test_no_temperature_where_none_is_wanted(self):
        logits, truth = drawn(200, 2, sharpness=3.0)
        assert fit_decision(bundle(), logits, rows_of(truth), self.settings(calibrate=False)).calibration is None

    def test_groups_are_held_out_together(self):
        logits, truth = drawn(200, 2, sharpness=3.0)
        groups = tuple("ab"[row % 2] for row in range(200))
        found = fit_decision(bundle(), logits, rows_of(truth, groups), self.settings()).calibration
        assert found == temperature.choose(logits, truth, "single_label", groups=groups, seed=42)

    @pytest.mark.parametrize(("positive", "place"), [(None, 1), ("no", 0)])
    def test_a_goal_is_about_the_positive_label(self, positive, place):
        logits, truth = drawn(300, 2, seed=4)
        wanted = self.settings(goal="recall@precision=0.8", **({"positive": positive} if positive else {}))
        found = fit_decision(bundle(), logits, rows_of(truth), wanted)
        assert found.decision.positive == found.label_names[place]
        probabilities = probabilities_of(logits, found)
        given = decide(probabilities, found)[:, place]
        assert (given == (probabilities[:, place] >= found.decision.threshold)).all()
        assert found.decision.reached["precision"] == pytest.approx(truth[given, place].mean())
        assert found.decision.reached["precision"] >= 0.8
        assert (decide(probabilities, found).sum(axis=1) == 1).all()

    def test_a_dear_miss_is_missed_less(self):
        logits, truth = drawn(400, 2, seed=4)
        found = fit_decision(bundle(), logits, rows_of(truth), self.settings(goal="cost:FP=1,FN=10"))
        assert found.decision.threshold < 0.3
        usual = (
            10 * (truth[:, 1] & (logits[:, 1] <= logits[:, 0])) + (~truth[:, 1] & (logits[:, 1] > logits[:, 0]))
        ).mean()
        assert found.decision.reached["cost"] < usual

    def test_a_goal_of_each_label(self):
        logits, truth = drawn(400, 3, task="multi_label")
        names = ("a", "b", "c")
        found = fit_decision(
            bundle(names, "multi_label"),
            logits,
            rows_of(truth, several=True),
            self.settings(goal="precision@recall=0.9"),
        )
        given = decide(probabilities_of(logits, found), found)
        assert ((given & truth).sum(axis=0) / truth.sum(axis=0) >= 0.9).all()
        assert found.thresholds_goal == "precision@recall=0.9"
        plain = fit_decision(
            bundle(names, "multi_label"), logits, rows_of(truth, several=True), self.settings(goal="accuracy")
        )
        assert (plain.thresholds, plain.decision) == ((), None)

    def test_what_is_left_are_the_given_labels_without_an_error_rate(self):
        logits, truth = drawn(100, 3)
        plain = bundle(("a", "b", "c"))
        probabilities = probabilities_of(logits, plain)
        assert (candidates(probabilities, plain) == decide(probabilities, plain)).all()
        found = fit_decision(plain, logits, rows_of(truth), self.settings(error_rate=0.1))
        left = candidates(probabilities_of(logits, found), found)
        assert left.sum(axis=1).max() > 1
        assert (left & truth).any(axis=1).mean() >= 0.9

    def test_logits_that_are_no_numbers_get_no_temperature(self):
        logits, truth = drawn(100, 3)
        logits[3, 1] = np.nan
        assert fit_decision(bundle(("a", "b", "c")), logits, rows_of(truth), self.settings()).calibration is None


class TestWrongUse:
    def found(self, names=("no", "yes"), task="single_label", rows=100, counts=None, **values):
        wanted = Wanted.of(build({f"decision.{name}": value for name, value in values.items()}).decision, task)
        labels = Labels(names, task, rows, counts or (rows // len(names),) * len(names))
        return problems(wanted, labels, told=("GOAL", "POSITIVE", "RATE"))

    def test_nothing_wrong(self):
        assert self.found(goal="f1", positive="no", error_rate=0.05) == []
        assert self.found() == self.found(("a", "b", "c")) == self.found(("a", "b"), "multi_label", goal="f1") == []

    def test_three_labels(self):
        assert self.found(("a", "b", "c"), goal="cost:FP=1,FN=5", positive="a") == [
            "GOAL, which needs two labels to decide between, or rows with several labels; here one of 3 is given, the "
            "most probable one (accuracy).",
            "POSITIVE, but only data with two labels have a positive one.",
        ]

    def test_no_such_label(self):
        assert self.found(goal="f1", positive="Yes") == [
            "POSITIVE, which is no label. Did you mean 'yes'? Labels: no, yes."
        ]

    def test_a_positive_label_without_a_goal(self):
        assert self.found(positive="yes") == [
            "POSITIVE, but the goal accuracy gives the most probable label, whichever it is; name another goal."
        ]

    def test_several_labels_are_always_answered(self):
        assert self.found(task="multi_label", error_rate=0.1) == [
            "RATE, but only rows with exactly one label can be left without an answer."
        ]

    def test_too_few_rows_for_the_rate(self):
        assert self.found(rows=12, error_rate=0.05) == [
            "An error rate of 0.05 needs at least 19 validation rows; these are 12, which are enough for a rate of 0.077."
        ]

    def test_too_few_rows_of_the_positive_label(self):
        assert self.found(counts=(96, 4), goal="f1") == [
            "GOAL, but 4 of the 100 validation rows are 'yes'; a threshold needs at least 5."
        ]
        assert self.found(counts=(99, 1), goal="f1")[0].startswith("GOAL, but 1 of the 100 validation rows is 'yes';")
        assert self.found(counts=(96, 4), goal="f1", positive="no") == []


class TestJudging:
    def judged(self, logits, truth, fitted, **named):
        return trust(probabilities_of(logits, fitted), truth, fitted, **named)

    def test_before_and_after(self):
        logits, truth = drawn(1_500, 3, sharpness=3.0, seed=8)
        fitted = fit_decision(bundle(("a", "b", "c")), logits[:500], rows_of(truth[:500]), build({}))
        found = self.judged(logits[500:], truth[500:], fitted)
        raw = reliability.measure(TASKS["single_label"].probabilities(logits[500:]), truth[500:], "single_label")
        assert found.before.ece == pytest.approx(raw.ece, abs=1e-9)
        assert found.before.log_loss.value == pytest.approx(raw.log_loss.value, abs=1e-9)
        assert found.reliability.ece < found.before.ece
        change = found.reliability.log_loss.value - found.before.log_loss.value
        assert found.log_loss_change.value == pytest.approx(change, abs=1e-12)
        assert found.log_loss_change.high < 0

    def test_a_threshold_beside_the_most_probable_label(self):
        logits, truth = drawn(900, 2, seed=3)
        fitted = fit_decision(bundle(), logits[:400], rows_of(truth[:400]), build({"decision.goal": "cost:FP=1,FN=8"}))
        found = self.judged(logits[400:], truth[400:], fitted).operation
        probabilities, had = probabilities_of(logits[400:], fitted), truth[400:, 1]
        for figures, given in (
            (found.figures, probabilities[:, 1] >= fitted.decision.threshold),
            (found.usual, probabilities[:, 1] > probabilities[:, 0]),
        ):
            assert figures["precision"].value == pytest.approx(precision_score(had, given), abs=1e-12)
            assert figures["recall"].value == pytest.approx(recall_score(had, given), abs=1e-12)
            assert figures["f1"].value == pytest.approx(f1_score(had, given), abs=1e-12)
            assert figures["cost"].value == pytest.approx((8 * (had & ~given) + (~had & given)).mean(), abs=1e-12)
            assert all(one.low <= one.value <= one.high for one in figures.values())
        assert found.figures["cost"].value < found.usual["cost"].value

    def test_not_sure(self):
        logits, truth = drawn(900, 3, seed=3)
        fitted = fit_decision(
            bundle(("a", "b", "c")), logits[:400], rows_of(truth[:400]), build({"decision.error_rate": 0.1})
        )
        found = self.judged(logits[400:], truth[400:], fitted).answers
        probabilities = probabilities_of(logits[400:], fitted)
        left = probabilities >= fitted.abstention.least_probability
        answered = left.sum(axis=1) == 1
        right = (left & truth[400:]).any(axis=1)
        assert found.answered.value == answered.mean()
        assert (
            found.accuracy.value == right[answered].mean() > (probabilities.argmax(1) == truth[400:].argmax(1)).mean()
        )
        assert found.coverage.value == right.mean()
        assert found.sizes == tuple(np.bincount(left.sum(axis=1), minlength=3).tolist())
        assert telling.answers_told(found).startswith("It answers ")

    def test_no_answer_where_threshold_and_set_disagree(self):
        fitted = bundle(
            decision=Decision("f1", "yes", 0.2, 100, {}),
            abstention=Abstention(0.1, 0.6, 100, Interval(0.9, 0.84, 0.95)),
        )
        probabilities = np.array([[0.7, 0.3], [0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])
        truth = label_matrix([0, 1, 0, 1], 2)
        found = trust(probabilities, truth, fitted).answers
        assert found.sizes == (1, 3, 0)
        assert found.answered.value == 0.5
        assert found.accuracy.value == 1.0

    def test_no_row_is_answered(self):
        fitted = bundle(abstention=Abstention(0.1, 0.01, 100, Interval(0.9, 0.84, 0.95)))
        found = trust(np.full((4, 2), 0.5), label_matrix([0, 1, 0, 1], 2), fitted).answers
        assert found.accuracy is None
        assert telling.answers_told(found) == (
            "It answers 0.0 % (0.0–49.0) of the rows. The labels that are left hold the true one in 100.0 % (51.0–100.0) of "
            "all rows, as promised (90.0 %; 84.0 to 95.0 with so many validation rows)."
        )
