"""The planner: decisions and their reasons, contradictions, the estimate, and plan.toml."""

from __future__ import annotations

import io
import random
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import ARCHITECTURES, ROOT, write_model
from textlora import planning, settings, storage, terminal
from textlora.errors import ResourceError, UsageError
from textlora.models import BaseInfo
from textlora.planning import deciding, kernels, limits, workload
from textlora.planning.alternatives import alternatives
from textlora.planning.estimating import estimate
from textlora.planning.grounds import EAGER_ONLY, Choice, Grounds, measure_lengths
from textlora.planning.layers import gather
from textlora.planning.plan_file import one_line
from textlora.planning.rough import rough_terms
from textlora.types import Dataset, DatasetInfo, Estimate, Machine, Plan, RowCounts, Split, TokenLengths

LINEARS = ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2")
DISTILBERT = BaseInfo(
    name="distilbert-base-uncased", revision="6cdc0aad91f5", model_type="distilbert", hidden=768, layers=6, heads=12,
    intermediate=3072, vocabulary=30522, max_length=512, linear_names=LINEARS, parameters=66_362_880, packable=True, folder=None,
)  # fmt: skip
# Tokens of film reviews: a long tail beyond the encoder's 512.
REVIEWS = TokenLengths(
    base_model="distilbert-base-uncased", max_length=512, quantiles=(14, 92, 176, 233, 376, 592, 772, 1175, 3127),
    mean=310.0, mean_cut=273.0, rows_cut=3600, tokens_cut_share=0.12, histogram=(),
)  # fmt: skip
SHORT = replace(REVIEWS, quantiles=(5, 9, 14, 20, 27, 36, 44, 58, 90), mean=21.0, mean_cut=21.0, rows_cut=0)

XEON = Machine(
    processor="Intel(R) Xeon(R) Processor", cores=2, memory_gb=25.3, available_memory_gb=23.5, gpu=None, gpu_memory_gb=None,
    gpu_capability=None, features=("avx2", "avx512f", "avx512_bf16", "amx_bf16"),
    rates={"fp32": 242.2, "fp32_onednn": 761.2, "bf16": 1890.4}, platform="Linux x86_64",
)  # fmt: skip
OLD = replace(
    XEON, processor="Core i5", cores=4, features=("avx2",), rates={"fp32": 180.0, "fp32_onednn": 190.0, "bf16": 25.0}
)
T4 = replace(
    XEON,
    gpu="Tesla T4",
    gpu_memory_gb=15.6,
    gpu_capability=(7, 5),
    rates={**XEON.rates, "gpu_fp32": 4100.0, "gpu_fp16": 24000.0},
)
A100 = replace(
    T4, gpu="NVIDIA A100", gpu_memory_gb=42.3, gpu_capability=(8, 0), rates={**T4.rates, "gpu_bf16": 250000.0}
)
APPLE = replace(
    XEON,
    processor="Apple M3",
    gpu="Apple GPU",
    gpu_memory_gb=12.7,
    features=("neon",),
    rates={"fp32": 900.0, "bf16": 100.0},
)


def grounds(
    info: BaseInfo = DISTILBERT,
    machine: Machine = XEON,
    lengths: TokenLengths = REVIEWS,
    train: int = 20_000,
    **changes,
) -> Grounds:
    rows = {"train": train, "validation": train // 8, "test": train // 8}
    known = {"classes": 2, "longest": lengths.quantiles[-1], "prepared": {}}
    return Grounds(info=info, rows=rows, lengths=lengths, machine=machine, **(known | changes))


def resolve(on: Grounds, *, recipe: str = "default", plan_file: Path | None = None, **assignments):
    given = {name.replace("__", "."): value for name, value in assignments.items()}
    name, choices = gather(given, recipe=recipe, plan_file=plan_file)
    chosen, reasons = deciding.resolve(choices, on, small_data=name == "default")
    return settings.flatten(chosen), reasons


# -- decisions by machine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "name", "value", "reason"),
    [
        (XEON, "compute.device", "cpu", "no GPU found"),
        (XEON, "compute.precision", "bf16", "bf16 runs 7.8 times as fast as fp32 here (1,890 against 242 GFLOP/s)"),
        (XEON, "compute.engine", "packed", "texts laid end to end need no padding"),
        (XEON, "compute.attention", "sdpa", "needs the least memory; nothing was measured"),
        (XEON, "compute.tokens_per_micro_batch", 2560, "2,560 tokens keep about 0.7 GB of activations; 22.8 GB are free"),
        (OLD, "compute.precision", "fp32", "the processor has no bf16 arithmetic (bf16 25, fp32 180 GFLOP/s)"),
        (OLD, "compute.attention", "sdpa", "needs the least memory; nothing was measured"),
        (T4, "compute.device", "cuda", "Tesla T4 with 15.6 GB found"),
        (T4, "compute.precision", "fp16", "Tesla T4 (capability 7.5) has fp16 only; it emulates bf16"),
        (T4, "compute.attention", "sdpa", "one fused kernel on a GPU"),
        (T4, "compute.tokens_per_micro_batch", 16384, "16,384 tokens keep about 4.5 GB of activations; 15.0 GB are free"),
        (A100, "compute.precision", "bf16", "NVIDIA A100 (capability 8.0) computes in bf16"),
        (A100, "compute.tokens_per_micro_batch", 32768, "32,768 tokens keep about 9.1 GB of activations; 41.7 GB are free"),
        (APPLE, "compute.device", "mps", "Apple GPU with 12.7 GB found"),
        (APPLE, "compute.precision", "fp32", "the safe choice on an Apple GPU"),
        (APPLE, "compute.attention", "sdpa", "one fused kernel on a GPU"),
    ],
)  # fmt: skip
def test_compute_suits_the_machine(machine, name, value, reason):
    values, reasons = resolve(grounds(machine=machine))
    assert (values[name], reasons[name]) == (value, reason)


@pytest.mark.parametrize(
    ("changes", "precision", "reason"),
    [
        ({"rates": {"fp32": 200.0, "bf16": 220.0}}, "fp32", "bf16 runs only 1.1 times as fast as fp32 here (220 against 200 GFLOP/s)"),
        ({"rates": {}}, "bf16", "the processor has amx_bf16; nothing was measured"),
        ({"rates": {}, "features": ()}, "fp32", "the processor has no bf16 arithmetic"),
        # Fast, but only because something else than the processor's own bf16 does it.
        ({"rates": {"fp32": 100.0, "bf16": 900.0}, "features": ("avx2",)}, "fp32", "the processor has no bf16 arithmetic (bf16 900, fp32 100 GFLOP/s)"),
    ],
)  # fmt: skip
def test_bf16_on_a_cpu_needs_hardware_and_a_clear_gain(changes, precision, reason):
    values, reasons = resolve(grounds(machine=replace(XEON, **changes)))
    assert (values["compute.precision"], reasons["compute.precision"]) == (precision, reason)


