"""Where the architectures that can run packed keep their modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from textlora.packed.blocks import BlockParts


@dataclass(frozen=True)
class Architecture:
    """How to find and use the parts of a Hugging Face classifier or masked language model.

    Attributes:
        blocks: the transformer blocks' modules, from the model.
        heads: number of attention heads, from the configuration.
        embed: (encoder, ids (N,), positions (N,)) to (N, H).
        head: (classifier, first tokens (B, H)) to logits (B, C).
        encoder: attribute of the model that holds the encoder.
        words: (masked language model, tokens (M, H)) to logits over the vocabulary (M, V).
    """

    blocks: Callable[[Any], list[BlockParts]]
    embed: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
    head: Callable[[Any, torch.Tensor], torch.Tensor]
    encoder: str
    words: Callable[[Any, torch.Tensor], torch.Tensor]


def _distilbert_blocks(classifier: Any) -> list[BlockParts]:
    return [
        BlockParts(
            query=layer.attention.q_lin,
            key=layer.attention.k_lin,
            value=layer.attention.v_lin,
            out=layer.attention.out_lin,
            attention_norm=layer.sa_layer_norm,
            widen=layer.ffn.lin1,
            activation=layer.ffn.activation,
            narrow=layer.ffn.lin2,
            output_norm=layer.output_layer_norm,
        )
        for layer in classifier.distilbert.transformer.layer
    ]


def _bert_blocks(classifier: Any) -> list[BlockParts]:
    encoder = getattr(classifier, classifier.base_model_prefix).encoder
    return [
        BlockParts(
            query=layer.attention.self.query,
            key=layer.attention.self.key,
            value=layer.attention.self.value,
            out=layer.attention.output.dense,
            attention_norm=layer.attention.output.LayerNorm,
            widen=layer.intermediate.dense,
            activation=layer.intermediate.intermediate_act_fn,
            narrow=layer.output.dense,
            output_norm=layer.output.LayerNorm,
        )
        for layer in encoder.layer
    ]


def _embed(encoder: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    parts = encoder.embeddings
    rows = parts.word_embeddings(ids)
    if hasattr(parts, "token_type_embeddings"):
        rows = rows + parts.token_type_embeddings.weight[0]
    embedded: torch.Tensor = parts.LayerNorm(rows + parts.position_embeddings(positions))
    return encoder.embeddings_project(embedded) if hasattr(encoder, "embeddings_project") else embedded


def _embed_after_padding(encoder: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    # RoBERTa counts positions from behind the padding's id.
    return _embed(encoder, ids, positions + encoder.embeddings.padding_idx + 1)


def _distilbert_head(classifier: Any, first: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(classifier.pre_classifier(first))
    logits: torch.Tensor = classifier.classifier(classifier.dropout(hidden))
    return logits


def _pooler_head(classifier: Any, first: torch.Tensor) -> torch.Tensor:
    pooler = getattr(classifier, classifier.base_model_prefix).pooler
    # Poolers and heads of this family pick the first token themselves: give them that one only.
    logits: torch.Tensor = classifier.classifier(classifier.dropout(pooler(first[:, None])))
    return logits


def _own_head(classifier: Any, first: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = classifier.classifier(first[:, None])
    return logits


def _distilbert_words(model: Any, rows: torch.Tensor) -> torch.Tensor:
    hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(rows)))
    logits: torch.Tensor = model.vocab_projector(hidden)
    return logits


def _bert_words(model: Any, rows: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.cls(rows)
    return logits


def _electra_words(model: Any, rows: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.generator_lm_head(model.generator_predictions(rows))
    return logits


def _roberta_words(model: Any, rows: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.lm_head(rows)
    return logits


_ROBERTA = Architecture(_bert_blocks, _embed_after_padding, _own_head, "roberta", _roberta_words)
ARCHITECTURES = {
    "distilbert": Architecture(_distilbert_blocks, _embed, _distilbert_head, "distilbert", _distilbert_words),
    "bert": Architecture(_bert_blocks, _embed, _pooler_head, "bert", _bert_words),
    "electra": Architecture(_bert_blocks, _embed, _own_head, "electra", _electra_words),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
}
