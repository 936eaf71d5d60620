"""Out of memory: what is recognised, and that training and prediction go on in smaller micro-batches."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICK, WORDS, ToyRun, write_model
from tests.test_cli import TINY, call
from tests.test_training import adapter, entries, equal, interrupt
from textlora import encoder, memory, planning, prefix, storage, trainer, training
from textlora.classifier import Classifier
from textlora.errors import Interrupted, ResourceError, TextloraWarning
from textlora.memory import Budget, describe, shortage
from textlora.preparation import prepare
from textlora.types import Bundle, MemoryEvent

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.56 GiB of which 1.2 GiB is free. "
    "Including non-PyTorch memory, this process has 13.36 GiB memory in use. Of the allocated memory 12.1 GiB is allocated by PyTorch."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "6442450944 bytes. Error code 12 (Cannot allocate memory)"
)
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
ERRORS = {
    "torch": (lambda: torch.OutOfMemoryError(CUDA), "GPU memory"),
    "CPU": (lambda: RuntimeError(CPU), "memory"),
    "MemoryError": (lambda: MemoryError("std::bad_alloc"), "memory"),
}


class TestShortage:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (torch.cuda.OutOfMemoryError(CUDA), "GPU memory"),
            (RuntimeError(CUDA), "GPU memory"),
            (RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"), "GPU memory"),
            (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), "GPU memory"),
            (RuntimeError(CUBLAS), "GPU memory"),
            (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "GPU memory"),
            (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)."), "GPU memory"),
            (RuntimeError(CPU), "memory"),
            (
                RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9437184 bytes."
                ),
                "memory",
            ),
            (RuntimeError("could not create a memory object"), "memory"),
            (RuntimeError("could not create a primitive"), "memory"),
            (RuntimeError("std::bad_alloc"), "memory"),
            (MemoryError(), "memory"),
            (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_recognised(self, error, kind):
        assert shortage(error) == kind

    def test_what_torch_raises_here(self):
        with pytest.raises(RuntimeError) as error:
            torch.empty(10**14)
        assert shortage(error.value) == "memory"

    def test_what_numpy_raises_here(self):
        with pytest.raises(MemoryError) as error:
            np.empty(10**15)
        assert shortage(error.value) == "memory"

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
            RuntimeError("CUDA error: device-side assert triggered"),
            RuntimeError(
                "could not create a primitive descriptor for the matmul primitive. Run workload with environment variable ONEDNN_VERBOSE=all"
            ),
            RuntimeError("the film runs out of memory lane"),
            ValueError(CUDA),
            OSError(errno.ENOSPC, "No space left on device"),
            KeyError("out of memory"),
            KeyboardInterrupt(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_other_errors_are_not(self, error):
        assert shortage(error) is None


class TestBudget:
    def failing(self, budget, *, above, texts=8, error=lambda: RuntimeError(CPU)):
        """Work of ``texts`` texts of 10 tokens that fails for micro-batches of more than ``above`` tokens."""
        tried = []

        def work(under_way):
            room = max(1, (budget.tokens or 10**9) // 10)
            size = min(texts, room)
            tried.append(10 * size)
            under_way.holds(size, 10 * size)
            if 10 * size > above:
                raise error()
            return "done"

        return work, tried

    def test_the_budget_is_halved_until_it_fits(self):
        events = []
        budget = Budget(80, on_event=events.append)
        work, tried = self.failing(budget, above=30)
        assert budget.run(work, stage="training", step=3) == "done"
        assert tried == [80, 40, 20]
        assert (
            events
            == budget.events
            == [
                MemoryEvent(3, "training", "memory", CPU, 80, 40),
                MemoryEvent(3, "training", "memory", CPU, 40, 20),
            ]
        )
        assert budget.run(work, stage="training", step=4) == "done"
        assert tried == [80, 40, 20, 20]

    def test_a_budget_far_above_the_work_falls_below_it_at_once(self):
        budget = Budget(65_536)
        work, tried = self.failing(budget, above=50)
        budget.run(work, stage="training")
        assert (tried, budget.tokens) == ([80, 60, 30], 32)

    def test_without_a_limit_half_of_the_work_is_the_first_budget(self):
        budget = Budget(0)
        work, _ = self.failing(budget, above=50)
        budget.run(work, stage="training")
        assert [(event.before, event.after) for event in budget.events] == [(0, 40)]

    def test_what_was_done_is_undone_before_each_further_try(self):
        budget, calls = Budget(80), []
        work, _ = self.failing(budget, above=30)
        budget.run(work, stage="training", undo=lambda: calls.append(budget.tokens))
        assert calls == [80, 40]

    def test_the_failed_tensors_are_gone_when_it_is_tried_again(self):
        alive = []

        def work(under_way):
            under_way.holds(2, 20)
            if alive:
                return [reference() for reference in alive]
            activations = torch.zeros(10)
            alive.append(weakref.ref(activations))
            raise RuntimeError(CPU)

        assert Budget(20).run(work, stage="training") == [None]

    def test_one_text_that_does_not_fit_ends_it(self):
        budget = Budget(40)
        work, tried = self.failing(budget, above=5)
        with pytest.raises(ResourceError) as error:
            budget.run(work, stage="training", step=7, hint="Buy some.")
        assert tried == [40, 20, 10]
        assert str(error.value) == (
            f"The memory ran out (training, step 7): {CPU}\n"
            "  - training, step 7: the memory ran out; micro-batches of 20 tokens instead of 40\n"
            "  - training, step 7: the memory ran out; micro-batches of 10 tokens instead of 20\n"
            "  - not even one text of 10 tokens fits\n"
            "Buy some."
        )

    def test_five_times_and_no_more(self):
        budget = Budget(640)
        work, tried = self.failing(budget, above=5, texts=64)
        with pytest.raises(ResourceError) as error:
            budget.run(work, stage="prediction")
        assert tried == [640, 320, 160, 80, 40, 20]
        assert error.value.exit_code == 4
        assert error.value.message == f"The memory ran out (prediction): {CPU}"
        assert error.value.problems[-1] == "the micro-batch was halved 5 times; more is not tried"
        assert len(error.value.problems) == 6
        assert error.value.hint == memory.LESS

    def test_before_the_first_text_there_is_nothing_to_halve(self):
        def work(under_way):
            raise MemoryError

        with pytest.raises(ResourceError) as error:
            Budget(40).run(work, stage="training", step=1)
        assert str(error.value).startswith("The memory ran out (training, step 1): MemoryError\n")

    @pytest.mark.parametrize(
        "error", [RuntimeError("shapes"), OSError(errno.EIO, "disk"), ValueError("x"), KeyError(1)]
    )
    def test_other_errors_pass_through(self, error):
        budget = Budget(80)
        work, tried = self.failing(budget, above=0, error=lambda: error)
        with pytest.raises(type(error)) as found:
            budget.run(work, stage="training")
        assert found.value is error
        assert (tried, budget.tokens, budget.events) == ([80], 80, [])

    def test_one_text_beside_others_may_fit_alone(self):
        budget, tried = Budget(10), []

        def work(under_way):
            tried.append(budget.tokens)
            under_way.holds(1, 10, alone=bool(budget.events))
            if not budget.events:
                raise RuntimeError(CPU)

        budget.run(work, stage="prediction")
        assert tried == [10, 5]

    def test_several_processes_do_not_go_on_by_themselves(self):
        budget = Budget(80, processes=2)
        work, tried = self.failing(budget, above=50)
        with pytest.raises(ResourceError) as error:
            budget.run(work, stage="training", step=1)
        assert tried == [80]
        assert str(error.value) == (
            f"The memory ran out (training, step 1): {CPU}\n"
            "  - 2 processes train together; only a single one can go on by itself\n"
            "Plan with smaller micro-batches: --set compute.tokens_per_micro_batch=40"
        )


class Shortage:
    """A forward pre-hook that fails as a full memory does: in every micro-batch of more than ``above`` tokens.

    Args:
        raised: makes the exception.
        above: tokens that still fit.
        when: (module in training, optimiser steps done) to whether memory is full.
    """

    def __init__(self, raised, above, when=lambda training, done: True):
        self.raised, self.above, self.when = raised, above, when
        self.done = 0
        self.failed = []

    def __call__(self, module, args, kwargs):
        tokens = sum(kwargs["lengths"]) if "lengths" in kwargs else kwargs["input_ids"].numel()
        if tokens > self.above and self.when(module.training, self.done):
            self.failed.append((self.done, tokens))
            raise self.raised()

    def progress(self, stage, done, total, note):
        if stage == "train":
            self.done = done


@pytest.fixture
def short(monkeypatch):
    """Have ``train`` build models that run out of memory."""

    def install(raised, above, when=lambda training, done: True):
        build, hook = encoder.build_model, Shortage(raised, above, when)

        def built(*arguments, **named):
            model = build(*arguments, **named)
            model.register_forward_pre_hook(hook, with_kwargs=True)
            return model

        monkeypatch.setattr(encoder, "build_model", built)
        return hook

    return install


@pytest.fixture(scope="module")
def planned(toy_dataset, tiny_model, machine):
    def make(**changes):
        return planning.plan(toy_dataset, base_model=str(tiny_model), assignments={**QUICK, **changes}, machine=machine)

    return make


@pytest.fixture(scope="module")
def smaller(planned, toy_dataset, tmp_path_factory):
    """The run that started with half the micro-batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.saving, "reload_difference", lambda *_: 0.0)
        folder = tmp_path_factory.mktemp("smaller")
        plan = planned(**{"compute.tokens_per_micro_batch": 128})
        return ToyRun(folder, toy_dataset, plan, training.train(plan, toy_dataset, folder=folder))