@pytest.mark.parametrize(
    ("free", "tokens", "reason"),
    [
        (2.5, 2560, "2,560 tokens keep about 0.7 GB of activations; 1.8 GB are free"),
        (2.0, 2048, "2,048 tokens keep about 0.6 GB of activations; 1.3 GB are free"),
        (1.0, 512, "the least that is useful; only 0.3 GB are free"),
        (0.1, 512, "the least that is useful; only 0.0 GB are free"),
    ],
)  # fmt: skip
def test_micro_batches_shrink_with_the_memory(free, tokens, reason):
    values, reasons = resolve(grounds(machine=replace(XEON, available_memory_gb=free)))
    assert (values["compute.tokens_per_micro_batch"], reasons["compute.tokens_per_micro_batch"]) == (tokens, reason)


@pytest.mark.parametrize("kind", EAGER_ONLY)
@pytest.mark.parametrize("machine", [XEON, OLD, A100])
def test_architectures_without_sdpa_get_eager(kind, machine):
    values, reasons = resolve(grounds(replace(DISTILBERT, model_type=kind), machine))
    assert (values["compute.attention"], reasons["compute.attention"]) == (
        "eager",
        f"transformers has no other for {kind}",
    )


def test_eager_only_agrees_with_transformers():
    from transformers import AutoConfig, AutoModelForSequenceClassification

    mapping = AutoModelForSequenceClassification._model_mapping
    without = {name for name in ARCHITECTURES if not mapping[type(AutoConfig.for_model(name))]._supports_sdpa}
    assert without == set(EAGER_ONLY)


# -- decisions by data and model -----------------------------------------------------------------


def test_long_texts_get_the_encoders_limit():
    values, reasons = resolve(grounds())
    assert values["text.max_length"] == 512
    assert reasons["text.max_length"] == "the encoder's limit; 3,600 texts are longer"
    assert (values["text.head_tokens"], reasons["text.head_tokens"]) == (128, "default")


def test_short_texts_leave_the_usual_limit_for_longer_ones_to_come():
    values, reasons = resolve(grounds(lengths=SHORT))
    assert (values["text.max_length"], reasons["text.max_length"]) == (512, "the encoder's limit")


def test_an_encoder_for_long_texts_takes_what_the_data_need():
    long = replace(DISTILBERT, max_length=8192)
    values, reasons = resolve(grounds(info=long, lengths=replace(SHORT, max_length=8192)))
    assert values["text.max_length"] == 512
    assert reasons["text.max_length"] == "the longest text has 90 tokens; the encoder takes 8,192"


def test_an_encoder_for_short_texts_gets_a_head_that_fits():
    short = replace(DISTILBERT, max_length=96)
    values, reasons = resolve(grounds(info=short, lengths=replace(SHORT, max_length=96)))
    assert values["text.max_length"] == 96
    assert values["text.head_tokens"] == 24
    assert reasons["text.head_tokens"] == "a quarter of the 96 tokens; 128 would leave no room for a tail"


def test_the_limit_stays_when_not_every_text_was_counted():
    values, reasons = resolve(grounds(lengths=SHORT, longest=None))
    assert (values["text.max_length"], reasons["text.max_length"]) == (512, "the encoder's limit")


def test_all_linear_layers_are_adapted():
    values, reasons = resolve(grounds())
    assert values["lora.target_modules"] == LINEARS
    assert reasons["lora.target_modules"] == "all linear layers of the 6 blocks"


@pytest.mark.parametrize(
    ("revision", "reason"),
    [("6cdc0aad91f5", "the commit that main stands for now"), ("local", "a local folder has no revisions"), ("embedded", "comes with textlora")],
)  # fmt: skip
def test_the_revision_is_pinned(revision, reason):
    values, reasons = resolve(grounds(replace(DISTILBERT, revision=revision)))
    assert (values["model.revision"], reasons["model.revision"]) == (revision, reason)


@pytest.mark.parametrize("machine", [XEON, OLD, T4, A100, APPLE])
@pytest.mark.parametrize("recipe", settings.recipe_names())
def test_nothing_stays_automatic_and_everything_has_a_reason(machine, recipe):
    values, reasons = resolve(grounds(machine=machine, prepared={"data.sample": 0.1}), recipe=recipe)
    assert [name for name, value in values.items() if value is None] == [
        *("data.group_column", "data.time_column", "data.label_separator"),
        "quantization.bits",
        *("limits.memory_gb", "limits.minutes", "limits.disk_gb"),
        *("decision.goal", "decision.positive", "decision.error_rate"),
    ]  # off
    assert list(reasons) == settings.setting_names()
    assert all(reason and "\n" not in reason for reason in reasons.values())


# -- precedence ----------------------------------------------------------------------------------


