"""Class-balanced sampling: equal classes, fair rows, epochs that can be repeated."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from tests.conftest import QUICK
from textlora import planning, training
from textlora.sampling import BalancedSampler

LABELS = [0] * 70 + [1] * 25 + [2] * 5


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def test_every_class_is_drawn_equally_often():
    rows = epoch(BalancedSampler(LABELS, 7), 0)
    counts = np.bincount([LABELS[row] for row in rows])
    assert len(rows) == len(BalancedSampler(LABELS, 7)) == 100
    assert sorted(counts.tolist()) == [33, 33, 34]


def test_no_row_is_drawn_more_than_once_oftener_than_another_of_its_class():
    drawn = collections.Counter(epoch(BalancedSampler(LABELS, 7), 0))
    for first, after in ((0, 70), (70, 95), (95, 100)):
        times = [drawn[row] for row in range(first, after)]
        assert max(times) - min(times) <= 1


def test_epochs_differ_and_come_again():
    sampler = BalancedSampler(LABELS, 7)
    first = epoch(sampler, 0)
    assert epoch(sampler, 1) != first
    assert epoch(sampler, 0) == epoch(BalancedSampler(LABELS, 7), 0) == first
    assert epoch(BalancedSampler(LABELS, 8), 0) != first


def test_in_several_epochs_all_rows_of_a_large_class_are_seen():
    sampler = BalancedSampler(LABELS, 7)
    assert {row for number in range(12) for row in epoch(sampler, number)} == set(range(100))


def test_a_resumed_training_draws_what_was_left(toy_dataset, tiny_model, machine, tmp_path, fast_reload):
    """The weights after a stop and a resume are those of a run that was not stopped."""
    chosen = QUICK | {"loss.sampling": "balanced", "training.evaluations_per_epoch": 2}
    plan = planning.plan(toy_dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
    whole = training.train(plan, toy_dataset, folder=tmp_path / "whole")
    # Whole and resumed share the first checkpoints; the later ones are lost.
    training.train(plan, toy_dataset, folder=tmp_path / "cut")
    newest = max((tmp_path / "cut" / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    (newest / "adapter_model.safetensors").unlink()
    resumed = training.train(plan, toy_dataset, folder=tmp_path / "cut", resume=True)
    losses = [[entry["loss"] for entry in run.history if "loss" in entry] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
