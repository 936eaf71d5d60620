"""Mean hidden states: the same as from Hugging Face's own forward pass, packed or padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tests.conftest import write_model
from textlora import encoder
from textlora.encoder import EncoderSpec
from textlora.memory import Budget
from textlora.states import mean_states


def texts(*lengths: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(5, 60, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "roberta", "deberta-v2"])
def test_they_are_those_of_hugging_face(tmp_path, architecture):
    folder = write_model(tmp_path / architecture, architecture)
    model = encoder.load_frozen(EncoderSpec(folder, ("a", "b")))
    given = texts(9, 3, 30, 17)
    found = mean_states(model, given, (0, 1, 2), window=60, pad_id=0, budget=Budget(40))
    reference = AutoModel.from_pretrained(folder, output_hidden_states=True).eval()
    with torch.inference_mode():
        for row, ids in enumerate(given):
            states = reference(torch.from_numpy(ids).long()[None]).hidden_states
            expected = np.stack([states[layer][0].mean(0).numpy() for layer in (0, 1, 2)])
            np.testing.assert_allclose(found[row], expected, atol=2e-5)


def test_windows_of_a_text_count_by_their_tokens(tiny_model):
    model = encoder.load_frozen(EncoderSpec(tiny_model, ("a", "b")))
    (whole,) = texts(25)
    (joined,) = mean_states(model, [whole], (2,), window=10, pad_id=0, budget=Budget(100))
    pieces = mean_states(model, [whole[:10], whole[10:20], whole[20:]], (2,), window=10, pad_id=0, budget=Budget(100))
    np.testing.assert_allclose(joined, np.average(pieces, axis=0, weights=[10, 10, 5]), atol=1e-5)


def test_some_layers_only(tiny_model):
    model = encoder.load_frozen(EncoderSpec(tiny_model, ("a", "b")))
    given = texts(5, 8)
    every = mean_states(model, given, (0, 1, 2), window=60, pad_id=0, budget=Budget(100))
    one = mean_states(model, given, (1,), window=60, pad_id=0, budget=Budget(5))
    np.testing.assert_allclose(one[:, 0], every[:, 1], atol=1e-6)
