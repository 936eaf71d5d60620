"""Quantized layers: the codes against bitsandbytes and transformers, the products against plain ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from tests.conftest import ARCHITECTURES, write_model
from textlora import encoder, models, packed
from textlora.encoder import EncoderSpec
from textlora.packed.quantized import QuantizedLinear, SideBySide, quantize
from textlora.settings import LoraSettings

BITS = [4, 8]
NAMES = ("no", "yes")
# Relative error of normally distributed weights: NF4 about 9 %, 8 bits per row about 0.8 %.
EXPECTED_ERROR = {4: (0.08, 0.10), 8: (0.004, 0.012)}


def layer(bits: int, outputs: int = 96, inputs: int = 64, seed: int = 0) -> tuple[nn.Linear, QuantizedLinear]:
    torch.manual_seed(seed)
    plain = nn.Linear(inputs, outputs)
    nn.init.normal_(plain.weight, std=0.05)
    return plain, QuantizedLinear(plain.weight, plain.bias, bits=bits)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: write_model(root / name, name, initializer_range=0.05) for name in ARCHITECTURES}


def build(folder, **spec):
    lora = LoraSettings(r=4, target_modules=models.base_info(str(folder)).linear_names)
    model = encoder.build_model(EncoderSpec(folder, NAMES, **spec), lora, seed=1).eval()
    draw = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model


def quantized_layers(model):
    """Return the quantized layers by the paths that they have without adapters."""
    return {
        path.replace(".base_layer", ""): module
        for path, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    }


def texts(lengths=(60, 41, 32, 9, 2)):
    draw = np.random.default_rng(0)
    return [draw.integers(5, 60, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("bits", BITS)
class TestLayer:
    def test_the_output_is_that_of_the_dequantized_weights(self, bits):
        _, quantized = layer(bits)
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(2, 7, 64).to(dtype)
            quantized.bias.data = quantized.bias.data.to(dtype)
            assert torch.equal(quantized(x), linear(x, quantized.dequantized(dtype), quantized.bias))

    def test_training_and_prediction_compute_the_same(self, bits):
        _, quantized = layer(bits)
        x = torch.randn(5, 64)
        trained = quantized.train()(x.clone().requires_grad_())
        with torch.no_grad():
            assert torch.equal(quantized.eval()(x), trained)
        assert torch.equal(quantized.train()(x), trained)

    def test_the_gradient_of_the_input(self, bits):
        _, quantized = layer(bits)
        x = torch.randn(2, 7, 64, requires_grad=True)
        quantized(x).square().sum().backward()
        again = x.detach().clone().requires_grad_()
        linear(again, quantized.dequantized(torch.float32), quantized.bias).square().sum().backward()
        assert torch.equal(x.grad, again.grad)
        assert quantized.weight.grad is None

    def test_the_codes_are_close_to_the_weights(self, bits):
        plain, quantized = layer(bits)
        error = (quantized.dequantized(torch.float32) - plain.weight).norm() / plain.weight.norm()
        low, high = EXPECTED_ERROR[bits]
        assert low < error < high

    def test_several_side_by_side(self, bits):
        layers = [layer(bits, outputs, seed=outputs)[1] for outputs in (32, 64)]
        both = SideBySide(layers).dequantized(torch.float32)
        assert torch.equal(both, torch.cat([one.dequantized(torch.float32) for one in layers]))

    def test_it_is_a_frozen_linear_layer(self, bits):
        plain, quantized = layer(bits)
        assert isinstance(quantized, nn.Linear)
        assert (quantized.in_features, quantized.out_features) == (64, 96)
        assert not any(parameter.requires_grad for parameter in quantized.parameters())
        assert f"bits={bits}" in repr(quantized)
        assert plain.weight.requires_grad

    def test_rows_of_zeros(self, bits):
        quantized = QuantizedLinear(torch.zeros(4, 64), None, bits=bits)
        assert torch.equal(quantized(torch.randn(3, 64)), torch.zeros(3, 4))

    def test_sizes_that_no_block_divides(self, bits):
        weight = torch.randn(3, 38)
        assert (QuantizedLinear(weight, None, bits=bits).dequantized(torch.float32) - weight).abs().max() < 1


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
def test_on_a_gpu_the_same_codes_give_the_same_numbers(bits):
    _, here = layer(bits)
    expected = here.dequantized(torch.float32)
    there = here.cuda()
    assert there.weight.device.type == "cuda"
    assert torch.allclose(there.dequantized(torch.float32).cpu(), expected, atol=1e-6)
    x = torch.randn(5, 64, device="cuda", requires_grad=True)
    there(x).sum().backward()
    assert torch.allclose(x.grad.cpu(), expected.sum(0).expand(5, 64), atol=1e-4)


def test_bytes_per_weight():
    _, four = layer(4, 768, 768)
    _, eight = layer(8, 768, 768)
    # The two tables of codes, 16 and 256 numbers, hardly count.
    assert four.quantized_bytes / (768 * 768) == pytest.approx(0.5 + 1 / 64 + 4 / (64 * 256), abs=0.002)
    assert eight.quantized_bytes / (768 * 768) == pytest.approx(1 + 4 / 768)


def test_the_scales_of_four_bits_are_quantized_too():
    _, four = layer(4)
    assert four.scales["absmax"].dtype == torch.uint8
    assert four.scales["nested_absmax"].dtype == torch.float32


class TestModel:
    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_the_codes_and_the_layers_are_those_of_transformers(self, folders, name, bits):
        from bitsandbytes.nn import Linear4bit, Linear8bitLt
        from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

        fresh = encoder.load_classifier(EncoderSpec(folders[name], NAMES))[1]
        config = BitsAndBytesConfig(
            load_in_4bit=bits == 4,
            load_in_8bit=bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=list(fresh),
        )
        with encoder.quiet_libraries():
            theirs = AutoModelForSequenceClassification.from_pretrained(
                folders[name], num_labels=2, quantization_config=config, dtype=torch.float32, device_map="cpu"
            )
        expected = {
            path: module for path, module in theirs.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)
        }
        found = quantized_layers(build(folders[name], bits=bits).get_base_model())
        assert found.keys() == expected.keys()
        for path, module in expected.items():
            assert torch.equal(found[path].weight.data.flatten(), module.weight.data.flatten()), path
            if bits == 4:
                state = module.weight.quant_state
                scales = found[path].scales
                assert torch.equal(scales["absmax"], state.absmax), path
                assert torch.equal(scales["nested_absmax"], state.state2.absmax), path

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_fresh_modules_stay_whole(self, folders, name):
        model = build(folders[name], bits=4)
        fresh = encoder.load_classifier(EncoderSpec(folders[name], NAMES))[1]
        paths = quantized_layers(model.get_base_model())
        assert paths
        assert not [path for path in paths if path.startswith(fresh)]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert {parameter.dtype for parameter in trained} == {torch.float32}

    @pytest.mark.parametrize("bits", BITS)
    def test_parameters_are_counted_as_weights_not_as_bytes(self, folders, bits):
        whole, quantized = (build(folders["bert"], bits=value) for value in (None, bits))
        assert encoder.parameter_counts(quantized) == encoder.parameter_counts(whole)

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("name", sorted(packed.ARCHITECTURES))
    def test_packed_equals_the_forward_of_hugging_face(self, folders, name, bits):
        model, ids = build(folders[name], bits=bits), texts()
        outcomes = []
        for inputs in (packed.pack(ids, 0), encoder.pad(ids, 0, limit=64)):
            model.zero_grad()
            logits = model(**inputs).logits
            (logits * torch.tensor([1.0, -2.0])).sum().backward()
            outcomes.append((logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        (logits, gradients), (expected, theirs) = outcomes
        assert (logits - expected).abs().max() <= 1e-5
        assert gradients.keys() == theirs.keys()
        for key, gradient in theirs.items():
            assert (gradients[key] - gradient).abs().max() <= 1e-4 * max(1.0, float(gradient.abs().max())), key

    @pytest.mark.parametrize("bits", BITS)
    def test_the_model_equals_one_that_holds_the_dequantized_weights(self, folders, bits):
        quantized, plain = build(folders["distilbert"], bits=bits), build(folders["distilbert"])
        layers = quantized_layers(quantized)
        for path, module in plain.named_modules():
            if path.endswith(".base_layer"):
                module.weight.data = layers[path.removesuffix(".base_layer")].dequantized(torch.float32)
        inputs = encoder.pad(texts(), 0, limit=64)
        with torch.no_grad():
            assert torch.equal(quantized(**inputs).logits, plain(**inputs).logits)

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("name", sorted(packed.ARCHITECTURES))
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_read_back_without_transformers_it_answers_the_same(self, folders, tmp_path, name, bits, precision):
        spec = {"bits": bits, "precision": precision}
        model = build(folders[name], **spec)
        encoder.save_adapter(model, tmp_path)
        again = encoder.load_for_prediction(EncoderSpec(folders[name], NAMES, **spec), tmp_path)
        ours, here = quantized_layers(again), quantized_layers(model.get_base_model())
        # RoBERTa's file has a pooler too, which its classifier does not use.
        assert {f"root.{path}" for path in here} <= ours.keys()
        inputs = packed.pack(texts(), 0)
        with torch.inference_mode():
            assert (model(**inputs).logits - again(**inputs).logits).abs().max() <= 1e-6

    def test_what_is_inside_is_left_alone(self):
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
        quantize(model, 4, inside=re.compile("1").fullmatch)
        assert [type(module) for module in model] == [QuantizedLinear, nn.Linear]

    def test_no_numbers_are_kept_for_the_backward_pass(self, folders):
        """The weights of a quantized layer exist as numbers only while they are multiplied."""
        model, kept = build(folders["distilbert"], bits=4), []
        shapes = {(module.out_features, module.in_features) for module in quantized_layers(model).values()}
        # The last block keeps the keys' and values' weights, which it multiplies with one row per text.
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
            model(**packed.pack(texts(), 0))
        widening = [shape for shape in shapes if shape[0] != shape[1]]
        assert widening
        assert not [shape for shape in kept if tuple(shape) in widening or tuple(shape[::-1]) in widening]
