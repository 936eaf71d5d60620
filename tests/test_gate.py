"""The parity gate: what passes, what does not, and that a refused export leaves nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import WORDS
from textlora import storage
from textlora.bundles import exports_of
from textlora.errors import TrainingError, UsageError
from textlora.exporting import export, gate, merging
from textlora.exports import Parity
from textlora.intervals import paired_difference
from textlora.types import Split

FINE = Parity("test", 1000, 0, 1e-6, 0, 0.9, 0.9)


def compared(rows, lost, won, flipped=None):
    before = np.arange(rows) < rows // 2
    after = before.copy()
    after[:lost] = False
    after[rows // 2 : rows // 2 + won] = True
    share = paired_difference(after, before)
    return Parity("test", rows, 0, 0.1, lost + won if flipped is None else flipped, before.mean(), after.mean(), share)


class TestRule:
    @pytest.mark.parametrize("to", ["hf", "onnx"])
    def test_fp32_is_held_to_the_logits(self, to):
        assert gate.refusals(FINE, to, tolerance=0.003) == ()
        for wrong in (0.002, float("nan"), float("inf")):
            found = gate.refusals(replace(FINE, largest=wrong), to, tolerance=0.003)
            assert found == (f"logits differ by {wrong:.2g}, allowed 0.001",)

    def test_many_equal_rows_prove_it(self):
        assert gate.refusals(compared(5_000, 4, 3), "onnx-int8", tolerance=0.003) == ()

    def test_few_equal_rows_do_not(self):
        found = gate.refusals(compared(400, 0, 0), "onnx-int8", tolerance=0.003)
        assert found == (
            "400 rows cannot show that so little is lost: the loss is 0.00 points, but may be as large as 0.95 "
            "(95 % interval), allowed 0.3",
        )

    def test_a_loss_is_refused_on_any_number_of_rows(self):
        found = gate.refusals(compared(5_000, 60, 10), "onnx-int8", tolerance=0.003)
        assert len(found) == 1
        assert found[0].startswith("accuracy falls from 50.00% to 49.00%, by 1.00 points (95 % interval 0.")

    def test_other_labels_are_refused_at_equal_accuracy(self):
        found = gate.refusals(compared(100_000, 1_100, 1_100), "onnx-int8", tolerance=0.003)
        assert found == ("2,200 of 100,000 rows get another label, allowed 2.00%",)

    @pytest.mark.parametrize("parity", [compared(400, 0, 0), compared(5_000, 60, 10), compared(100_000, 1_100, 1_100)])
    def test_the_tolerance_named_is_the_least_that_passes(self, parity):
        points = gate.least_tolerance(parity)
        assert gate.refusals(parity, "onnx-int8", tolerance=points / 100) == ()
        assert gate.refusals(parity, "onnx-int8", tolerance=(points - 0.1) / 100) != ()

    def test_a_gain_needs_no_tolerance(self):
        assert gate.refusals(compared(2_000, 0, 20), "onnx-int8", tolerance=0.003) == ()


class TestSample:
    def test_all_rows_of_a_small_run(self, toy_run):
        found = gate.sample(toy_run.folder, most=256)
        assert (found.split, len(found.texts), len(found.labels), found.units.rows) == (
            "test and validation",
            24,
            24,
            24,
        )
        assert found.texts[:12] == list(toy_run.dataset.test.texts)

    def test_many_rows_are_spread_and_the_longest_are_among_them(self):
        texts = ["a film"] * 1_000
        texts[317] = " ".join(WORDS)
        split = Split(tuple(map(str, range(1_000))), tuple(texts), (0, 1) * 500)
        places = gate._places(split, 100)
        assert len(places) <= 100
        assert 317 in places
        assert places[0] == 0
        assert places[-1] == 999
        assert np.diff(places).max() < 30

    def test_groups_of_two_splits_stay_apart(self, toy_run):
        def part(groups):
            rows = len(groups)
            return Split(tuple(map(str, range(rows))), ("a",) * rows, (0,) * rows, groups=groups), np.arange(rows)

        found = gate._joined({"test": part(("x", "x", "y")), "validation": part(("x", "z"))})
        assert found.units.numbers.tolist() == [0, 0, 1, 2, 3]

    def test_without_data_texts_are_made_up(self, toy_run, tmp_path):
        shutil.copytree(toy_run.folder / "adapter", tmp_path / "adapter")
        found = gate.sample(tmp_path, most=256)
        assert (found.split, found.labels) == ("made-up", ())


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of the run that an export may be written into."""
    ignored = shutil.ignore_patterns("checkpoints", "export", "exports.json")
    return shutil.copytree(toy_run.folder, tmp_path / "run", ignore=ignored)


class TestExport:
    def test_a_wrong_one_is_not_written(self, run, monkeypatch):
        monkeypatch.setattr(merging, "fold_temperature", lambda model, _: model.classifier.bias.data.add_(0.01))
        (run / "export" / "hf").mkdir(parents=True)
        (run / "export" / "hf" / "config.json").write_text("old")
        with pytest.raises(TrainingError) as error:
            export(run)
        assert error.value.message == "The export hf does not answer as the classifier does:"
        assert error.value.problems == ("logits differ by 0.01, allowed 0.001",)
        assert [file.name for file in (run / "export").rglob("*")] == ["hf", "config.json"]
        assert (run / "export" / "hf" / "config.json").read_text() == "old"
        assert exports_of(run).made[0].parity.refusals == error.value.problems

    def test_eight_bits_need_rows(self, run):
        with pytest.raises(TrainingError) as error:
            export(run, to="onnx-int8")
        assert error.value.problems[0].startswith("24 rows cannot show that so little is lost: ")
        assert "--tolerance " in error.value.hint
        assert list((run / "export").iterdir()) == []

    def test_eight_bits_need_data(self, run, tmp_path):
        shutil.copytree(run / "adapter", tmp_path / "adapter")
        with pytest.raises(UsageError, match="lies beside no data that 8 bits could be judged on"):
            export(tmp_path / "adapter", to="onnx-int8")

    def test_of_other_data_the_sample_is_made_up(self, run):
        path = run / storage.DATASET
        path.unlink()
        parity = export(run).parity
        assert (parity.split, parity.rows, parity.accuracy) == ("made-up", 0, None)

    @pytest.mark.parametrize(("to", "tolerance", "message"), [
        ("onnx", 1.0, "A tolerance of accuracy holds for onnx-int8 alone; onnx is held to the logits."),
        ("onnx-int8", 0.0, "The tolerance is 0, expected points of accuracy, above 0 and at most 100."),
        ("onnx-int8", float("nan"), "The tolerance is nan, expected points of accuracy, above 0 and at most 100."),
    ])  # fmt: skip
    def test_a_tolerance_that_makes_no_sense(self, run, to, tolerance, message):
        with pytest.raises(UsageError) as error:
            export(run, to=to, tolerance=tolerance)
        assert error.value.message == message