def test_command_line_over_plan_file_over_recipe_over_defaults(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nlearning_rate = 1e-3\nepochs = 2\n[lora]\nr = 4\n")
    values, reasons = resolve(grounds(), recipe="stock", plan_file=file, lora__r=2)
    assert (values["lora.r"], reasons["lora.r"]) == (2, "set on the command line")
    assert (values["training.epochs"], reasons["training.epochs"]) == (2.0, "from mine.toml")
    assert (values["lora.lora_alpha"], reasons["lora.lora_alpha"]) == (16.0, "the original recipe")
    assert (values["text.head_tokens"], reasons["text.head_tokens"]) == (128, "default")


def test_auto_on_the_command_line_gives_a_value_back_to_the_planner(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text('[compute]\nprecision = "fp32"\n')
    values, _ = resolve(grounds(), plan_file=file, **settings.parse_assignments(["compute.precision=auto"]))
    assert values["compute.precision"] == "bf16"


def test_a_plan_file_brings_its_recipe(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text('[textlora]\nschema = 1\nrecipe = "stock"\n')
    name, choices = gather({}, plan_file=file)
    assert (name, choices["training.batch_size"].value) == ("stock", 4)


def test_a_plan_files_revision_does_not_stick_to_another_base_model(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text('[model]\nbase_model = "embedded"\nrevision = "embedded"\n')
    _, kept = gather({}, plan_file=file)
    _, other = gather({"model.base_model": "distilbert-base-uncased"}, plan_file=file)
    assert (kept["model.revision"].value, other["model.revision"].value) == ("embedded", None)


def test_stock_is_the_original_recipe():
    values, reasons = resolve(grounds(prepared={"data.sample": 0.1}), recipe="stock")
    original = {
        "seed": 42, "data.sample": 0.1, "text.policy": "head", "text.max_length": 512, "text.padding": "max_length",
        "lora.r": 8, "lora.lora_alpha": 16, "lora.lora_dropout": 0.1, "lora.target_modules": ("q_lin", "v_lin"),
        "training.learning_rate": 5e-5, "training.epochs": 1, "training.batch_size": 4, "training.eval_batch_size": 4,
        "training.warmup_steps": 500, "training.weight_decay": 0.01, "training.evaluations_per_epoch": 1,
        "training.trunk_dropout": True, "compute.precision": "fp32", "compute.tokens_per_micro_batch": 0,
    }  # fmt: skip
    assert {name: values[name] for name in original} == original
    assert reasons["lora.r"] == "the original recipe"


def test_stock_on_little_data_stays_as_it_is_but_says_that_it_never_warms_up():
    values, reasons = resolve(grounds(train=48), recipe="stock")
    assert (values["training.epochs"], values["training.batch_size"], values["training.warmup_steps"]) == (1, 4, 500)
    assert reasons["training.warmup_steps"] == (
        "the original recipe; longer than the 12 steps of this training, so the full learning rate is never reached"
    )


def test_data_settings_follow_the_prepared_data():
    values, reasons = resolve(grounds(prepared={"data.sample": None, "data.test_share": 0.2}), recipe="stock")
    assert (values["data.sample"], reasons["data.sample"]) == (None, "as the data were prepared")
    assert (values["data.test_share"], reasons["data.test_share"]) == (0.2, "as the data were prepared")


# -- small data ----------------------------------------------------------------------------------


def resolve_small(train: int) -> tuple[dict, dict]:
    """Resolve a recipe of 3 epochs with batches of 32."""
    _, choices = gather({})
    given = {"training.epochs": 3.0, "training.batch_size": 32}
    choices |= {name: Choice(value, "the recipe", "recipe") for name, value in given.items()}
    chosen, reasons = deciding.resolve(choices, grounds(train=train), small_data=True)
    return settings.flatten(chosen), reasons


@pytest.mark.parametrize(
    ("train", "batch_size", "epochs"),
    [(20_000, 32, 3), (1_600, 32, 3), (1_000, 32, 5), (480, 32, 10), (300, 16, 8), (100, 8, 10), (2, 8, 10)],
)
def test_small_training_sets_get_more_steps(train, batch_size, epochs):
    values, _ = resolve_small(train)
    assert (values["training.batch_size"], values["training.epochs"]) == (batch_size, epochs)


def test_the_reason_for_more_steps_spells_out_the_figures():
    _, reasons = resolve_small(300)
    why = "300 training rows give only 30 optimiser steps with batches of 32 in 3 epochs; batches of 16 in 8 epochs make 152"
    assert (reasons["training.batch_size"], reasons["training.epochs"]) == (why, why)


def test_small_data_leave_what_the_user_has_set(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[training]\nbatch_size = 32\n")
    values, reasons = resolve(grounds(train=100), plan_file=file, training__epochs=2)
    assert (values["training.batch_size"], values["training.epochs"]) == (32, 2)
    assert reasons["training.epochs"] == "set on the command line"
    assert resolve(grounds(train=300), training__epochs=2)[0]["training.batch_size"] == 8
    assert resolve(grounds(train=300), training__batch_size=30)[0]["training.epochs"] == 10


# -- contradictions ------------------------------------------------------------------------------

HINT = "Change them with --set NAME=VALUE or in the plan file; a setting that is left out is decided for you."
SAID = "(set on the command line)"


@pytest.mark.parametrize(
    ("on", "assignments", "problem"),
    [
        (grounds(), {"text__max_length": 1024}, f"text.max_length is 1024 {SAID}, but distilbert-base-uncased takes at most 512 tokens."),
        (grounds(), {"text__max_length": 64, "text__head_tokens": 62}, f"text.head_tokens is 62 {SAID}, which leaves no room for a tail within text.max_length 64: at most 61."),
        (grounds(), {"compute__precision": "fp16"}, f"compute.precision is 'fp16' {SAID}, which runs at 13–26 GFLOP/s per core on a CPU; use bf16 or fp32."),
        (grounds(machine=T4), {"compute__precision": "bf16"}, f"compute.precision is 'bf16' {SAID}, but Tesla T4 (capability 7.5) only emulates bf16, about 4 times slower; use fp16 or fp32."),
        (grounds(replace(DISTILBERT, model_type="mpnet")), {"compute__attention": "sdpa"}, f"compute.attention is 'sdpa' {SAID}, but transformers has only eager attention for mpnet."),
        (grounds(), {"lora__target_modules": ["q_lin", "vlin"]}, f"lora.target_modules names 'vlin' {SAID}, which is no linear layer. Did you mean 'v_lin'? distilbert-base-uncased has q_lin, k_lin, v_lin, out_lin, lin1, lin2."),
        (grounds(), {"lora__target_modules": []}, "lora.target_modules is empty; distilbert-base-uncased has q_lin, k_lin, v_lin, out_lin, lin1, lin2."),
        (grounds(prepared={"data.sample": 0.1}), {"data__sample": 0.5}, f"data.sample is 0.5 {SAID}, but the data were prepared with 0.1; prepare them again to change it."),
    ],
)  # fmt: skip
def test_contradictions_are_refused(on, assignments, problem):
    with pytest.raises(UsageError) as caught:
        resolve(on, **assignments)
    assert str(caught.value) == f"These settings do not fit together:\n  - {problem}\n{HINT}"


def test_all_contradictions_at_once():
    with pytest.raises(UsageError) as caught:
        resolve(
            grounds(),
            text__max_length=600,
            lora__target_modules=("query",),
            compute__device="cuda",
            compute__precision="fp32",
        )
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "compute.device",
        "text.max_length",
        "lora.target_modules",
    ]


def test_the_recipe_of_another_architecture_is_refused_with_its_reason():
    bert = replace(DISTILBERT, name="bert", model_type="bert", linear_names=("query", "key", "value", "dense"))
    with pytest.raises(UsageError) as caught:
        resolve(grounds(bert), recipe="stock")
    assert caught.value.problems == (
        "lora.target_modules names 'q_lin' (the original recipe), which is no linear layer. bert has query, key, value, dense.",
        "lora.target_modules names 'v_lin' (the original recipe), which is no linear layer. bert has query, key, value, dense.",
    )


@pytest.mark.parametrize(
    ("machine", "device", "wanted"),
    [(XEON, "cuda", "CUDA GPU"), (XEON, "mps", "Apple GPU"), (T4, "mps", "Apple GPU"), (APPLE, "cuda", "CUDA GPU")],
)
def test_a_device_that_is_not_there(machine, device, wanted):
    with pytest.raises(ResourceError) as caught:
        resolve(grounds(machine=machine), compute__device=device)
    assert str(caught.value) == (
        f"compute.device is '{device}' {SAID}, but PyTorch finds no {wanted} here.\nLeave compute.device out, or set it to cpu."
    )


def test_the_cpu_may_be_asked_for_on_a_gpu_machine():
    values, reasons = resolve(grounds(machine=A100), compute__device="cpu")
    assert (values["compute.precision"], values["compute.tokens_per_micro_batch"]) == ("bf16", 2560)
    assert reasons["compute.precision"].startswith("bf16 runs 7.8 times")


def test_head_tokens_do_not_matter_under_another_policy():
    values, _ = resolve(grounds(), text__policy="tail", text__max_length=64, text__head_tokens=100)
    assert values["text.head_tokens"] == 100


def test_two_names_for_the_base_model():
    with pytest.raises(UsageError) as caught:
        planning.plan(dataset(), base_model="embedded", assignments={"model.base_model": "bert"})
    assert str(caught.value) == "The base model is 'embedded', but model.base_model is set to 'bert'.\nName it once."


# -- the estimate --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["all", "first"])
def test_parameters_are_those_of_the_real_model(tmp_path, architecture, targets):
    from textlora import encoder, models

    info = models.base_info(str(write_model(tmp_path / architecture, architecture)))
    names = info.linear_names if targets == "all" else info.linear_names[:1]
    spec = encoder.EncoderSpec(info.folder, ("a", "b", "c"))
    real = encoder.build_model(spec, settings.LoraSettings(r=4, target_modules=names), seed=0)
    total, trainable = encoder.parameter_counts(real)
    chosen = settings.build({"lora.r": 4, "lora.target_modules": names})
    found = estimate(chosen, grounds(info, classes=3))
    assert found.trainable_parameters == trainable
    # The bare encoder of some has a pooler that the classifier lacks, or the other way round.
    assert abs(found.total_parameters - total) <= info.hidden**2 + 2 * info.hidden


def settled(on: Grounds, **assignments):
    _, choices = gather({name.replace("__", "."): value for name, value in assignments.items()})
    return deciding.resolve(choices, on)[0]


def estimated(on: Grounds, **assignments) -> Estimate:
    return estimate(settled(on, **assignments), on)


def test_steps_and_tokens_with_fixed_padding_are_exact():
    on = grounds(train=1001)
    found = estimated(on, text__padding="max_length", training__epochs=2.5, training__batch_size=10)
    assert found.steps == 253  # 101 an epoch
    assert found.tokens_per_epoch == 1001 * 512


def test_padding_is_counted_by_cutting_batches_of_the_datas_lengths():
    found = estimated(grounds(), compute__engine="transformers", compute__tokens_per_micro_batch=4096)
    # Measured on IMDB: batches of 32 under 4,096 tokens compute 1.27 tokens for each real one.
    assert found.tokens_per_epoch == pytest.approx(20_000 * 273 * 1.27, rel=0.06)


def test_texts_laid_end_to_end_have_no_padding_but_the_filler():
    found = estimated(grounds())
    assert found.tokens_per_epoch == pytest.approx(20_000 * 273 * 1.025, rel=0.02)


@pytest.mark.parametrize(
    ("assignments", "engine", "reason"),
    [
        ({}, "packed", "texts laid end to end need no padding"),
        ({"training__trunk_dropout": True}, "transformers", "our own forward pass has no dropout inside the encoder"),
        ({"text__padding": "max_length"}, "transformers", "texts are padded to max_length"),
        ({"compute__tokens_per_micro_batch": 0}, "transformers", "micro-batches are off"),
    ],
)
def test_the_engine_suits_the_settings(assignments, engine, reason):
    values, reasons = resolve(grounds(), **assignments)
    assert (values["compute.engine"], reasons["compute.engine"]) == (engine, reason)


def test_architectures_that_the_engine_does_not_know_keep_transformers():
    values, reasons = resolve(grounds(replace(DISTILBERT, model_type="albert", packable=False)))
    assert values["compute.engine"] == "transformers"
    assert reasons["compute.engine"] == "our own forward pass does not know albert"


@pytest.mark.parametrize(
    ("eager", "sdpa", "kernel", "reason"),
    [
        (500.0, 400.0, "eager", "the faster one here (eager 500, sdpa 400 GFLOP/s)"),
        (410.0, 400.0, "sdpa", "needs less memory and is no slower here (eager 410, sdpa 400 GFLOP/s)"),
    ],
)
def test_attention_is_chosen_by_the_probe(eager, sdpa, kernel, reason):
    rates = {**XEON.rates, "attention_eager_bf16": eager, "attention_sdpa_bf16": sdpa}
    values, reasons = resolve(grounds(machine=replace(XEON, rates=rates)))
    assert (values["compute.attention"], reasons["compute.attention"]) == (kernel, reason)


@pytest.mark.parametrize(
    ("rates", "engine", "kernel"),
    [
        ({"predict_attention_eager_bf16": 500.0, "predict_attention_sdpa_bf16": 400.0}, "packed", "eager"),
        ({"predict_attention_eager_bf16": 400.0, "predict_attention_sdpa_bf16": 500.0}, "packed", "sdpa"),
        ({"predict_attention_eager_bf16": 400.0, "predict_attention_sdpa_bf16": 500.0}, "transformers", "eager"),
        ({}, "packed", "eager"),
    ],
)
def test_prediction_has_its_own_kernel_where_both_are_measured(rates, engine, kernel):
    asked = {"compute": {"precision": "bf16", "engine": engine, "attention": "eager"}}
    machine = replace(XEON, rates={**XEON.rates, **rates})
    assert planning.prediction_attention(settings.Settings.model_validate(asked), machine) == kernel


def test_fp32_goes_through_onednn_where_that_is_faster_and_still_exact():
    rates = {"fp32": 100.0, "fp32_onednn": 220.0}
    values, reasons = resolve(grounds(machine=replace(OLD, rates=rates)))
    assert values["compute.precision"] == "fp32_onednn"
    assert reasons["compute.precision"] == (
        "the processor has no bf16 arithmetic; fp32 runs 2.2 times as fast through oneDNN as through MKL"
    )
    amx = replace(XEON, rates={**rates, "bf16": 100.0})
    assert resolve(grounds(machine=amx))[0]["compute.precision"] == "fp32"


@pytest.mark.parametrize(
    ("assignments", "cached", "reason"),
    [
        ({}, False, "every layer has adapters"),
        ({"lora__top_layers": 2, "training__epochs": 3}, True, "the 4 frozen layers run once instead of 3 times"),
        ({"lora__top_layers": 2, "training__epochs": 1}, False, "one epoch runs the 4 frozen layers only once anyway"),
        ({"lora__top_layers": 2, "training__trunk_dropout": True}, False, "the cache needs compute.engine packed"),
    ],
)
def test_frozen_layers_are_cached_when_that_saves_passes(assignments, cached, reason):
    values, reasons = resolve(grounds(), **assignments)
    assert (values["compute.prefix_cache"], reasons["compute.prefix_cache"]) == (cached, reason)


def test_the_cache_is_on_the_disk_and_saves_time():
    top = {"lora__top_layers": 3, "training__epochs": 3}
    cached, repeated = estimated(grounds(), **top), estimated(grounds(), **top, compute__prefix_cache=False)
    tokens = 273 * (20_000 + 2_500)
    assert cached.disk_gb - repeated.disk_gb == pytest.approx(tokens * 768 * 2 / 1e9, rel=0.01)
    assert cached.train_seconds < repeated.train_seconds < estimated(grounds(), training__epochs=3).train_seconds
    assert cached.trainable_parameters < estimated(grounds()).trainable_parameters


def test_the_spread_follows_the_quantiles():
    drawn = workload._spread(REVIEWS.quantiles, 1000, 512)
    assert drawn == sorted(drawn)
    assert drawn[500] == pytest.approx(233, abs=2)
    assert sum(drawn) / 1000 == pytest.approx(REVIEWS.mean_cut, rel=0.05)
    assert max(drawn) == 512


@pytest.mark.parametrize(
    ("assignments", "low", "high"),
    [
        # Microseconds per computed token of training, measured with the machine idle: 113.8 for MiniLM-L6 and 235.8
        # for DistilBERT in bf16, 903 for DistilBERT in fp32, with 256 tokens a text.
        ({}, 180, 330),
        ({"compute__precision": "fp32", "compute__attention": "sdpa"}, 650, 1200),
    ],
)
def test_time_is_near_what_was_measured(assignments, low, high):
    on = grounds(lengths=replace(REVIEWS, quantiles=(256,) * 9, mean=256, mean_cut=256))
    found = estimated(on, training__epochs=1, **assignments)
    assert low < found.train_seconds / found.tokens_per_epoch * 1e6 < high


def test_memory_is_near_what_was_measured():
    on = grounds(lengths=replace(REVIEWS, quantiles=(256,) * 9, mean=256, mean_cut=256), train=100)
    # Peak of one forward and backward over 4,096 tokens: 1.82 GB in bf16 with eager, 2.65 GB in fp32 with sdpa.
    assert estimated(on).memory_gb == pytest.approx(1.82, rel=0.3)
    assert estimated(on, compute__precision="fp32").memory_gb == pytest.approx(2.65, rel=0.3)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"training__epochs": 1}, {"training__epochs": 2}),
        ({"text__max_length": 128, "text__head_tokens": 32}, {"text__max_length": 512}),
        ({"lora__r": 4}, {"lora__r": 64}),
        ({}, {"compute__precision": "fp32"}),
        ({}, {"training__evaluations_per_epoch": 10}),
        ({}, {"text__padding": "max_length"}),
    ],
)
def test_more_work_takes_longer(less, more):
    assert estimated(grounds(), **less).train_seconds < estimated(grounds(), **more).train_seconds


