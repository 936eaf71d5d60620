"""The rehearsal: what a small model's passes tell about the planned one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.conftest import write_model
from textlora import models, rehearsal
from textlora.rehearsal import LiveBytes, Seen, Specification, rehearse
from textlora.types import Rehearsal


@pytest.fixture
def specification(tmp_path) -> Specification:
    info = models.base_info(str(write_model(tmp_path / "model", "distilbert")))
    return Specification(
        folder=str(info.folder), classes=2, device="cpu", precision="fp32", attention="eager",
        prediction_attention="eager", packed=True, adapted=True, r=4, target_modules=info.linear_names,
        budget=256, max_length=64,
    )  # fmt: skip


def test_a_rehearsal_measures_once_and_is_remembered(tmp_path, specification, monkeypatch):
    monkeypatch.setattr(rehearsal, "DISTURBED_SHARE", 1.0)  # however busy the machine is that tests this
    found = rehearse(specification, cache=tmp_path / "cache")
    assert isinstance(found, Rehearsal)
    assert found.train.token_seconds + found.train.pair_seconds + found.train.pass_seconds > 0
    assert found.runtime_bytes > 100e6
    assert found.kept_token_bytes > 0
    assert found.import_seconds > 0.1
    assert not found.disturbed
    (file,) = (tmp_path / "cache").iterdir()
    known = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**known, "runtime_bytes": 1.0}), encoding="utf-8")
    assert rehearse(specification, cache=tmp_path / "cache").runtime_bytes == 1.0


def test_times_from_a_busy_machine_are_used_but_not_remembered(tmp_path, specification, monkeypatch):
    monkeypatch.setattr(rehearsal, "DISTURBED_SHARE", -1.0)  # so that any machine counts as busy
    assert rehearse(specification, cache=tmp_path / "cache").disturbed
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("share", "seconds"), [(0.0, 3.0), (0.9, 1.0)])
def test_the_median_pass_counts_and_beside_other_work_the_fastest(monkeypatch, share, seconds):
    stage = object.__new__(rehearsal.Stage)
    times = iter([9.0, 1.0, 5.0, 3.0, 2.0, 3.0])  # the first builds the kernels
    monkeypatch.setattr(stage, "_run", lambda mode, lengths: next(times), raising=False)
    monkeypatch.setattr(rehearsal, "OthersShare", lambda: lambda: share)
    monkeypatch.setattr(rehearsal, "LEAST_ROUNDS", 5)
    monkeypatch.setattr(rehearsal, "MOST_ROUNDS", 5)
    (found,) = stage._timed("train", [(8, 8)])
    assert found["seconds"] == seconds


def test_others_have_a_share_of_the_processor():
    others = rehearsal.OthersShare()
    assert 0 <= others() <= 1


def test_a_rehearsal_that_fails_leaves_the_plan_to_rough_figures(specification):
    assert rehearse(replace(specification, target_modules=("no such layer",))) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"runtime_bytes": "much"}'])
def test_a_damaged_file_counts_as_none(tmp_path, text):
    path = tmp_path / "rehearsal.json"
    path.write_text(text, encoding="utf-8")
    assert rehearsal._read(path) is None


def test_live_bytes_are_those_of_the_tensors_that_are_held():
    with LiveBytes() as live:
        first = torch.ones(1000)
        second = first * 2  # a view of first would count nothing
        view = second[:10]
        assert live.now == 8000
        del first
        assert live.now == 4000
        del second
        assert live.now == 4000
        del view
    assert (live.now, live.peak) == (0, 8000)


def test_costs_are_found_again_from_three_passes():
    work = [
        {"tokens": 3000.0, "pairs": 96_000.0},
        {"tokens": 3000.0, "pairs": 1.5e6},
        {"tokens": 700.0, "pairs": 22_400.0},
    ]
    passes = [{**each, "seconds": 0.01 + 2e-5 * each["tokens"] + 1e-8 * each["pairs"]} for each in work]
    assert rehearsal._solve(passes, "seconds") == pytest.approx((0.01, 2e-5, 1e-8), rel=1e-6)


def test_only_shapes_that_were_not_there_before_are_new():
    packed = Seen(packed=True)
    assert packed.new([384, 384]) == (1, 1, 1)  # 768 rows, two texts, each alone in attention
    assert packed.new([384, 256]) == (1, 0, 1)
    assert packed.new([384, 384]) == (0, 0, 0)
    padded = Seen(packed=False)
    assert padded.new([128, 30]) == (1, 1, 1)  # two rows of 128
    assert padded.new([64, 64, 64, 64]) == (0, 1, 1)


def test_the_bytes_of_kernels_are_found_again_from_passes_with_new_shapes():
    seen, found = Seen(packed=True), []
    for number, lengths in enumerate(rehearsal.SHAPES):
        rows, texts, groups = seen.new(lengths)
        found.append((rows, texts, groups, 15e6 * rows + 12e6 * texts + 4e6 * groups + 20e6 * (number == 0)))
    assert rehearsal._kernels(found) == pytest.approx((15e6, 12e6, 4e6, 20e6), rel=1e-6)
