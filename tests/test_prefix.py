"""The cache of frozen layers: same results as without it, reuse, keys, disk, cleaning up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICK, write_model
from textlora import cli, encoder, hardware, models, planning, prefix, training
from textlora.encoder import EncoderSpec
from textlora.errors import ResourceError, UsageError
from textlora.prefix import PrefixKey
from textlora.settings import LoraSettings

pytestmark = pytest.mark.usefixtures("fast_reload", "own_cache")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "three", "distilbert", n_layers=3, seq_classif_dropout=0.0)


@pytest.fixture
def plan(toy_dataset, folder, machine):
    def make(**changes):
        assignments = {**QUICK, "lora.top_layers": 1, **changes}
        return planning.plan(toy_dataset, base_model=str(folder), assignments=assignments, machine=machine)

    return make


@pytest.fixture
def model(folder):
    targets = models.base_info(str(folder)).linear_names
    settings = LoraSettings(r=4, target_modules=targets, top_layers=1)
    return encoder.build_model(EncoderSpec(folder, ("a", "b")), settings, seed=0)


KEY = PrefixKey("f" * 64, 2, "fp32", "eager", "cpu")


def texts(*lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(5, 60, length).astype(np.int32) for length in lengths]


def silent(*_):
    pass


def weights(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


class TestTraining:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_it_ends_where_training_without_the_cache_ends(self, plan, toy_dataset, tmp_path, precision):
        runs = {}
        for cached in (True, False):
            changes = {"compute.prefix_cache": cached, "compute.precision": precision}
            runs[cached] = training.train(plan(**changes), toy_dataset, folder=tmp_path / str(cached))
        assert prefix.caches()
        losses = [[entry["loss"] for entry in run.history if "loss" in entry] for run in runs.values()]
        np.testing.assert_allclose(*losses, rtol=1e-4 if precision == "fp32" else 2e-2)
        # bf16 rounds a text's states alike whatever lies beside it, but for the order of sums.
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        for name, expected in weights(runs[False]).items():
            torch.testing.assert_close(weights(runs[True])[name], expected, atol=tolerance, rtol=0, msg=name)

    def test_the_frozen_layers_run_once(self, plan, toy_dataset, tmp_path, monkeypatch):
        calls = []
        original = prefix._states
        monkeypatch.setattr(prefix, "_states", lambda *given: calls.append(len(given[1])) or original(*given))
        told = []
        training.train(
            plan(**{"training.epochs": 3}), toy_dataset, folder=tmp_path / "a",
            progress=lambda stage, done, total, note: told.append((stage, done, total, note)),
        )  # fmt: skip
        assert sum(calls) == len({*toy_dataset.train.texts, *toy_dataset.validation.texts})
        frozen = [entry for entry in told if entry[0] == "frozen layers"]
        assert frozen[-1][1] == frozen[-1][2] > 0
        assert "GB in" in frozen[-1][3]

    def test_other_seeds_and_rates_use_it_again(self, plan, toy_dataset, tmp_path, monkeypatch):
        training.train(plan(), toy_dataset, folder=tmp_path / "a")
        monkeypatch.setattr(prefix, "_states", None)  # computing again would fail
        for number, changes in enumerate([{"seed": 7}, {"training.learning_rate": 1e-3}, {"training.epochs": 3}]):
            training.train(plan(**changes), toy_dataset, folder=tmp_path / str(number))
        assert len(prefix.caches()) == 1


class TestCache:
    def test_states_are_those_of_the_lower_layers(self, model):
        ids = texts(30, 7, 64, 7)
        cache = prefix.open_or_build(model, ids, KEY, window=64, progress=silent)
        hugging_face = model.get_base_model().distilbert
        for text in ids:
            expected = hugging_face(torch.from_numpy(text)[None].long(), output_hidden_states=True).hidden_states[2][0]
            torch.testing.assert_close(cache.states(text), expected, atol=1e-5, rtol=0)

    def test_equal_texts_are_kept_once(self, model):
        once, twice = texts(20), [*texts(20), *texts(20)]
        assert prefix.open_or_build(model, twice, KEY, window=64, progress=silent).layers == 2
        assert prefix.caches()[0][1] > 20 * 32 * 4
        prefix.open_or_build(model, once, KEY, window=64, progress=silent)
        assert len(prefix.caches()) == 1

    @pytest.mark.parametrize(
        "other",
        [
            PrefixKey("e" * 64, 2, "fp32", "eager", "cpu"), PrefixKey("f" * 64, 1, "fp32", "eager", "cpu"),
            PrefixKey("f" * 64, 2, "fp32", "sdpa", "cpu"),
        ],
    )  # fmt: skip
    def test_whatever_changes_the_states_has_a_cache_of_its_own(self, model, other):
        prefix.open_or_build(model, texts(9, 8), KEY, window=64, progress=silent)
        prefix.open_or_build(model, texts(9, 8), other, window=64, progress=silent)
        assert len(prefix.caches()) == 2

    def test_the_order_of_the_texts_does_not_matter_but_the_texts_do(self, model):
        ids = texts(9, 8, 30)
        for given in (ids, ids[::-1], [*ids[:2], ids[2][:-1]]):
            prefix.open_or_build(model, given, KEY, window=64, progress=silent)
        assert len(prefix.caches()) == 2

    def test_a_stop_half_way_leaves_nothing(self, model, own_cache):
        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prefix.open_or_build(model, texts(9, 8), KEY, window=64, progress=stop)
        assert prefix.caches() == []
        assert list((own_cache / "prefix").iterdir()) == []

    def test_a_disk_without_room_is_noticed_before(self, model, monkeypatch):
        monkeypatch.setattr(hardware, "free_disk_gb", lambda _: 1e-6)
        with pytest.raises(ResourceError) as error:
            prefix.open_or_build(model, texts(64, 64), KEY, window=64, progress=silent)
        assert "--set compute.prefix_cache=false" in str(error.value)
        assert "GB free" in str(error.value)
        assert prefix.caches() == []

    def test_the_size_said_is_the_size_on_disk(self, model, own_cache):
        prefix.open_or_build(model, texts(40, 21), KEY, window=64, progress=silent)
        (states,) = own_cache.glob("prefix/*/states.bin")
        assert states.stat().st_size == prefix.needed_bytes(61, 32, "fp32")


class TestRefusals:
    def test_more_layers_than_there_are(self, plan):
        with pytest.raises(UsageError, match=r"lora\.top_layers is 4 .*, but .* has 3 layers\."):
            plan(**{"lora.top_layers": 4})

    def test_a_cache_of_nothing(self, plan):
        with pytest.raises(UsageError, match=r"compute\.prefix_cache is True .*, but every layer has adapters\."):
            plan(**{"lora.top_layers": 3, "compute.prefix_cache": True})


class TestClean:
    @pytest.fixture
    def cached(self, model):
        prefix.open_or_build(model, texts(40, 21), KEY, window=64, progress=silent)
        return prefix.caches()[0]

    def run(self, monkeypatch, capsys, *arguments):
        monkeypatch.setattr("sys.argv", ["textlora", "clean", *arguments])
        assert cli.run() == 0
        return capsys.readouterr().out

    def test_it_lists_and_deletes(self, cached, monkeypatch, capsys, own_cache):
        (own_cache / "other").write_text("stays", encoding="utf-8")
        assert "would be freed" in self.run(monkeypatch, capsys, "--dry-run")
        assert prefix.caches() == [cached]
        assert self.run(monkeypatch, capsys).endswith("0.00 GB in 1 caches of frozen layers freed.\n")
        assert prefix.caches() == []
        assert {path.name for path in own_cache.iterdir()} == {"prefix", "other"}

    def test_json(self, cached, monkeypatch, capsys):
        found = json.loads(self.run(monkeypatch, capsys, "--json"))
        assert found == {"deleted": [str(cached[0])], "bytes": cached[1]}

    def test_nothing_to_clean(self, monkeypatch, capsys):
        assert "0 caches" in self.run(monkeypatch, capsys)
