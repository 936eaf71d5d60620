"""The losses against PyTorch's and written-out ones, whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import QUICK
from textlora import planning, training
from textlora.losses import Loss, make_loss, targets
from textlora.settings import LossSettings

WEIGHTS = torch.tensor([0.3, 1.0, 2.5])


@pytest.fixture
def single():
    """40 rows of three classes with logits that ask for a gradient."""
    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(40, 3, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, 3, (40,), generator=random)


@pytest.fixture
def multi(single):
    """The same logits with zero to three labels a row."""
    logits, _ = single
    return logits, (torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.4).to(torch.float64)


def same(found, expected, logits):
    """Compare two scalars and their gradients."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


class TestCrossEntropy:
    @pytest.mark.parametrize("weights", [None, WEIGHTS.double()])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_it_is_pytorchs(self, single, weights, smoothing):
        logits, labels = single
        expected = nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)(logits, labels)
        same(Loss("single_label", weights, smoothing).mean(logits, labels), expected, logits)

    def test_focal_is_the_formula_of_the_paper(self, single):
        logits, labels = single
        p = logits.softmax(1)[torch.arange(40), labels]
        expected = (-WEIGHTS.double()[labels] * (1 - p) ** 1.5 * p.log()).sum() / WEIGHTS.double()[labels].sum()
        same(Loss("single_label", WEIGHTS.double(), focal_gamma=1.5).mean(logits, labels), expected, logits)

    def test_focal_with_gamma_0_is_cross_entropy(self, single):
        logits, labels = single
        same(Loss("single_label", focal_gamma=0.0).mean(logits, labels), Loss().mean(logits, labels), logits)

    @pytest.mark.parametrize("task", ["single_label", "multi_label"])
    def test_focal_has_a_gradient_where_the_answer_is_certain(self, task):
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        labels = torch.tensor([0]) if task == "single_label" else torch.tensor([[1.0, 0.0]])
        Loss(task, focal_gamma=0.5).mean(logits, labels).backward()
        assert torch.isfinite(logits.grad).all()


class TestBinaryCrossEntropy:
    @pytest.mark.parametrize("weights", [None, WEIGHTS.double()])
    def test_it_is_pytorchs(self, multi, weights):
        logits, labels = multi
        expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels)
        same(Loss("multi_label", weights).mean(logits, labels), expected, logits)

    def test_smoothed_targets_lie_between(self, multi):
        logits, labels = multi
        expected = nn.BCEWithLogitsLoss()(logits, labels * 0.9 + 0.05)
        same(Loss("multi_label", label_smoothing=0.1).mean(logits, labels), expected, logits)

    def test_focal_is_that_of_torchvision(self, multi):
        """torchvision.ops.sigmoid_focal_loss(…, alpha=-1, gamma=2, reduction="mean"), written out."""
        logits, labels = multi
        p = logits.sigmoid()
        plain = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        expected = (plain * (1 - (p * labels + (1 - p) * (1 - labels))) ** 2).mean()
        same(Loss("multi_label", focal_gamma=2.0).mean(logits, labels), expected, logits)


@pytest.mark.parametrize(
    "loss",
    [
        Loss("single_label", WEIGHTS),
        Loss("single_label", WEIGHTS, 0.1),
        Loss("single_label", WEIGHTS, focal_gamma=2.0),
        Loss("multi_label", WEIGHTS, focal_gamma=2.0),
    ],
)
def test_parts_add_up_to_the_whole(loss, single, multi):
    logits, labels = single if loss.task == "single_label" else multi
    divisor = loss.weights(labels).sum()
    parts = sum(loss.terms(logits[start : start + 7], labels[start : start + 7]).sum() for start in range(0, 40, 7))
    same(parts / divisor, loss.mean(logits, labels), logits)


def test_the_plain_loss_has_no_extras():
    assert Loss("multi_label", WEIGHTS, 0.1, 2.0).plain == Loss("multi_label")