def test_a_gpu_is_faster_and_unmeasured_machines_have_an_estimate_too():
    cpu, t4, a100 = (estimated(grounds(machine=machine)).train_seconds for machine in (XEON, T4, A100))
    assert a100 < t4 < cpu
    for machine in (XEON, OLD, T4, A100, APPLE):
        assert estimated(grounds(machine=replace(machine, rates={}))).seconds > 0


def test_micro_batching_off_takes_the_memory_of_the_whole_batch():
    small, whole = estimated(grounds()), estimated(grounds(), compute__tokens_per_micro_batch=0)
    assert whole.memory_gb > small.memory_gb + 2


def test_kernels_are_kept_up_to_a_number_and_those_that_are_there_are_not_built_again():
    alike, many = grounds(lengths=replace(REVIEWS, quantiles=(256,) * 9, mean=256, mean_cut=256)), grounds()
    assert estimated(alike).memory_by_term["kernels"] < 0.2
    assert estimated(many).memory_by_term["kernels"] == pytest.approx(kernels.CAP_GB)
    chosen = settled(many)
    terms = rough_terms(chosen, many)
    assert kernels.predicting_gb(chosen, many, terms, there=kernels.CAP_GB) == 0
    assert 0 < kernels.predicting_gb(chosen, many, terms, there=0.3) <= kernels.CAP_GB - 0.3


