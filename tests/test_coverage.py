"""How often intervals hold the truth, where the truth is known because the rows are made by chance.

A 95 % interval shall do so in 95 ± 2 of 100 cases. At the edges, where a classifier makes next to no
mistake, it may do so more often: a share of few rows takes few values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from textlora import intervals, metrics, multilabel_metrics
from textlora.confusion import overall
from textlora.resampling import Units


@dataclass(frozen=True)
class World:
    """Rows with labels in given shares, each answered rightly with a given chance, in groups or not.

    ``alike`` is the correlation of two rows of a group: each group has its own accuracy, of a beta distribution.
    """

    shares: tuple[float, ...]
    recalls: tuple[float, ...]
    rows: int
    groups: int = 0
    uneven: bool = False
    alike: float = 0.1

    @property
    def answers(self):
        """Chances of each answer (C, C) by label: wrong ones go to the others as frequent as they are."""
        found = np.zeros((len(self.shares),) * 2)
        for label, recall in enumerate(self.recalls):
            others = np.array(self.shares)
            others[label] = 0
            found[label] = (1 - recall) * others / others.sum()
            found[label, label] = recall
        return found

    @property
    def truth(self):
        """Every score on endless many rows."""
        return {name: float(value) for name, value in overall(self.answers * np.array(self.shares)[:, None]).items()}

    def draw(self, random):
        """Return labels, answers (N,) and units."""
        numbers = self._groups(random)
        labels = random.choice(len(self.shares), size=len(numbers), p=self.shares)
        right = random.random(len(labels)) < self._chances(random, numbers)[labels, numbers]
        wrong = self.answers * (1 - np.eye(len(self.shares)))
        cuts = np.cumsum(wrong / wrong.sum(1, keepdims=True), axis=1)[labels]
        other = (random.random((len(labels), 1)) > cuts).sum(1)
        return labels, np.where(right, labels, other), Units.of(numbers, len(numbers))

    def _groups(self, random):
        if not self.groups:
            return np.arange(self.rows)
        weights = random.lognormal(0, 1, self.groups) if self.uneven else np.ones(self.groups)
        sizes = np.maximum(1, np.round(weights / weights.sum() * self.rows)).astype(int)
        return np.repeat(np.arange(self.groups), sizes)

    def _chances(self, random, numbers):
        recalls = np.array(self.recalls)[:, None]
        if not self.groups:
            return np.repeat(recalls, len(numbers), axis=1)
        spread = 1 / self.alike - 1
        return stats.beta.ppf(random.random(self.groups), recalls * spread, (1 - recalls) * spread)


def probabilities(answers, classes):
    """Probabilities (N, C) that lead to the answers."""
    found = np.full((len(answers), classes), 0.1 / classes)
    found[np.arange(len(answers)), answers] = 0.9
    return found


def coverage(world, figures, *, cases=500, seed=3, resamples=200):
    """Return for each figure the share of cases in which its interval holds the truth."""
    random, classes, truth = np.random.default_rng(seed), len(world.shares), world.truth
    held = dict.fromkeys(figures, 0)
    for _ in range(cases):
        labels, answers, units = world.draw(random)
        found = metrics.scores(
            labels, probabilities(answers, classes), label_names="abcdefghijklmnopqrst"[:classes], units=units,
            resamples=resamples, seed=int(random.integers(2**31)),
        ).metrics  # fmt: skip
        for name in figures:
            held[name] += found[name].low - 1e-12 <= truth[name] <= found[name].high + 1e-12
    return {name: count / cases for name, count in held.items()}


SHARES = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "mcc")
BALANCED = World((0.5, 0.5), (0.9, 0.85), 200)
WORLDS = {
    "balanced": BALANCED,
    "four labels": World((0.25,) * 4, (0.9, 0.8, 0.85, 0.7), 200),
    "a rare label": World((0.95, 0.05), (0.97, 0.6), 400),
    "three rare labels": World((0.9, 0.05, 0.03, 0.02), (0.97, 0.7, 0.6, 0.6), 1000),
    "groups": World((0.5, 0.5), (0.9, 0.85), 400, groups=40),
    "pairs": World((0.5, 0.5), (0.9, 0.85), 300, groups=150, alike=0.3),
    "uneven groups": World((0.5, 0.5), (0.9, 0.85), 600, groups=80, uneven=True),
    "groups and a rare label": World((0.9, 0.1), (0.95, 0.7), 600, groups=60),
}
CONSERVATIVE = {
    "few rows of rare labels": World((0.9, 0.05, 0.03, 0.02), (0.97, 0.7, 0.6, 0.6), 200),
    "twenty labels with few rows": World((0.05,) * 20, (0.9,) * 20, 200),
    "labels that are often missing": World(tuple(1 / np.arange(1, 21) / np.sum(1 / np.arange(1, 21))), tuple(np.linspace(0.95, 0.5, 20)), 300),
    "hardly a mistake": World((0.5, 0.5), (0.98, 0.98), 60),
    "hardly a mistake in groups": World((0.5, 0.5), (0.98, 0.98), 300, groups=40),
}  # fmt: skip


@pytest.mark.parametrize("name", ["balanced", "groups", "groups and a rare label"])
def test_accuracy_and_macro_f1_hold_the_truth_as_often_as_they_say(name):
    found = coverage(WORLDS[name], ("accuracy", "f1_macro"))
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_all_figures_hold_the_truth_as_often_as_they_say(name):
    found = coverage(WORLDS[name], SHARES, cases=2000, resamples=400)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", CONSERVATIVE)
def test_few_rows_are_no_reason_to_claim_too_much(name):
    found = coverage(CONSERVATIVE[name], SHARES, cases=1000, resamples=400)
    assert all(share >= 0.92 for share in found.values()), found


@pytest.mark.slow
def test_few_groups_are_no_reason_to_claim_too_much():
    for groups, uneven in ((10, False), (15, True)):
        found = coverage(World((0.5, 0.5), (0.9, 0.85), 300, groups=groups, uneven=uneven), ("accuracy", "f1_macro"), cases=1000)  # fmt: skip
        assert all(share >= 0.9 for share in found.values()), found


@pytest.mark.parametrize(("hits", "rows"), [(0.5, 40), (0.9, 40), (0.05, 100), (0.93, 250), (0.99, 1000)])
def test_wilson_exactly(hits, rows):
    """Every number of right rows has its chance, so that nothing is drawn. Brown, Cai and DasGupta 2001 give 93 to 97 %."""
    found = [intervals.wilson(count, rows) for count in range(rows + 1)]
    chances = stats.binom.pmf(np.arange(rows + 1), rows, hits)
    assert 0.93 <= sum(chances[[interval.low <= hits <= interval.high for interval in found]]) <= 0.98


@pytest.mark.parametrize(("shares", "rows"), [((0.08, 0.05), 150), ((0.03, 0.03), 400), ((0.2, 0.1), 60)])
@pytest.mark.parametrize("size", [1, 5])
def test_a_paired_difference_holds_the_truth_as_often_as_it_says(shares, rows, size):
    random, held = np.random.default_rng(0), 0
    for _ in range(500):
        luck = np.repeat(random.random(rows), size)  # a group's rows are decided together with half a chance
        luck = np.where(random.random(rows * size) < (0.5 if size > 1 else 0), luck, random.random(rows * size))
        first, second = luck < shares[0] + 0.4, (luck >= shares[0]) & (luck < sum(shares) + 0.4)
        found = intervals.paired_difference(first, second, np.repeat(np.arange(rows), size) if size > 1 else None)
        held += found.low <= shares[0] - shares[1] <= found.high
    assert 0.93 <= held / 500 <= 0.97


def ranked(random, rows, share, apart):
    positive = random.random(rows) < share
    scores = stats.norm.cdf(random.normal(size=rows) + apart * positive - apart / 2)
    return positive.astype(int), np.stack([1 - scores, scores], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "share", "apart"),
    [(200, 0.5, 1.5), (400, 0.1, 1.5), (400, 0.5, 1.0), (1000, 0.1, 2.0), (150, 0.2, 2.5)],
)
def test_rankings_and_log_loss(rows, share, apart):
    random, held = np.random.default_rng(0), np.zeros(3)
    many = metrics.point_scores(*ranked(random, 400_000, share, apart))
    truth = stats.norm.cdf(apart / np.sqrt(2)), many["average_precision"], many["log_loss"]
    for case in range(1000):
        found = metrics.scores(*ranked(random, rows, share, apart), label_names="ab", resamples=300, seed=case).metrics
        figures = found["roc_auc"], found["average_precision"], found["log_loss"]
        held += [figure.low <= value <= figure.high for figure, value in zip(figures, truth, strict=True)]
    assert (held / 1000 >= 0.93).all(), held
    assert (held / 1000 <= 0.97).all(), held


@pytest.mark.slow
@pytest.mark.parametrize("groups", [0, 60])
def test_several_labels_a_row(groups):
    random, figures = np.random.default_rng(0), ("accuracy", "hamming_loss", "f1_micro", "f1_macro", "recall_micro")
    shares, found, alarm = np.array([0.5, 0.2, 0.08]), np.array([0.85, 0.75, 0.7]), np.array([0.1, 0.05, 0.02])

    def draw(rows):
        numbers = np.arange(rows) % groups if groups else np.arange(rows)
        common = random.random(numbers.max() + 1)[numbers]  # labels of a row, and rows of a group, err together
        luck = np.where(random.random((rows, 3)) < 0.3, common[:, None], random.random((rows, 3)))
        truth = random.random((rows, 3)) < shares
        return truth, np.where(truth, luck < found, luck < alarm), Units.of(numbers, rows)

    truth, chosen, _ = draw(2_000_000) if not groups else [np.concatenate(parts) for parts in zip(*(draw(600)[:2] for _ in range(3000)), strict=True)] + [None]  # fmt: skip
    expected = multilabel_metrics.point_scores(truth, chosen, chosen * 0.8 + 0.1)
    held = np.zeros(len(figures))
    for case in range(600):
        truth, chosen, units = draw(600 if groups else 300)
        scores = multilabel_metrics.scores(truth, chosen, chosen * 0.8 + 0.1, label_names="abc", units=units, resamples=300, seed=case).metrics  # fmt: skip
        held += [scores[name].low <= expected[name] <= scores[name].high for name in figures]
    assert (held / 600 >= 0.93).all(), dict(zip(figures, held / 600, strict=True))
    assert (held / 600 <= 0.975).all(), dict(zip(figures, held / 600, strict=True))