def test_targets_of_both_tasks():
    assert targets([2, 0], "single_label", 3).tolist() == [2, 0]
    assert targets([(0, 2), ()], "multi_label", 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_class_that_is_not_named_weighs_1():
    made = make_loss(LossSettings(class_weights={"joy": 3.0}), "single_label", ("anger", "joy"))
    assert made.class_weights.tolist() == [1.0, 3.0]
    assert make_loss(LossSettings(name="focal"), "single_label", ("a", "b")).focal_gamma == 2.0
    assert make_loss(LossSettings(), "single_label", ("a", "b")) == Loss()


class TestInTraining:
    """The optimiser's path depends on the loss, and not on how its steps are cut."""

    @pytest.fixture(scope="class")
    def losses(self, toy_dataset, tiny_model, machine, tmp_path_factory):
        def train(**assignments):
            chosen = QUICK | {"training.epochs": 1} | assignments
            plan = planning.plan(toy_dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
            folder = tmp_path_factory.mktemp("cuts")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training.saving, "reload_difference", lambda *_: 0.0)
                run = training.train(plan, toy_dataset, folder=folder)
            return [(e.get("loss", 0.0), e.get("grad_norm", 0.0), e.get("eval_loss", 0.0)) for e in run.history]

        return train

    @pytest.mark.parametrize(
        "extra",
        [
            {"loss.class_weights": {"negative": 5.0, "positive": 0.2}},
            {"loss.class_weights": {"negative": 4.0}, "loss.name": "focal"},
        ],
    )
    def test_micro_batches_change_nothing(self, losses, extra):
        small, large, plain = (
            losses(**extra, **{"compute.tokens_per_micro_batch": tokens}) for tokens in (40, 2048, 0)
        )
        np.testing.assert_allclose(small, large, rtol=2e-4)
        np.testing.assert_allclose(plain, large, rtol=2e-4)
        assert not np.allclose(small, losses(), rtol=1e-2)

    def test_of_windows_neither(self, losses):
        """The loss is one of texts: how many windows a text has gives it no more weight."""
        windows = {"text.policy": "windows", "text.max_length": 8, "text.window_overlap": 2, "text.max_windows": 3}
        weights = {"loss.class_weights": {"negative": 4.0}, "loss.name": "focal"}
        small, large = (losses(**windows, **weights, **{"compute.tokens_per_micro_batch": t}) for t in (40, 2048))
        np.testing.assert_allclose(small, large, rtol=2e-4)
        assert not np.allclose(small, losses(**weights), rtol=1e-3)

    def test_running_out_of_memory_changes_nothing(self, losses, monkeypatch):
        weights = {"loss.class_weights": {"negative": 5.0, "positive": 0.2}}
        whole = losses(**weights, **{"compute.tokens_per_micro_batch": 2048})
        original, failed = training.fitting.MicroBatchTrainer._step, []

        def short_of_memory(self, model, inputs, items, under_way):
            if self.state.global_step == 3 and not failed:
                failed.append(original(self, model, inputs, items, under_way))  # gradients are there
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(self, model, inputs, items, under_way)

        monkeypatch.setattr(training.fitting.MicroBatchTrainer, "_step", short_of_memory)
        with pytest.warns(match="the GPU memory ran out; micro-batches of .* tokens instead of 2,048"):
            halved = losses(**weights, **{"compute.tokens_per_micro_batch": 2048})
        np.testing.assert_allclose(halved, whole, rtol=2e-4)

    def test_the_validation_loss_is_the_plain_one(self, losses):
        """Before anything has been learnt from it, the loss setting leaves the validation alone."""
        still = {"training.learning_rate": 1e-6}
        plain, focal = losses(**still), losses(**still, **{"loss.name": "focal", "loss.focal_gamma": 5.0})
        assert focal[-1][2] == pytest.approx(plain[-1][2], rel=1e-3)
        assert focal[0][0] < 0.8 * plain[0][0]