def test_evaluation_counts_where_its_peak_is_higher_than_trainings():
    small, large = (estimated(grounds(), compute__tokens_per_micro_batch=tokens) for tokens in (512, 8192))
    assert small.memory_by_term["evaluation"] > 0.4
    assert large.memory_by_term["evaluation"] == 0
    assert small.memory_gb < large.memory_gb


def limited(on: Grounds, **assignments):
    _, choices = gather({name.replace("__", "."): value for name, value in assignments.items()})
    chosen, _ = deciding.resolve(choices, on)
    return limits.keep_limits(chosen, choices, on, None)


@pytest.mark.parametrize("tokens", [2048, 1024, 512])
def test_the_plan_keeps_below_a_memory_limit(tokens):
    on = grounds(train=2_000)
    needed = estimated(on, compute__tokens_per_micro_batch=tokens, limits__memory_gb=100).memory_gb
    allowed = round(limits.MARGIN * needed + 0.001, 3)
    changed, reasons = limited(on, limits__memory_gb=allowed)
    found = estimate(changed, on)
    assert found.memory_gb * limits.MARGIN <= allowed
    assert reasons["compute.tokens_per_micro_batch"] == f"to keep memory below {allowed:g} GB"


def test_under_a_memory_limit_evaluation_takes_small_micro_batches_too():
    on = grounds(train=2_000)
    assignments = {"compute__tokens_per_micro_batch": 512}
    free, bound = estimated(on, **assignments), estimated(on, **assignments, limits__memory_gb=4)
    assert settled(on, **assignments).prediction_tokens is None
    assert settled(on, **assignments, limits__memory_gb=4).prediction_tokens == 512
    assert bound.memory_by_term["evaluation"] < free.memory_by_term["evaluation"] - 0.1
    assert bound.train_memory_gb == free.train_memory_gb


