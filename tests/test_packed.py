"""The engine against Hugging Face's own forward: logits and gradients, for each architecture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.conftest import write_model
from textlora import encoder, models, packed
from textlora.batching import GROUP_PAIRS
from textlora.encoder import EncoderSpec
from textlora.packed import Layout, attend, loading
from textlora.packed.attention import _jagged
from textlora.settings import LoraSettings

ARCHITECTURES = sorted(packed.ARCHITECTURES)
KERNELS = ["eager", "sdpa"]
LENGTHS = (60, 41, 40, 32, 31, 9, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    # Ordinary initial weights: wide ones make rounding errors grow from layer to layer.
    return {name: write_model(root / name, name, initializer_range=0.05) for name in ARCHITECTURES}


def texts(lengths=LENGTHS, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(5, 60, length).astype(np.int32) for length in lengths]


def build(folder, *, kernel="eager", adapters=True, dtype=torch.float32, **lora):
    spec = EncoderSpec(folder, ("a", "b", "c"), attention=kernel)
    settings = LoraSettings(r=4, **{"target_modules": models.base_info(str(folder)).linear_names, **lora})
    model = encoder.build_model(spec, settings, seed=1).to(dtype).eval()
    draw = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * (0.1 if adapters else 0))
    return model


def outcome(model, inputs):
    """Return logits and the gradients of everything that trains."""
    model.zero_grad()
    logits = model(**inputs).logits
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (logits.float() * weights.float()).sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def padded(ids):
    return encoder.pad(ids, 0, limit=64)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


class TestExactness:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_logits_and_gradients_equal_hugging_face(self, folders, name, kernel):
        model = build(folders[name], kernel=kernel)
        expected, gradients = outcome(model, padded(texts()))
        found, packed_gradients = outcome(model, packed.pack(texts(), 0))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert packed_gradients.keys() == gradients.keys()
        assert len(gradients) > 20
        assert max(relative(packed_gradients[key], gradients[key]) for key in gradients) < 1e-4

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_without_adapters(self, folders, name):
        model = build(folders[name], adapters=False)
        with torch.no_grad(), model.disable_adapter():
            expected = model(**padded(texts())).logits
            found = model(**packed.pack(texts(), 0)).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("seed", range(8))
    def test_random_lengths(self, folders, seed):
        model = build(folders["distilbert"])
        ids = texts(np.random.default_rng(seed).integers(2, 65, 11).tolist(), seed)
        with torch.no_grad():
            expected = model(**padded(ids)).logits
            found = model(**packed.pack(ids, 0)).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_many_short_texts_whose_number_is_rounded(self, folders, kernel):
        model = build(folders["distilbert"], kernel=kernel)
        ids = texts([20] * 7 + [9] * 30 + [3] * 4)
        expected, gradients = outcome(model, padded(ids))
        found, packed_gradients = outcome(model, packed.pack(ids, 0))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert max(relative(packed_gradients[key], gradients[key]) for key in gradients) < 1e-4

    @pytest.mark.parametrize("targets", [["q_lin", "v_lin"], ["k_lin"], ["lin2"], ["out_lin", "lin1"]])
    def test_adapters_on_some_layers(self, folders, targets):
        model = build(folders["distilbert"], target_modules=tuple(targets))
        expected, gradients = outcome(model, padded(texts()))
        found, packed_gradients = outcome(model, packed.pack(texts(), 0))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert max(relative(packed_gradients[key], gradients[key]) for key in gradients) < 1e-4

    def test_merged_adapters(self, folders):
        model = build(folders["bert"])
        model.merge_adapter()
        with torch.no_grad():
            expected = model(**padded(texts())).logits
            merged = model(**packed.pack(texts(), 0)).logits
        torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
        model.unmerge_adapter()
        with torch.no_grad():
            torch.testing.assert_close(model(**packed.pack(texts(), 0)).logits, merged, atol=1e-5, rtol=0)

    def test_dropout_before_the_adapters_is_dropped_in_training_only(self, folders):
        # Dropping (nearly) everything leaves the frozen layers alone.
        model = build(folders["distilbert"], lora_dropout=1 - 1e-9)
        inputs = packed.pack(texts(), 0)
        with torch.no_grad():
            still = model(**inputs).logits
            with model.disable_adapter():
                frozen = model(**inputs).logits
            model.train()
            model.get_base_model().dropout.eval()
            dropped = model(**inputs).logits
        assert not torch.allclose(still, frozen, atol=1e-3)
        torch.testing.assert_close(dropped, frozen, atol=1e-5, rtol=0)

    def test_other_calls_stay_as_they_were(self, folders):
        model = build(folders["distilbert"])
        inputs = padded(texts())
        with torch.no_grad():
            together = model(**inputs, labels=torch.zeros(len(LENGTHS), dtype=torch.long))
        assert together.loss > 0
        assert together.logits.shape == (len(LENGTHS), 3)

    def test_training_after_a_prediction(self, folders):
        expected = outcome(build(folders["distilbert"]), packed.pack(texts(), 0))
        model = build(folders["distilbert"])
        with torch.inference_mode():
            model(**packed.pack(texts(), 0))
        logits, gradients = outcome(model, packed.pack(texts(), 0))
        assert torch.equal(logits, expected[0])
        assert all(torch.equal(gradients[name], value) for name, value in expected[1].items())

    def test_what_is_written_into_a_layer_later_counts(self, folders):
        model = build(folders["distilbert"])
        with torch.no_grad():
            model(**packed.pack(texts(), 0))
            for layer in model.get_base_model().distilbert.transformer.layer:
                layer.attention.q_lin.base_layer.bias.add_(3)
                layer.attention.v_lin.base_layer.weight.mul_(2)
            found, expected = model(**packed.pack(texts(), 0)).logits, model(**padded(texts())).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    def test_a_moved_model_computes_with_its_own_weights(self, folders):
        model = build(folders["distilbert"])
        inputs = packed.pack(texts(), 0)
        with torch.no_grad():
            before = model(**inputs).logits
            for layer in model.get_base_model().distilbert.transformer.layer:
                query = layer.attention.q_lin.base_layer.weight
                query.data = query.data.clone()  # memory of its own, as after a move to another device
                query.mul_(5)
            after = model(**inputs).logits
            expected = model(**padded(texts())).logits
        assert not torch.allclose(before, after, atol=1e-4)
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


class TestAttention:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("lengths", [(1,), (32,), (64, 64), (70, 33, 32, 5, 4, 4, 1)])
    def test_it_equals_attention_text_by_text_in_fp64(self, kernel, lengths):
        layout, heads = Layout(lengths), 3
        draw = torch.Generator().manual_seed(0)
        qkv = torch.randn((layout.rows, 3 * 12), generator=draw, dtype=torch.float64, requires_grad=True)
        grad = torch.randn((layout.rows, 12), generator=draw, dtype=torch.float64)
        mixed = attend(qkv, layout, heads, kernel=kernel)
        (found,) = torch.autograd.grad(mixed, qkv, grad)
        parts, start = [], 0
        for length in lengths:
            q, k, v = qkv[start : start + length].view(length, 3, heads, 4).permute(1, 2, 0, 3)
            parts.append(((q @ k.transpose(1, 2) / 2).softmax(-1) @ v).transpose(0, 1).reshape(length, 12))
            start += length
        expected = torch.cat([*parts, torch.zeros(layout.rows - start, 12, dtype=torch.float64)])
        torch.testing.assert_close(mixed, expected, atol=1e-12, rtol=0)
        (reference,) = torch.autograd.grad(expected, qkv, grad)
        torch.testing.assert_close(found, reference, atol=1e-12, rtol=0)
        with torch.inference_mode():
            predicted = attend(qkv, layout, heads, kernel=kernel)
        torch.testing.assert_close(predicted, expected, atol=1e-12, rtol=0)

    def test_the_way_for_old_gpus_gives_the_same(self):
        layout = Layout((70, 33, 32, 5, 4, 4, 1))
        qkv = torch.randn((layout.rows, 3 * 12), generator=torch.Generator().manual_seed(0))
        own = qkv[: layout.tokens].view(layout.tokens, 3, 3, 4)
        found = _jagged(own, layout.boundaries(torch.device("cpu")), 70).reshape(layout.tokens, 12)
        expected = attend(qkv, layout, 3, kernel="eager")[: layout.tokens]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_fused_kernel_of_a_gpu_gives_the_same(self, dtype):
        layout = Layout((70, 33, 32, 5, 4, 4, 1))
        qkv = torch.randn((layout.rows, 3 * 192), generator=torch.Generator().manual_seed(0)).to(dtype)
        grad = torch.randn((layout.rows, 192), generator=torch.Generator().manual_seed(1)).to(dtype)
        grad[layout.tokens :] = 0
        results = {}
        for device in ("cpu", "cuda"):
            rows = qkv.to(device, torch.float32 if device == "cpu" else dtype).requires_grad_()
            mixed = attend(rows, layout, 3, kernel="eager")
            results[device] = mixed, torch.autograd.grad(mixed, rows, grad.to(mixed))[0]
        for found, expected in zip(results["cuda"], results["cpu"], strict=True):
            torch.testing.assert_close(found.cpu().float(), expected, atol=3e-2, rtol=3e-2)


class TestGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_half_precision_on_a_gpu_is_near_fp32_on_the_cpu(self, folders, name):
        model = build(folders[name])
        expected, gradients = outcome(model, packed.pack(texts(), 0))
        spec = EncoderSpec(folders[name], ("a", "b", "c"), precision="bf16", attention="sdpa")
        half = encoder.build_model(
            spec, LoraSettings(r=4, target_modules=models.base_info(str(folders[name])).linear_names), seed=1
        )
        half.load_state_dict(
            {n: p for n, p in model.state_dict().items() if "lora_" in n or "modules_to_save" in n}, strict=False
        )
        inputs = packed.pack(texts(), 0)
        found, half_gradients = outcome(half.to("cuda").eval(), {**inputs, "input_ids": inputs["input_ids"].cuda()})
        torch.testing.assert_close(found.cpu(), expected, atol=0.1, rtol=0.1)
        assert max(relative(half_gradients[key].cpu(), gradients[key]) for key in gradients) < 0.2


class TestFrozenPart:
    def test_no_gradient_flows_below_the_first_adapters(self, folders):
        model = build(folders["distilbert"], top_layers=1)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(".layer.1." in name or "classifier" in name for name in names)
        forward = model.get_base_model().packed
        inputs = packed.pack(texts(), 0)
        layout = Layout(inputs["lengths"])
        assert not forward.hidden(inputs["input_ids"], layout, blocks=1).requires_grad

    def test_states_of_lower_blocks_lead_to_the_same_logits(self, folders):
        model = build(folders["roberta"], top_layers=1)
        whole, gradients = outcome(model, packed.pack(texts(), 0))
        inputs = packed.pack(texts(), 0)
        layout = Layout(inputs["lengths"])
        states = model.get_base_model().packed.hidden(inputs["input_ids"], layout, blocks=1)
        by_text = states[: layout.tokens].split(layout.lengths)
        found, cached_gradients = outcome(model, packed.pack_states(by_text, 1))
        torch.testing.assert_close(found, whole, atol=0, rtol=0)
        for key, expected in gradients.items():
            torch.testing.assert_close(cached_gradients[key], expected, atol=0, rtol=0)


class TestLayout:
    def test_segments_cover_every_token_once_and_in_order(self):
        draw = np.random.default_rng(0)
        for _ in range(50):
            lengths = sorted(draw.integers(1, 200, draw.integers(1, 40)).tolist(), reverse=True)
            layout = Layout(lengths)
            assert [length for segment in layout.segments for length in segment.lengths] == lengths
            assert layout.segments[0].start == 0
            for before, after in pairwise(layout.segments):
                assert before.stop == after.start
                assert before.padded >= after.padded
            assert all(
                segment.texts == 1 or segment.texts * segment.padded**2 <= GROUP_PAIRS for segment in layout.segments
            )
            assert layout.segments[-1].stop == layout.tokens <= layout.rows < layout.tokens + 128
            assert all(0 <= segment.padded - length < 32 for segment in layout.segments for length in segment.lengths)

    def test_split_and_join_undo_each_other(self):
        layout = Layout((40, 33, 5))
        rows = torch.randn(layout.rows, 24)
        back = torch.zeros_like(rows)
        for segment in layout.segments:
            parts = segment.split(rows, 2, 3)
            assert [tuple(part.shape) for part in parts] == [(segment.texts * 3, segment.padded, 4)] * 2
            segment.join(parts, back)
        torch.testing.assert_close(back[: layout.tokens], rows[: layout.tokens])

    def test_few_shapes_whatever_the_lengths(self):
        draw = np.random.default_rng(0)
        layouts = [Layout(sorted(draw.integers(1, 513, 8).tolist(), reverse=True)) for _ in range(500)]
        assert len({layout.rows for layout in layouts}) <= 32
        assert len({segment.padded for layout in layouts for segment in layout.segments}) <= 16

    def test_few_numbers_of_texts_however_many_there_are(self):
        layouts = [Layout([9] * texts) for texts in range(1, 513)]
        firsts = [layout.first_rows(torch.device("cpu"), rounded=True) for layout in layouts]
        assert len({len(rows) for rows in firsts}) <= 40
        assert len({segment.texts for layout in layouts for segment in layout.segments}) <= 12
        for texts, rows in enumerate(firsts, start=1):
            assert rows[:texts].tolist() == [9 * text for text in range(texts)]
            assert texts <= len(rows) < 1.25 * texts + 16
            assert not rows[texts:].any()


class TestSupport:
    def test_what_the_engine_does_not_know_is_left_to_hugging_face(self, tmp_path):
        model = write_model(tmp_path / "albert", "albert")
        assert not models.base_info(str(model)).packable
        built = encoder.build_model(
            EncoderSpec(model, ("a", "b")),
            LoraSettings(r=2, target_modules=models.base_info(str(model)).linear_names),
            seed=0,
        )
        assert not encoder.runs_packed(built)

    @pytest.mark.parametrize("changes", [{"chunk_size_feed_forward": 4}, {"is_decoder": True}])
    def test_unusual_configurations(self, changes):
        from transformers import BertConfig

        assert packed.supports(BertConfig())
        assert not packed.supports(BertConfig(**changes))


class TestLoading:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_without_transformers_and_peft_the_logits_are_the_same_bits(self, folders, name, precision, tmp_path):
        spec = EncoderSpec(folders[name], ("a", "b", "c"), precision=precision)
        targets = models.base_info(str(folders[name])).linear_names
        model = encoder.build_model(spec, LoraSettings(r=4, target_modules=targets), seed=1).eval()
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
        encoder.save_adapter(model, tmp_path)
        loaded = encoder.load_for_prediction(spec, tmp_path)
        assert isinstance(loaded, loading.LoadedClassifier)
        with torch.no_grad():
            assert torch.equal(loaded(**packed.pack(texts(), 0)).logits, model(**packed.pack(texts(), 0)).logits)
        assert encoder.trained_weights(loaded).keys() == encoder.trained_weights(model).keys()

    def test_an_unknown_activation_goes_the_long_way(self, tmp_path):
        folder = write_model(tmp_path / "model", "bert", hidden_act="gelu_new")
        spec = EncoderSpec(folder, ("a", "b"))
        model = encoder.build_model(
            spec, LoraSettings(r=2, target_modules=models.base_info(str(folder)).linear_names), seed=0
        ).eval()
        (tmp_path / "adapter").mkdir()
        encoder.save_adapter(model, tmp_path / "adapter")
        loaded = encoder.load_for_prediction(spec, tmp_path / "adapter")
        assert not isinstance(loaded, loading.LoadedClassifier)
        with torch.no_grad():
            torch.testing.assert_close(
                loaded(**packed.pack(texts(), 0)).logits, model(**packed.pack(texts(), 0)).logits
            )
