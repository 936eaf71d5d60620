"""The jobs of ``benchmarks.planning``, each in a process of its own; a request on standard input, JSON out.

python -m benchmarks.planning_workers plan|fit|full < request.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def plan(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare and plan; return what the planner says the rest will take."""
    from textlora import planning

    dataset, options = _prepared(request)
    made = planning.plan(dataset, base_model=options.base_model, assignments=options.assignments)
    found = made.estimate
    if request["full"]:
        (full,) = (other for other in planning.compare(made, dataset) if other.name == planning.FULL)
        found = full.estimate
    answer = {"train_seconds": found.train_seconds, "memory_gb": found.memory_gb, "seconds": found.seconds}
    if request["full"]:
        # Its job ends with the last step.
        steps = ("adapted layers", "optimiser")
        answer |= {"seconds": sum(found.seconds_by_term[name] for name in steps), "memory_gb": found.train_memory_gb}
    return {
        **answer,
        "seconds_by_term": dict(found.seconds_by_term),
        "memory_by_term": dict(found.memory_by_term),
        "rehearsed": found.rehearsed,
    }


def fit(request: dict[str, Any]) -> dict[str, Any]:
    """Run ``fit``; return the seconds of the stages from training on, and the peak of the process."""
    from textlora import api, hardware
    from textlora.rehearsal import OthersShare

    folder = Path(request["out"] + "-fit")
    names = ("prepare", "plan", "train", "evaluate", "report")
    seconds, peaks, before = {}, {}, time.perf_counter()
    others = OthersShare()
    stages = api.fit_stages(Path(request["source"]), folder, api.DataOptions(), _options(request))
    for name, _ in zip(names, stages, strict=True):
        now = time.perf_counter()
        seconds[name], before = now - before, now
        peaks[name] = hardware.peak_memory_gb()
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "seconds": sum(seconds[name] for name in names[2:]),
        "memory_gb": hardware.peak_memory_gb(),
        "stage_seconds": seconds,
        "stage_peaks_gb": peaks,
        "training_seconds": run["seconds"],
        "training_cpu_seconds": run["cpu_seconds"],
        "steps": run["steps"],
        **_circumstances(others),
    }


def _circumstances(others: Any) -> dict[str, Any]:
    """Return what a figure depends on beside the job: threads, and how much others have computed meanwhile."""
    import torch

    return {"threads": torch.get_num_threads(), "others_share": round(others(), 3)}


def full(request: dict[str, Any]) -> dict[str, Any]:
    """Train all weights in fp32 with our trainer over Hugging Face's model; return seconds and peak of the steps."""
    from transformers import TrainingArguments

    from textlora import allocation, encoder, hardware, planning, token_store
    from textlora.memory import Budget
    from textlora.rehearsal import OthersShare
    from textlora.tokenization import LengthPolicy, TextTokenizer
    from textlora.trainer import Collator, MicroBatchTrainer, Samples

    dataset, options = _prepared(request)
    made = planning.plan(dataset, base_model=options.base_model, assignments=options.assignments)
    chosen = planning.full_settings(made.settings)
    allocation.keep_freed_memory()
    base = Path(request["model"])
    policy = LengthPolicy(chosen.text.policy, chosen.text.max_length or 512, chosen.text.head_tokens)
    tokenizer = TextTokenizer.load(base, policy, base_model=str(base))
    ids = token_store.open_or_build(
        Path(request["out"]) / "tokens", dataset.train.texts, tokenizer, data=dataset.fingerprint
    )
    model = encoder.load_classifier(encoder.EncoderSpec(base, dataset.label_names, "fp32", "sdpa"))[0]
    budget = Budget(chosen.compute.tokens_per_micro_batch or 0)
    trainer = MicroBatchTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=request["out"] + "-full", num_train_epochs=chosen.training.epochs, save_strategy="no",
            per_device_train_batch_size=chosen.training.batch_size, learning_rate=2e-5, use_cpu=True, report_to="none",
            remove_unused_columns=False, label_names=["labels"], disable_tqdm=True, dataloader_pin_memory=False,
        ),
        train_dataset=Samples(ids.ids, dataset.train.labels, None),
        data_collator=Collator(
            pad_id=tokenizer.pad_id, limit=tokenizer.max_length, budget=budget, fixed=False, packed=False, start=0
        ),
    )  # fmt: skip
    before, others = time.perf_counter(), OthersShare()
    trainer.train()
    seconds = time.perf_counter() - before
    return {"seconds": seconds, "memory_gb": hardware.peak_memory_gb(), **_circumstances(others)}


def _options(request: dict[str, Any]) -> Any:
    from textlora import api

    return api.PlanOptions(request["model"], "default", request["settings"])


def _prepared(request: dict[str, Any]) -> tuple[Any, Any]:
    from textlora import api

    options = _options(request)
    source, out = Path(request["source"]), Path(request["out"])
    return api.prepare_folder(source, out, api.DataOptions(), options), options


def main() -> None:
    """Do what the command line says."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    request = json.loads(sys.stdin.read())
    print(json.dumps({"plan": plan, "fit": fit, "full": full}[sys.argv[1]](request)))


if __name__ == "__main__":
    main()