def test_rough_figures_are_no_reason_to_refuse(monkeypatch):
    made = planning.plan(dataset(), base_model="embedded")
    assert not made.estimate.rehearsed  # so few rows are not worth it
    measured = rough_terms(made.settings, grounds())
    less = replace(measured, runtime_bytes=1e7)
    monkeypatch.setattr(planning.rehearsal, "rehearse", lambda *_, **__: less)
    found = planning.plan(dataset(), base_model="embedded", assignments={"limits.memory_gb": 0.9})
    assert found.estimate.rehearsed
    assert found.estimate.memory_gb < 0.9
    with pytest.raises(ResourceError, match=r"cannot be done with memory below 0\.2 GB"):
        planning.plan(dataset(), base_model="embedded", assignments={"limits.memory_gb": 0.2})


def test_without_limits_nothing_gives_way():
    chosen = settled(grounds())
    assert limited(grounds()) == (chosen, {})
    assert limited(grounds(), limits__memory_gb=100)[1] == {}


def test_the_plan_keeps_below_a_time_limit_and_what_the_user_set_stays():
    whole = estimated(grounds(), training__epochs=3).seconds / 60
    changed, reasons = limited(grounds(), training__epochs=3, limits__minutes=0.8 * whole)
    assert changed.training.epochs == 3
    assert changed.lora.top_layers == 3
    assert estimate(changed, grounds()).seconds * limits.MARGIN <= 0.8 * whole * 60
    assert "lora.top_layers" in reasons


def test_limits_that_cannot_be_kept_are_refused_with_what_would_do():
    with pytest.raises(ResourceError) as refused:
        limited(grounds(), limits__memory_gb=0.5, limits__minutes=1)
    assert str(refused.value).startswith("This training cannot be done with memory below 0.5 GB and time below 1 min.")
    assert "memory: " in str(refused.value)
    assert "allowed 0.5 GB" in str(refused.value)
    assert "--sample 0." in str(refused.value)


def test_the_alternatives_stand_side_by_side():
    on = grounds()
    found = {other.name: other for other in alternatives(settled(on), on, lambda *_, **__: None)}
    assert list(found) == ["full fine-tuning", "LoRA", "LoRA, top 3, cached", "QLoRA, 8 bits", "QLoRA, 4 bits"]
    terms = {name: other.estimate.memory_by_term for name, other in found.items()}
    assert terms["full fine-tuning"]["weights"] == pytest.approx(4 * on.info.parameters / 1e9)
    assert terms["full fine-tuning"]["optimiser state"] == pytest.approx(8 * on.info.parameters / 1e9)
    # 4 bits save half of what bf16 takes, and nothing of all the rest.
    assert terms["QLoRA, 4 bits"]["weights"] < terms["QLoRA, 8 bits"]["weights"] < terms["LoRA"]["weights"]
    assert terms["LoRA, top 3, cached"]["activations"] < terms["LoRA"]["activations"]
    assert found["LoRA, top 3, cached"].estimate.disk_gb > found["LoRA"].estimate.disk_gb
    assert found["full fine-tuning"].how == ""


# -- plans for the tests of files ----------------------------------------------------------------


def split(count: int, name: str) -> Split:
    draw = random.Random(name)
    texts = tuple(
        " ".join(draw.choices(["good", "bad", "film", "plot", "dull"], k=draw.randint(3, 40))) for _ in range(count)
    )
    return Split(tuple(f"{name}-{row}" for row in range(count)), texts, tuple(row % 2 for row in range(count)))


def dataset(
    folder: Path = Path("runs/reviews"), fingerprint: str = "f" * 64, lengths: TokenLengths | None = None
) -> Dataset:
    info = DatasetInfo(
        source="reviews.csv", text_column="review", label_column="sentiment", task="single_label",
        label_names=("negative", "positive"), seed=42, counts=RowCounts(120, 0, 120), split_counts={}, findings=(),
        token_lengths=lengths, fingerprint=fingerprint, options={"data.sample": None, "text": None},
    )  # fmt: skip
    return Dataset(folder, info, split(96, "train"), split(12, "validation"), split(12, "test"))


def make_plan(on: Grounds | None = None, **assignments) -> Plan:
    on = on or grounds()
    given = {name.replace("__", "."): value for name, value in assignments.items()}
    _, choices = gather(given)
    chosen, reasons = deciding.resolve(choices, on)
    return Plan(chosen, reasons, "default", "f" * 64, 2, on.machine, estimate(chosen, on))


# -- plan.toml -----------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [XEON, OLD, T4, A100, APPLE])
def test_a_plan_survives_its_file(tmp_path, machine):
    made = make_plan(grounds(machine=machine))
    planning.save_plan(tmp_path / "plan.toml", made)
    assert planning.load_plan(tmp_path / "plan.toml") == made