def states(folder):
    """The weights at the end of both epochs."""
    return [load_file(folder / f"checkpoints/checkpoint-{step}/adapter_model.safetensors") for step in (12, 24)]


def assert_close(first, second):
    assert first.keys() == second.keys()
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, atol=1e-5, rtol=1e-4, msg=name)


PLACES = {
    "first step": lambda training, done: training,
    "mid-epoch": lambda training, done: training and done >= 7,
    "evaluation": lambda training, done: not training and done >= 12,
    "after resume": lambda training, done: training and done >= 17,
}


@pytest.mark.usefixtures("fast_reload")
class TestTraining:
    @pytest.mark.parametrize("kind", ERRORS)
    @pytest.mark.parametrize("place", PLACES)
    def test_it_ends_as_a_run_that_started_smaller(self, planned, toy_dataset, smaller, tmp_path, short, place, kind):
        plan, (raised, what) = planned(), ERRORS[kind]
        if place == "after resume":
            interrupt(plan, toy_dataset, tmp_path, 16)
        full = short(raised, 128, PLACES[place])
        run = training.train(plan, toy_dataset, folder=tmp_path, resume=place == "after resume", progress=full.progress)
        assert (run.steps, run.best_step) == (24, smaller.run.best_step)
        assert len(full.failed) == 1
        (event,) = run.memory_events
        step = {"first step": 1, "mid-epoch": 8, "evaluation": 12, "after resume": 18}[place]
        stage = "validation" if place == "evaluation" else "training"
        assert (event.step, event.stage, event.kind, event.before, event.after) == (step, stage, what, 256, 128)
        for found, expected in zip(states(tmp_path), states(smaller.folder), strict=True):
            assert_close(found, expected)
            if place == "first step":
                assert equal(found, expected)

    def test_what_the_run_remembers(self, planned, toy_dataset, tmp_path, short):
        full = short(ERRORS["torch"][0], 128, PLACES["mid-epoch"])
        run = training.train(planned(), toy_dataset, folder=tmp_path, progress=full.progress)
        lines = entries(tmp_path)
        (event,) = [line for line in lines if "event" in line]
        assert event == {
            "event": "out of memory", "step": 8, "stage": "training", "kind": "GPU memory", "message": CUDA[:197] + "…",
            "before": 256, "after": 128,
        }  # fmt: skip
        assert lines.index(event) == 7  # between the entries of steps 7 and 8
        assert [line for line in lines if "event" not in line] == [dict(entry) for entry in run.history]
        assert training.load_run(tmp_path) == run
        assert describe(run.memory_events[0]) == (
            "training, step 8: the GPU memory ran out; micro-batches of 128 tokens instead of 256"
        )
        bundle = storage.read_noun(tmp_path / "adapter" / "textlora.json", Bundle, made_by="train")
        assert bundle.tokens_per_micro_batch == 128
        assert Classifier.from_pretrained(tmp_path, device="cpu").budget.tokens == 128

    def test_a_user_hears_of_it(self, planned, toy_dataset, tmp_path, short):
        full = short(ERRORS["CPU"][0], 64, PLACES["mid-epoch"])
        with pytest.warns(TextloraWarning) as heard:
            training.train(planned(), toy_dataset, folder=tmp_path, progress=full.progress)
        assert [str(one.message) for one in heard if one.category is TextloraWarning] == [
            "training, step 8: the memory ran out; micro-batches of 128 tokens instead of 256",
            "training, step 8: the memory ran out; micro-batches of 64 tokens instead of 128",
        ]

    def test_a_resumed_run_goes_on_with_the_smaller_budget(self, planned, toy_dataset, tmp_path, short):
        """Also when its checkpoint is older than the shortage."""
        plan = planned()
        full = short(ERRORS["CPU"][0], 128, PLACES["mid-epoch"])
        done = []

        def progress(stage, at, total, note):
            full.progress(stage, at, total, note)
            if (stage, at) == ("train", 15):
                raise KeyboardInterrupt  # without a checkpoint

        full.when = lambda training, at: training and at >= 13
        with pytest.raises(KeyboardInterrupt):
            training.train(plan, toy_dataset, folder=tmp_path, progress=progress)
        run = training.train(
            plan, toy_dataset, folder=tmp_path, resume=True, progress=lambda *at: (full.progress(*at), done.append(at))
        )
        assert next(at[1] for at in done if at[0] == "train") == 13
        assert len(full.failed) == 1
        assert [(event.step, event.after) for event in run.memory_events] == [(14, 128)]
        assert [line["step"] for line in entries(tmp_path) if "loss" in line] == list(range(1, 25))

    def test_a_resumed_run_equals_the_undisturbed_one_with_the_same_shortage(
        self, planned, toy_dataset, tmp_path, short
    ):
        plan = planned()
        full = short(ERRORS["CPU"][0], 128, PLACES["mid-epoch"])
        training.train(plan, toy_dataset, folder=tmp_path / "whole", progress=full.progress)
        full.done = 0

        def stopping(stage, done, total, note, *, sent=[]):  # noqa: B006
            full.progress(stage, done, total, note)
            if (stage, done) == ("train", 14) and not sent:
                sent.append(os.kill(os.getpid(), 15))

        with pytest.raises(Interrupted):
            training.train(plan, toy_dataset, folder=tmp_path / "parts", progress=stopping)
        training.train(plan, toy_dataset, folder=tmp_path / "parts", resume=True, progress=full.progress)
        assert equal(states(tmp_path / "whole")[1], states(tmp_path / "parts")[1])

    def test_gradients_of_the_failed_step_do_not_count(self, planned, toy_dataset, smaller, tmp_path, short):
        """The third micro-batch fails, when two have left their gradients."""
        passes = []

        def when(training, done):
            passes.append(training)
            return training and len(passes) == 3

        full = short(ERRORS["torch"][0], 0, when)
        run = training.train(
            planned(**{"compute.tokens_per_micro_batch": 128, "training.batch_size": 32, "training.epochs": 1}),
            toy_dataset, folder=tmp_path / "failed", progress=full.progress,
        )  # fmt: skip
        assert [event.step for event in run.memory_events] == [1]
        full.when = lambda training, done: False
        training.train(
            planned(**{"compute.tokens_per_micro_batch": 64, "training.batch_size": 32, "training.epochs": 1}),
            toy_dataset, folder=tmp_path / "small", progress=full.progress,
        )  # fmt: skip
        assert equal(adapter(tmp_path / "failed"), adapter(tmp_path / "small"))

    @pytest.mark.parametrize("dropout", [{"lora.lora_dropout": 0.2}, {"training.trunk_dropout": True}])
    def test_other_dropout_is_drawn_again_from_the_same_stream(self, planned, toy_dataset, tmp_path, short, dropout):
        changes = {**dropout, "training.epochs": 0.5, "compute.engine": "transformers"}
        full = short(ERRORS["CPU"][0], 256, PLACES["first step"])
        training.train(
            planned(**changes, **{"compute.tokens_per_micro_batch": 512}), toy_dataset, folder=tmp_path / "a"
        )
        assert len(full.failed) == 1
        training.train(
            planned(**changes, **{"compute.tokens_per_micro_batch": 256}), toy_dataset, folder=tmp_path / "b"
        )
        assert equal(adapter(tmp_path / "a"), adapter(tmp_path / "b"))

    def test_plain_batches_become_micro_batches(self, planned, toy_dataset, tmp_path, short):
        changes = {"compute.tokens_per_micro_batch": 0, "compute.engine": "transformers", "training.epochs": 1}
        training.train(planned(**changes), toy_dataset, folder=tmp_path / "plain")
        full = short(ERRORS["torch"][0], 300, PLACES["mid-epoch"])
        run = training.train(planned(**changes), toy_dataset, folder=tmp_path / "cut", progress=full.progress)
        assert [(event.before, event.after) for event in run.memory_events] == [(0, 256)]
        assert_close(adapter(tmp_path / "plain"), adapter(tmp_path / "cut"))

    def test_frozen_layers_are_computed_in_parts(self, planned, toy_dataset, tmp_path, short, monkeypatch):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "whole-cache"))
        plan = planned(**{"lora.top_layers": 1, "compute.prefix_cache": True, "training.epochs": 1})
        training.train(plan, toy_dataset, folder=tmp_path / "whole")
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        real = prefix._states

        def states(model, texts, layers):
            if sum(len(ids) for ids in texts) > 1000:
                raise RuntimeError(CPU)
            return real(model, texts, layers)

        monkeypatch.setattr(prefix, "_states", states)
        told = "^frozen layers: the memory ran out; micro-batches of 1,024 tokens instead of 2,048$"
        with pytest.warns(TextloraWarning, match=told):
            training.train(plan, toy_dataset, folder=tmp_path / "parts")
        assert_close(adapter(tmp_path / "whole"), adapter(tmp_path / "parts"))

    def test_nothing_helps(self, planned, toy_dataset, tmp_path, short):
        short(ERRORS["torch"][0], 0)
        with pytest.raises(ResourceError) as error:
            training.train(planned(), toy_dataset, folder=tmp_path)
        assert error.value.message == f"The GPU memory ran out (training, step 1): {CUDA[:197]}…"
        assert error.value.problems[0] == (
            "training, step 1: the GPU memory ran out; micro-batches of 128 tokens instead of 256"
        )
        assert error.value.problems[-1].startswith("not even one text of ")
        assert error.value.hint == (
            f"{memory.LESS} From the last checkpoint, if there is one: textlora train {tmp_path} --resume"
        )
        assert not (tmp_path / "run.json").exists()

    def test_other_errors_pass_through(self, planned, toy_dataset, tmp_path, short):
        full = short(lambda: RuntimeError("CUDA error: device-side assert triggered"), 0, PLACES["mid-epoch"])
        with pytest.raises(RuntimeError, match=r"^CUDA error: device-side assert triggered$"):
            training.train(planned(), toy_dataset, folder=tmp_path, progress=full.progress)
        assert len(full.failed) == 1
        assert not [line for line in entries(tmp_path) if "event" in line]

    def test_outside_of_the_steps_it_is_an_error_that_says_so(self, planned, toy_dataset, tmp_path, monkeypatch):
        def clip(*_):
            raise torch.OutOfMemoryError(CUDA)

        monkeypatch.setattr(trainer.MicroBatchTrainer, "_clip_grad_norm", clip)
        with pytest.raises(ResourceError) as error:
            training.train(planned(), toy_dataset, folder=tmp_path)
        assert error.value.message == f"The GPU memory ran out while training: {CUDA[:197]}…"


