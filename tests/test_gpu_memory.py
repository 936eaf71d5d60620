"""Memory on a CUDA GPU, predicted for machines that are made up, and shown beside the host's."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.test_planning import (
    A100,
    APPLE,
    DISTILBERT,
    T4,
    XEON,
    estimated,
    grounds,
    limited,
    make_plan,
    resolve,
    settled,
)
from tests.test_reporting import make_run
from textlora import hardware, planning, terminal
from textlora.errors import ResourceError
from textlora.planning import gpu_memory, limits, workload
from textlora.planning.alternatives import alternatives
from textlora.planning.estimating import estimate
from textlora.types import Run

TERMS = [
    "CUDA context", "weights", "adapters", "gradients", "optimiser state", "activations", "attention", "workspace",
    "logits", "forward passes", "caching",
]  # fmt: skip


def test_a_gpu_has_terms_of_its_own():
    found = estimated(grounds(machine=T4))
    terms = found.gpu_memory_by_term
    assert list(terms) == TERMS
    assert found.gpu_memory_gb == pytest.approx(sum(terms.values()))
    assert terms["CUDA context"] == 0.5
    assert terms["weights"] == pytest.approx(66_362_880 * 2 / 1e9)
    trained = found.trainable_parameters
    assert [terms[name] * 1e9 / trained for name in ("adapters", "gradients", "optimiser state")] == [4, 4, 8]
    # 9 hidden and 2 inner widths a token in fp16, through five layers and a twentieth of the last one.
    tokens = workload.load(20_000, 32, settled(grounds(machine=T4)), grounds(machine=T4)).largest
    assert terms["activations"] == pytest.approx(tokens * 5.05 * (9 * 768 + 2 * 3072) * 2 / 1e9)
    assert terms["attention"] == 0  # the fused kernel keeps no probabilities
    passing = [terms[name] for name in ("activations", "attention", "workspace", "logits", "forward passes")]
    assert terms["caching"] == pytest.approx(gpu_memory.CACHING_SHARE * sum(passing))


def test_the_host_of_a_gpu_holds_libraries_and_what_passes_through():
    found = estimated(grounds(machine=T4))
    assert list(found.memory_by_term) == ["libraries", "loading", "evaluation"]
    assert found.memory_by_term["loading"] == pytest.approx(66_362_880 * 4 / 1e9)
    assert found.memory_by_term["libraries"] > 1  # CUDA's too
    more = estimated(grounds(machine=T4), compute__tokens_per_micro_batch=4096)
    assert more.memory_gb == found.memory_gb
    assert more.gpu_memory_gb < found.gpu_memory_gb


@pytest.mark.parametrize("machine", [XEON, APPLE])
def test_without_cuda_there_is_one_memory(machine):
    found = estimated(grounds(machine=machine))
    assert (found.gpu_memory_gb, found.train_gpu_memory_gb, found.gpu_memory_by_term) == (0, 0, {})
    assert "activations" in found.memory_by_term


def test_what_pytorch_reserves_leaves_out_the_context():
    found = estimated(grounds(machine=T4))
    assert found.train_gpu_memory_gb == pytest.approx(found.gpu_memory_gb - 0.5)


def test_passes_without_gradients_count_where_they_are_the_largest():
    small = {"compute__tokens_per_micro_batch": 512}
    trained = estimated(grounds(machine=T4), **small)
    assert trained.gpu_memory_by_term["forward passes"] > 0
    assert estimated(grounds(machine=T4)).gpu_memory_by_term["forward passes"] == 0
    few = estimated(grounds(machine=T4, train=16), **small)
    assert few.gpu_memory_by_term["forward passes"] < trained.gpu_memory_by_term["forward passes"]


def test_full_fine_tuning_trains_the_weights_themselves():
    on = grounds(machine=T4)
    full, lora = (other.estimate for other in alternatives(make_plan(on).settings, on, lambda *_, **__: None)[:2])
    terms = full.gpu_memory_by_term
    assert (terms["adapters"], terms["weights"]) == (0, pytest.approx(66_362_880 * 4 / 1e9))
    assert terms["optimiser state"] == pytest.approx(66_362_880 * 8 / 1e9)
    assert full.weights_gb > lora.weights_gb


@pytest.mark.parametrize(
    ("free", "tokens", "reason"),
    [
        (None, 16384, "16,384 tokens keep about 4.5 GB of activations; 15.0 GB are free"),
        (6.0, 8192, "8,192 tokens keep about 2.3 GB of activations; 5.4 GB are free"),
        (0.4, 512, "the least that is useful; only 0.0 GB are free"),
    ],
)
def test_micro_batches_suit_what_other_processes_leave_of_the_gpu(free, tokens, reason):
    machine = replace(T4, gpu_available_memory_gb=free, available_memory_gb=1.0)  # the host's memory plays no part
    values, reasons = resolve(grounds(machine=machine))
    assert (values["compute.tokens_per_micro_batch"], reasons["compute.tokens_per_micro_batch"]) == (tokens, reason)


@pytest.mark.parametrize("machine", [T4, A100])
def test_the_micro_batch_that_is_chosen_fits_the_gpu(machine):
    for info in (DISTILBERT, replace(DISTILBERT, layers=24, hidden=1024, intermediate=4096, parameters=560_000_000)):
        assert estimated(grounds(info, machine)).gpu_memory_gb < 0.9 * machine.gpu_memory_gb


def test_a_memory_limit_is_meant_for_the_gpu():
    changed, reasons = limited(grounds(machine=A100), limits__memory_gb=2.4)
    assert estimate(changed, grounds(machine=A100)).gpu_memory_gb * limits.MARGIN <= 2.4
    assert changed.compute.tokens_per_micro_batch == 8192
    assert reasons["compute.tokens_per_micro_batch"] == "to keep GPU memory below 2.4 GB"


def test_a_limit_below_what_the_gpu_needs_is_refused():
    with pytest.raises(ResourceError) as refused:
        limited(grounds(machine=A100), limits__memory_gb=0.5)
    assert str(refused.value).startswith("This training cannot be done with GPU memory below 0.5 GB.")
    assert "the least that was found takes GPU memory: " in str(refused.value)


def test_the_plan_file_keeps_the_gpus_terms(tmp_path):
    made = make_plan(grounds(machine=replace(T4, gpu_available_memory_gb=14.5)))
    planning.save_plan(tmp_path / "plan.toml", made)
    loaded = planning.load_plan(tmp_path / "plan.toml")
    assert loaded == made
    assert loaded.estimate.gpu_memory_by_term == made.estimate.gpu_memory_by_term


# -- what a person sees --------------------------------------------------------------------------


def shown(show, *what) -> str:
    text = io.StringIO()
    show(*what, Console(file=text, width=200))
    return text.getvalue()


def test_the_terminal_sets_both_memories_side_by_side():
    on = grounds(machine=replace(T4, gpu_available_memory_gb=14.5))
    made = make_plan(on)
    made = replace(made, alternatives=alternatives(made.settings, on, lambda *_, **__: None))
    text = shown(terminal.show_plan, made, [])
    assert f"{made.estimate.memory_gb:.1f} GB of memory, {made.estimate.gpu_memory_gb:.1f} GB of GPU memory, " in text
    (head,) = (line for line in text.splitlines() if line.split()[:2] == ["memory", "GB"])
    assert head.split() == ["memory", "GB", "GPU", "memory", "GB", "time", "disk", "GB"]
    assert "CUDA context" in text
    assert "14.50" in text


def test_without_a_gpu_nothing_is_said_of_one():
    made = make_plan()
    made = replace(made, alternatives=alternatives(made.settings, grounds(), lambda *_, **__: None))
    assert "GPU" not in shown(terminal.show_plan, made, [])


def run_on_gpu() -> Run:
    return make_run(
        peak_gpu_memory_gb=4.1, predicted_gpu_memory_gb=3.9, predicted_memory_gb=2.0, predicted_seconds=600.0,
        stage_seconds=620.0,
    )  # fmt: skip


def test_a_run_tells_both_peaks_beside_what_was_predicted():
    text = shown(terminal.show_run, run_on_gpu())
    assert "peak memory 2.21 GB, 4.10 GB on the GPU" in text
    assert "predicted 10 min 0 s and 2.00 GB, 3.90 GB on the GPU; it took 10 min 20 s" in text
    assert "GPU" not in shown(terminal.show_run, make_run(predicted_memory_gb=2.0))


def test_nothing_is_reserved_where_no_gpu_is_in_use():
    hardware.watch_gpu_memory()
    assert hardware.peak_gpu_memory_gb() == 0.0


@pytest.mark.gpu
def test_the_peak_on_the_gpu_is_what_was_reserved():
    import torch

    torch.ones(1, device="cuda")
    hardware.watch_gpu_memory()
    before = hardware.peak_gpu_memory_gb()
    held = torch.ones(250_000_000, device="cuda")
    del held
    assert hardware.peak_gpu_memory_gb() - before == pytest.approx(1.0, abs=0.1)