@pytest.mark.parametrize("seed", range(20))
def test_any_values_and_reasons_survive(tmp_path, seed):
    draw = random.Random(seed)
    letters = string.printable + "äß漢\u2028\u0085🎬\"'\\#=[]\x00\x7f"

    def text() -> str:
        return "".join(draw.choices(letters, k=draw.randint(1, 30)))

    made = make_plan(
        model__base_model=text(),
        tracking=[text() for _ in range(draw.randint(0, 3))],
        training__learning_rate=10 ** draw.uniform(-9, -0.1),
        training__warmup_steps=draw.uniform(0, 1e6),
        lora__lora_alpha=draw.choice([1e-7, 3, 1e16, 0.1 + 0.2]),
        seed=draw.randrange(2**32),
        training__trunk_dropout=draw.random() < 0.5,
    )
    reasons = {name: one_line(text()) for name in made.reasons}
    made = replace(made, reasons=reasons, recipe=text(), machine=replace(XEON, processor=text(), rates={text(): 1.5}))
    planning.save_plan(tmp_path / "plan.toml", made)
    assert planning.load_plan(tmp_path / "plan.toml") == made


def test_the_file_is_readable(tmp_path):
    planning.save_plan(tmp_path / "plan.toml", make_plan())
    lines = (tmp_path / "plan.toml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# What textlora train will do, and why. Values may be edited here: textlora train checks them."
    assert "seed = 42                                 # default" in lines
    assert "# sample is left out  # default" in lines
    assert (
        'precision = "bf16"                        # bf16 runs 7.8 times as fast as fp32 here (1,890 against 242 GFLOP/s)'
        in lines
    )
    assert [line for line in lines if line.startswith("[")] == [
        f"[{name}]"
        for name in (
            "data",
            "model",
            "text",
            "lora",
            "training",
            "loss",
            "compute",
            "quantization",
            "limits",
            "decision",
            "textlora",
            "machine",
            "estimate",
        )
    ]


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (old, text.count(old))
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.fixture
def plan_file(tmp_path) -> Path:
    planning.save_plan(tmp_path / "plan.toml", make_plan())
    return tmp_path / "plan.toml"


def test_an_edited_value_says_so_and_the_others_keep_their_reasons(plan_file):
    edit(plan_file, "\nr = 16 ", "\nr = 8 ")
    edit(plan_file, "# sample is left out  # default", "sample = 0.5")
    edited = planning.load_plan(plan_file)
    changed = {name: reason for name, reason in edited.reasons.items() if reason != make_plan().reasons[name]}
    assert changed == {"lora.r": "edited in plan.toml", "data.sample": "edited in plan.toml"}
    assert (edited.settings.lora.r, edited.settings.data.sample) == (8, 0.5)


def test_an_edited_plan_file_wins_over_the_recipe_and_is_planned_anew(plan_file):
    edit(plan_file, "\nepochs = ", "\nepochs = 7 # ")
    edit(plan_file, "max_length = 512  ", "# max_length = 512  ")
    values, reasons = resolve(grounds(lengths=SHORT), recipe="stock", plan_file=plan_file, data__sample=None)
    assert (values["training.epochs"], reasons["training.epochs"]) == (7.0, "from plan.toml")
    assert (values["lora.r"], reasons["lora.r"]) == (16, "from plan.toml")
    assert (values["text.max_length"], reasons["text.max_length"]) == (512, "the original recipe")


def test_read_plan_settings_gives_what_stands_there(tmp_path):
    path = tmp_path / "part.toml"
    path.write_text('seed = 7\ntracking = ["tensorboard"]\n[lora]\nr = 4\n')
    assert planning.read_plan_settings(path) == {"seed": 7, "tracking": ("tensorboard",), "lora.r": 4}


def refused(path: Path, read=planning.load_plan) -> str:
    with pytest.raises(UsageError) as caught:
        read(path)
    return str(caught.value)


def test_unknown_names_and_wrong_values_are_refused_together(plan_file):
    edit(plan_file, "\nr = 16 ", "\nrank = 16\nr = 0 ")
    edit(plan_file, "learning_rate = ", "learnin_rate = ")
    assert refused(plan_file) == (
        f"Wrong values in {plan_file}:\n"
        "  - There is no setting 'lora.rank'. Did you mean 'lora.r'?\n"
        "  - There is no setting 'training.learnin_rate'. Did you mean 'training.learning_rate'?\n"
        "  - lora.r is 0, expected greater than or equal to 1.\n"
        "`textlora plan --settings` lists every setting with its meaning."
    )


def test_unknown_names_in_the_other_tables(plan_file):
    edit(plan_file, "cores = 2", "coers = 2")
    assert refused(plan_file) == f"Wrong values in {plan_file}:\n  - There is no machine.coers. Did you mean 'cores'?"


def test_a_missing_automatic_value(plan_file):
    edit(plan_file, 'device = "cpu"', "")
    edit(plan_file, "max_length = 512  ", "# max_length = 512  ")
    assert refused(plan_file) == (
        f"{plan_file} is not complete:\n  - text.max_length is missing.\n  - compute.device is missing.\n"
        f"Have it completed: textlora plan {plan_file.parent} --plan {plan_file} --overwrite"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "{} has schema version 2; this textlora reads version 1.\nUpdate textlora."),
        ("schema = 1", "schema = 0", "{} has schema version 0; this textlora reads version 1.\nMake the run again with this version."),
        ("classes = 2", 'classes = "2"', "{} is damaged: textlora.classes is missing or no number.\nRun `textlora plan` again."),
        ('recipe = "default"', "", "{} is damaged: textlora.recipe is missing or no text.\nRun `textlora plan` again."),
        ("cores = 2", "", "{} is damaged: machine.cores: Input should be a valid integer.\nRun `textlora plan` again."),
        ("\nsteps = ", "\n# steps = ", "{} is damaged: estimate.steps: Input should be a valid integer.\nRun `textlora plan` again."),
        ("\nr = 16 ", "\nr = sixteen ", "{} is not TOML: Invalid value (at line 33, column 5).\nCorrect it, or run `textlora plan` again."),
    ],
)  # fmt: skip
def test_damaged_plan_files(plan_file, old, new, message):
    assert refused(edit(plan_file, old, new)) == message.format(plan_file)


def test_files_that_are_no_plans(tmp_path):
    path = tmp_path / "plan.toml"
    assert refused(path) == f"{path} does not exist.\n`textlora plan` writes it: run that first."
    path.write_text("[lora]\nr = 4\n")
    assert refused(path) == f"{path} is not a Plan file of textlora."
    path.write_text("textlora = 3\n")
    assert refused(path) == f"{path} is damaged: textlora is not a table.\nRun `textlora plan` again."
    path.write_bytes(b"\xff\xfe")
    assert refused(path).startswith(f"{path} is not TOML: 'utf-8' codec can't decode byte 0xff in position 0")
    path.unlink()
    path.mkdir()
    assert refused(path) == f"{path} cannot be read: Is a directory."