class TestCommandLine:
    def test_the_run_ends_well_and_says_what_happened(self, toy_csv, tiny_model, tmp_path, short, fast_reload):
        short(ERRORS["CPU"][0], 128, PLACES["first step"])
        small = ("--set", "compute.tokens_per_micro_batch=256")
        result = call("fit", toy_csv, "--base-model", tiny_model, "--out", tmp_path / "run", *TINY, *small)
        assert result.code == 0, result.err
        line = "training, step 1: the memory ran out; micro-batches of 128 tokens instead of 256"
        assert f"  ! {line}\n" in result.out
        assert f"warning: {line}\n" in result.err
        for name in ("report.md", "report.html"):
            assert line in (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert json.loads((tmp_path / "run" / "run.json").read_text())["memory_events"][0]["after"] == 128

    def test_without_success_it_ends_with_4(self, toy_csv, tiny_model, tmp_path, short):
        short(ERRORS["torch"][0], 0)
        result = call("fit", toy_csv, "--base-model", tiny_model, "--out", tmp_path / "run", *TINY)
        assert result.code == 4
        assert "error: The GPU memory ran out (training, step 1): CUDA out of memory." in result.err
        assert "not even one text of " in result.err
        assert "Traceback" not in result.err

    def test_memory_that_runs_out_elsewhere_is_no_bug(self, toy_csv, tiny_model, tmp_path, monkeypatch):
        def build(*_, **__):
            raise RuntimeError(CUBLAS)

        monkeypatch.setattr(encoder, "build_model", build)
        result = call("fit", toy_csv, "--base-model", tiny_model, "--out", tmp_path / "run", *TINY)
        assert result.code == 4
        assert result.err.endswith(
            "error: The GPU memory is full.\n"
            "Try --set compute.tokens_per_micro_batch=1024, or fewer rows with --sample.\n"
        )


class TestPrediction:
    @pytest.fixture
    def classifier(self, toy_run):
        return Classifier.from_pretrained(toy_run.folder, device="cpu")

    @pytest.mark.parametrize("kind", ERRORS)
    def test_the_answers_are_the_same(self, classifier, toy_run, kind):
        texts = toy_run.dataset.train.texts
        expected = classifier.logits(texts)
        classifier.budget.tokens = 1024
        full = Shortage(ERRORS[kind][0], 300)
        classifier.model.register_forward_pre_hook(full, with_kwargs=True)
        done = []
        found = classifier.predict_proba(texts, progress=lambda at, total: done.append((at, total)))
        np.testing.assert_allclose(found, np.exp(expected) / np.exp(expected).sum(1, keepdims=True), atol=1e-5)
        assert [event.after for event in classifier.budget.events] == [512, 256]
        assert [at for at, _ in done] == sorted({at for at, _ in done})
        assert done[-1] == (96, 96)
        failures = len(full.failed)
        classifier.predict(texts)
        assert len(full.failed) == failures  # the budget stays

    def test_what_is_done_is_not_done_again(self, classifier, toy_run, monkeypatch):
        texts = toy_run.dataset.train.texts
        classifier.budget.tokens = 256
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one after the other, to know how many are done
        passes = []

        def fail_once(module, args, kwargs):
            passes.append(len(kwargs["lengths"]))
            if len(passes) == 4:
                raise MemoryError

        classifier.model.register_forward_pre_hook(fail_once, with_kwargs=True)
        classifier.logits(texts)
        assert sum(passes) == len(texts) + passes[3]

    def test_one_text_that_does_not_fit(self, classifier):
        classifier.model.register_forward_pre_hook(Shortage(ERRORS["CPU"][0], 0), with_kwargs=True)
        with pytest.raises(ResourceError) as error:
            classifier.predict(["a film"])
        assert str(error.value) == (
            f"The memory ran out (prediction): {CPU}\n  - not even one text of 4 tokens fits\n{memory.LESS}"
        )

    def test_the_budget_changes_no_fingerprint(self, classifier):
        other = Classifier(
            classifier.model, classifier.tokenizer, replace(classifier.bundle, tokens_per_micro_batch=64)
        )
        assert other.fingerprint == classifier.fingerprint
        assert other.budget.tokens == 64

    def test_a_bundle_from_before_is_read(self, toy_run, tmp_path):
        path = toy_run.folder / "adapter" / "textlora.json"
        document = json.loads(path.read_text())
        document.pop("tokens_per_micro_batch")
        (tmp_path / "textlora.json").write_text(json.dumps(document))
        bundle = storage.read_noun(tmp_path / "textlora.json", Bundle, made_by="train")
        assert bundle.tokens_per_micro_batch is None


REAL = """
    import re, resource, sys
    from pathlib import Path

    from textlora import planning, preparation, storage, training

    folder, room = Path(sys.argv[1]), int(sys.argv[2])
    if room:
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    training.train(planning.load_plan(folder / storage.PLAN), preparation.load_dataset(folder))
    print(1024 * int(re.search(r"VmPeak:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_a_real_shortage_under_ulimit_ends_well(tmp_path, machine):
    """Every step has 320 texts at once, which take some 800 MB; what small micro-batches need is measured first."""
    draw = random.Random(3)
    lines = [
        f"{' '.join(draw.choices(WORDS, k=draw.randint(30, 60)))} {words},{label}"
        for _ in range(200)
        for label, words in (("positive", "good great"), ("negative", "bad dull"))
    ]
    (tmp_path / "data.csv").write_text("\n".join(["review,sentiment", *lines]), encoding="utf-8")
    dataset = prepare(tmp_path / "data.csv", out=tmp_path / "run", text="review", label="sentiment")
    model = write_model(tmp_path / "model", "distilbert", dim=128, hidden_dim=512, n_layers=4)
    settings = {"training.batch_size": 320, "compute.attention": "eager", "training.eval_batch_size": 8}

    def train(tokens, room=0):
        assignments = {**QUICK, **settings, "compute.tokens_per_micro_batch": tokens}
        plan = planning.plan(dataset, base_model=str(model), assignments=assignments, machine=machine)
        planning.save_plan(dataset.folder / storage.PLAN, plan)
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(REAL), str(dataset.folder), str(room)],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    little, much = (int(train(tokens).stdout) for tokens in (2_000, 100_000))
    assert much > 1.15 * little
    done = train(100_000, room=(2 * little + much) // 3)
    assert done.returncode == 0, done.stderr
    run = training.load_run(dataset.folder)
    first = run.memory_events[0]
    assert (first.step, first.stage, first.kind, first.before) == (1, "training", "memory", 100_000)
    assert "DefaultCPUAllocator: can't allocate memory" in first.message
    assert describe(first) in done.stderr
    assert (run.steps, run.epochs) == (2, 2.0)
    assert run.peak_memory_gb < 1.2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_tidying_up_gives_free_memory_back_and_keeps_what_is_freed_later():
    """In a process of its own: how the allocator is set stays for good."""
    code = (
        "import psutil, numpy; from textlora import allocation, memory\n"
        "resident = lambda: psutil.Process().memory_info().rss / 1e6\n"
        "allocation.keep_freed_memory(); before = resident()\n"
        "pieces = [numpy.ones(250_000) for _ in range(100)]; pin = numpy.ones(10); del pieces; kept = resident()\n"
        "memory.tidy(); tidied = resident()\n"
        "again = [numpy.ones(250_000) for _ in range(100)]; del again; later = resident()\n"
        "print(kept - before, tidied - before, later - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, tidied, later = map(float, done.stdout.split())
    assert kept > 150
    assert tidied < 30
    assert later > 150
