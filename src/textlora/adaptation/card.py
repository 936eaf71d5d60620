"""``README.md`` of an adapted encoder, as the Hugging Face Hub reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from textlora.adaptation.nouns import Adaptation
from textlora.embedded import NAME as EMBEDDED
from textlora.embedded import UPSTREAM

CARD = "README.md"
ENDINGS = {
    "planned": "all planned steps",
    "no gain": "ended early, since the held-out perplexity no longer improved",
    "time limit": "ended by the time limit",
}


def write(made: Adaptation) -> str:
    """Return the card's Markdown."""
    plan, corpus, training = made.plan, made.plan.corpus, made.plan.settings.training
    alone = f", the first {plan.head_steps} of them for the head alone" if plan.head_steps else ""
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
{_base(made.base_model)}tags: [textlora, fill-mask, domain-adaptation]
---

# {_plain(_title(made.base_model))}, adapted to {_sources(made)}

An encoder ({made.architecture}, {plan.parameters / 1e6:.1f} M parameters with its head) that went on with
masked-language-model training on unlabelled texts. To fine-tune a classifier on it: `textlora fit DATA --base-model FOLDER`.

| | |
|---|---|
| Held-out perplexity before, after | {made.perplexity_before:.2f}, {made.perplexity_after:.2f} |
| Texts | {corpus.texts:,} ({corpus.tokens + corpus.held_out_tokens:,} tokens), {corpus.held_out_texts:,} of them held out; {corpus.duplicates:,} equal ones dropped |
| Steps | {made.steps:,} of {plan.steps:,}{alone}; step {made.best_step:,} was kept; {ENDINGS[made.ending]} |
| Pieces per step, learning rate | {training.batch_size}, {training.learning_rate:g} |
| Masked | {100 * plan.settings.masking.probability:g} % of the tokens, drawn anew each time |
| Seed | {plan.settings.seed} |
| Time | {made.seconds:,.0f} s, {made.peak_memory_gb:.2f} GB of memory |

| Step | Held-out perplexity |
|---|---|
{_perplexities(made)}

The texts of the training are part of what the encoder has seen: a test on some of these texts is not a test on new ones.
"""


def _title(name: str) -> str:
    return Path(UPSTREAM if name == EMBEDDED else name).name


def _base(name: str) -> str:
    if name == EMBEDDED:
        return f"base_model: {UPSTREAM}\n"
    return "" if Path(name).exists() else f"base_model: {json.dumps(name)}\n"


def _sources(made: Adaptation) -> str:
    names = [_plain(Path(name).name) for name in made.plan.corpus.sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004


def _plain(text: str) -> str:
    """Return a name of the user's on one line, without a meaning in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _perplexities(made: Adaptation) -> str:
    """Return the rows of a table: step and perplexity."""
    scored = [entry for entry in made.history if "eval_perplexity" in entry]
    return "\n".join(f"| {entry['step']:,.0f} | {entry['eval_perplexity']:.2f} |" for entry in scored)