def test_a_plan_file_of_another_version_is_refused_as_input_too(plan_file):
    edit(plan_file, "schema = 1", "schema = 9")
    assert refused(plan_file, planning.read_plan_settings) == (
        f"{plan_file} has schema version 9; this textlora reads version 1.\nUpdate textlora."
    )


def test_saving_into_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError) as caught:
        planning.save_plan(tmp_path / "none" / "plan.toml", make_plan())
    assert caught.value.message == f"Cannot write {tmp_path}/none/plan.toml: No such file or directory."


# -- using a plan --------------------------------------------------------------------------------


def test_a_plan_for_other_data_is_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        planning.check_plan(make_plan(), dataset(tmp_path, "abcdef" * 10))
    assert str(caught.value) == (
        f"{tmp_path}/plan.toml was made for other data (ffffffffffff…) than {tmp_path}/dataset.json describes (abcdefabcdef…).\n"
        f"Plan again for these data: textlora plan {tmp_path} --plan {tmp_path}/plan.toml --overwrite"
    )


def test_the_plans_fingerprint_is_that_of_its_settings():
    made = make_plan()
    same = replace(made, reasons={}, machine=A100, recipe="stock", classes=3)
    assert planning.plan_fingerprint(same) == planning.plan_fingerprint(made)
    assert planning.plan_fingerprint(make_plan(lora__r=17)) != planning.plan_fingerprint(made)
    assert re.fullmatch(r"[0-9a-f]{64}", planning.plan_fingerprint(made))


def test_a_plan_prints_every_value_with_its_reason_and_the_estimate():
    made = make_plan()
    rows = planning.describe_plan(made)
    assert [row[0] for row in rows] == settings.setting_names()
    assert ("data.sample", "all rows", "default") in rows
    assert (
        "lora.target_modules",
        "q_lin, k_lin, v_lin, out_lin, lin1, lin2",
        "all linear layers of the 6 blocks",
    ) in rows
    lines = str(made).splitlines()
    assert lines[0] == "Plan by the recipe 'default' for Intel(R) Xeon(R) Processor, 2 cores"
    assert len(lines) == len(rows) + 3
    for (name, value, reason), line in zip(rows, lines[1:], strict=False):
        assert re.fullmatch(rf"{re.escape(name)} +{re.escape(value)} +{re.escape(reason)}", line)
    assert lines[-2] == f"trained: 1,919,234 of 68,282,114 parameters (2.8%) in {made.estimate.steps:,} steps"
    assert re.fullmatch(
        r"estimate: [\d,]+ s to train, [\d,]+ s to evaluate, \d+\.\d GB of memory, 0\.12 GB of disk", lines[-1]
    )


@pytest.mark.parametrize("busy", [True, False])
def test_a_busy_machine_is_mentioned_once(busy):
    on = grounds()
    made = make_plan(on)
    terms = replace(rough_terms(made.settings, on), disturbed=busy)
    made = replace(made, estimate=estimate(made.settings, on, terms))
    text = io.StringIO()
    terminal.show_plan(made, planning.describe_plan(made), Console(file=text, width=200))
    assert text.getvalue().count("The machine is busy: other work ran while this was measured") == busy


# -- end to end ----------------------------------------------------------------------------------


def test_plan_with_the_embedded_model_on_this_machine(tmp_path):
    data = dataset(tmp_path)
    made = planning.plan(data, base_model="embedded")
    assert made.settings.model.revision == "embedded"
    assert made.settings.text.max_length == 512
    assert made.dataset_fingerprint == data.fingerprint
    assert made.machine.rates["fp32"] > 0
    assert made.estimate.tokens_per_epoch >= sum(len(text.split()) + 2 for text in data.train.texts)
    planning.save_plan(tmp_path / storage.PLAN, made)
    loaded = planning.load_plan(tmp_path / storage.PLAN)
    assert loaded == made
    planning.check_plan(loaded, data)


def test_an_edit_that_does_not_fit_is_noticed_before_training(tmp_path):
    data = dataset(tmp_path)
    planning.save_plan(tmp_path / storage.PLAN, planning.plan(data, base_model="embedded", machine=XEON))
    edit(tmp_path / storage.PLAN, "max_length = 512  ", "max_length = 1024  ")
    with pytest.raises(UsageError) as caught:
        planning.check_plan(planning.load_plan(tmp_path / storage.PLAN), data)
    assert caught.value.problems == (
        "text.max_length is 1024 (edited in plan.toml), but embedded takes at most 512 tokens.",
    )


def test_lengths_of_another_tokenizer_are_counted_again(tmp_path):
    other = replace(REVIEWS, base_model="somebody/else")
    made = planning.plan(dataset(tmp_path, lengths=other), base_model="embedded", machine=XEON)
    assert made.reasons["text.max_length"] == "the encoder's limit"  # the longest text has 40 words
    known = replace(REVIEWS, base_model="embedded")
    trusted = planning.plan(dataset(tmp_path, lengths=known), base_model="embedded", machine=XEON)
    assert trusted.reasons["text.max_length"].startswith("the encoder's limit; ")


def test_measured_lengths_match_a_direct_count():
    counts = [5, 600, 20, 20, 30, 512, 513, 7, 9, 11]
    found = measure_lengths(counts, DISTILBERT)
    assert found.quantiles == (5, 5, 9, 20, 512, 513, 600, 600, 600)
    assert (found.quantiles[-1], found.rows_cut, found.mean) == (600, 2, sum(counts) / 10)
    assert found.mean_cut == sum(min(count, 512) for count in counts) / 10


def test_an_unknown_recipe():
    with pytest.raises(UsageError) as caught:
        planning.plan(dataset(), recipe="stok")
    assert (
        str(caught.value)
        == "There is no recipe 'stok'. Did you mean 'stock'?\nRecipes: accurate, default, fast, stock."
    )


# -- docs ----------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "plan.md"
MARKS = "<!-- settings:begin -->\n", "<!-- settings:end -->\n"


def settings_table() -> str:
    rows = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in settings.setting_rows()]
    return "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows]) + "\n"


def page_with_table(text: str) -> str:
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}{settings_table()}{MARKS[1]}{rest.split(MARKS[1])[1]}"


def test_the_table_of_settings_in_the_docs_is_current():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page_with_table(text), "run: python -m tests.test_planning"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
