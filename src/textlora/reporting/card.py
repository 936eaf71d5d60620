"""The front matter of the model card, as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
from pathlib import Path

from textlora.reporting.facts import Facts

EMBEDDED_SOURCE = "sentence-transformers/all-MiniLM-L6-v2"
FILE_ENDINGS = re.compile(r"(\.(csv|tsv|txt|json|jsonl|ndjson|parquet))?(\.(gz|xz|zst))?$", re.IGNORECASE)
HUB_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "precision_macro": ("precision", "Precision (macro)"),
    "recall_macro": ("recall", "Recall (macro)"),
    "f1_macro": ("f1", "F1 (macro)"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "roc_auc": ("roc_auc", "ROC-AUC"),
    "average_precision": ("average_precision", "Average precision"),
    "log_loss": ("log_loss", "Log loss"),
}
MULTI_LABEL_METRICS = {
    **HUB_METRICS,
    "accuracy": ("accuracy", "Subset accuracy"),
    "precision_micro": ("precision", "Precision (micro)"),
    "recall_micro": ("recall", "Recall (micro)"),
    "f1_micro": ("f1", "F1 (micro)"),
    "hamming_loss": ("hamming_loss", "Hamming loss"),
}


def base_model(name: str) -> str | None:
    """Return the hub id behind a base model, ``None`` for a local folder."""
    if name == "embedded":
        return EMBEDDED_SOURCE
    is_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".")
    return name if is_id and not Path(name).is_dir() else None


def public_name(name: str) -> str:
    """Return how to name a base model to others: its hub id, else the folder's own name."""
    return base_model(name) or Path(name).name


def slug(text: str) -> str:
    """Return lower-case letters, digits and hyphens; ``dataset`` where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "dataset"


def front_matter(facts: Facts) -> str:
    """Return the YAML between the two ``---`` lines, without them."""
    from huggingface_hub import EvalResult, ModelCardData

    name = slug(FILE_ENDINGS.sub("", facts.source))
    names = MULTI_LABEL_METRICS if facts.several else HUB_METRICS
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Multi-label text classification" if facts.several else "Text classification",
            dataset_type=name,
            dataset_name=facts.source,
            dataset_split=facts.evaluation.split,
            metric_type=names[key][0],
            metric_name=names[key][1],
            metric_value=interval.value,
        )
        for key, interval in facts.evaluation.metrics.items()
    ]
    data = ModelCardData(
        model_name=f"{name}-{slug(facts.dataset.info.label_column)}",
        library_name="peft",
        pipeline_tag="text-classification",
        base_model=base_model(facts.run.base_model),
        tags=["textlora", "lora", "text-classification", *(["multi-label"] if facts.several else [])],
        labels=list(facts.evaluation.label_names),
        eval_results=results,
    )
    return data.to_yaml()
